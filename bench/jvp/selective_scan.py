"""A Mamba-like network: selective state spaces scanned over a short window, one position after the other."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

import tqs_fast as tqs
from jvp.form import Form, Network, directions, seeded

RATE = 0.1  # value' = value + RATE * network(window)
TAPS = 4  # of the depthwise convolution


class Mixer(nn.Module):
    """x -> h_l = exp(dt_l A) h_(l-1) + dt_l B_l x_l, y_l = C_l h_l + D x_l, with dt, B and C computed from x
    (arXiv:2312.00752, section 3), between a gated pair of projections.
    """

    def __init__(self, width: int, inner: int, states: int, rank: int) -> None:
        super().__init__()
        self.rank, self.states = rank, states
        self.norm = nn.RMSNorm(width)
        self.into = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, TAPS, groups=inner, padding=TAPS - 1)
        self.select = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)
        rates = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.step.bias.data = rates + torch.log(-torch.expm1(-rates))  # softplus of it is log-uniform in [0.001, 0.1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, gate = self.into(self.norm(x)).chunk(2, dim=-1)  # [N, L, inner]
        u = self.convolution(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        u = functional.silu(u)
        rank, B, C = self.select(u).split([self.rank, self.states, self.states], dim=-1)
        dt = functional.softplus(self.step(rank))
        decay = torch.exp(dt[..., None] * -torch.exp(self.log_decay))  # [N, L, inner, states]
        drive = (dt * u)[..., None] * B[:, :, None, :]
        h = drive[:, 0]
        outputs = [(h * C[:, 0, None, :]).sum(-1)]
        for position in range(1, x.shape[1]):
            h = decay[:, position] * h + drive[:, position]
            outputs.append((h * C[:, position, None, :]).sum(-1))
        y = torch.stack(outputs, dim=1) + self.skip * u
        return x + self.out(y * functional.silu(gate))


class SelectiveScan(nn.Module):
    def __init__(self, width: int, inner: int, states: int, rank: int, layers: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.mixers = nn.Sequential(*(Mixer(width, inner, states, rank) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, channels)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = self.mixers(self.embed(window))
        return window[:, -1] + RATE * self.head(self.norm(x[:, -1]))


def selective_scan(
    tangents: int = 16,
    width: int = 128,
    inner: int = 256,
    states: int = 16,
    rank: int = 8,
    layers: int = 2,
    context: int = 16,
    channels: int = 8,
    count: int = 1,
    seed: int = 0,
) -> Network:
    module = seeded(lambda: SelectiveScan(width, inner, states, rank, layers, channels), seed)
    system = tqs.Forecaster(module, context, channels=channels, name="selective-scan")
    state = torch.randn(count, context, channels, generator=torch.Generator().manual_seed(seed))
    ways = (
        "native", "jax jvp", "jax differences", "func rollout", "func steps", "compiled steps", "differences",
        "compiled differences",
    )  # fmt: skip
    seeds = directions(state, tangents, seed + 1)
    return Network("selective-scan", {"plain": Form(system, state, seeds, "selective_scan", ways)})
