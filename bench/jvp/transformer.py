"""A causal pre-norm transformer over a sliding window: learned positions and LayerNorm, or rotary ones and RMSNorm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

import tqs_fast as tqs
from jvp.form import Form, Network, directions, seeded

RATE = 0.1  # value' = value + RATE * network(window)
BASE = 10000.0  # of the rotary frequencies
Turn = Callable[[torch.Tensor], torch.Tensor]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool, explicit: bool
) -> torch.Tensor:
    """q [N, H, Q, E], k and v [N, H, S, E], mask [N, 1, Q, S] (True: seen); `explicit` spells the softmax out."""
    if not explicit:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), float("-inf"))
    return scores.softmax(-1) @ v


def normalized(norm: nn.Module, x: torch.Tensor, explicit: bool) -> torch.Tensor:
    """`explicit` spells LayerNorm out: torch.compile of its derivative fails on the module (torch 2.13)."""
    if explicit and isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias
    return norm(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def project(self, x: torch.Tensor, turn: Turn, explicit: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v [N, H, S, E] of x [N, S, D], q and k turned to their positions."""
        qkv = self.qkv(normalized(self.norm1, x, explicit)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return turn(q), turn(k), v

    def finish(self, x: torch.Tensor, attended: torch.Tensor, explicit: bool) -> torch.Tensor:
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(normalized(self.norm2, x, explicit))))

    def forward(
        self, x: torch.Tensor, turn: Turn, mask: torch.Tensor | None, explicit: bool, last_only: bool
    ) -> torch.Tensor:
        q, k, v = self.project(x, turn, explicit)
        if last_only:  # the last query sees every key that the mask allows
            x, q, mask = x[:, -1:], q[:, :, -1:], None if mask is None else mask[:, :, -1:]
        return self.finish(x, attend(q, k, v, mask, mask is None and not last_only, explicit), explicit)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotary positions: pairs (x_i, x_{i + E/2}) turned by `angles`, which broadcast to [N, H, S, E/2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Transformer(nn.Module):
    """Forecasts the next value of a window [N, context, C].

    Args:
        rotary: positions turn queries and keys, and the norms are RMSNorm; else they are learned vectors, and the
            norms are LayerNorm.
    """

    def __init__(
        self, rotary: bool, width: int, heads: int, hidden: int, layers: int, context: int, channels: int
    ) -> None:
        super().__init__()
        norm = nn.RMSNorm if rotary else nn.LayerNorm
        self.rotary = rotary
        self.embed = nn.Linear(channels, width)
        self.positions = None if rotary else nn.Parameter(0.1 * torch.randn(context, width))
        if rotary:
            half = width // heads // 2
            self.register_buffer("frequencies", BASE ** (-torch.arange(half) / half))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, norm) for _ in range(layers))
        self.norm = norm(width)
        self.head = nn.Linear(width, channels)

    def turn(self, positions: torch.Tensor) -> Turn:
        """Turns [N, H, S, E] to `positions`, which broadcast to [N, H, S, 1]."""
        if not self.rotary:
            return lambda x: x
        angles = positions * self.frequencies
        return lambda x: turned(x, angles)

    def read_out(self, value: torch.Tensor, x: torch.Tensor, explicit: bool) -> torch.Tensor:
        return value + RATE * self.head(normalized(self.norm, x, explicit))

    def forward(
        self,
        window: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        explicit: bool = False,
        last_only: bool = False,
    ) -> torch.Tensor:
        x = self.embed(window)
        if self.positions is not None:
            x = x + self.positions
        turn = self.turn(torch.arange(window.shape[1], device=window.device, dtype=window.dtype)[:, None])
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, turn, mask, explicit, last_only and number == len(self.blocks))
        return self.read_out(window[:, -1], x[:, -1], explicit)


def predict(module: nn.Module, window: torch.Tensor, explicit: bool, last_only: bool) -> torch.Tensor:
    output: torch.Tensor = module(window, explicit=explicit, last_only=last_only)
    return output


def transformer(
    tangents: int = 16,
    rotary: bool = False,
    width: int = 256,
    heads: int = 4,
    hidden: int = 1024,
    layers: int = 4,
    context: int = 96,
    channels: int = 8,
    count: int = 1,
    seed: int = 0,
) -> Network:
    """The sliding window. With `rotary` keys and values still cannot be kept from step to step: they depend on values
    that have left the window (`rotary.rotary` is the growing context, where they need not be computed again).
    """
    module = seeded(lambda: Transformer(rotary, width, heads, hidden, layers, context, channels), seed)
    name = "rotary-window" if rotary else "transformer"
    state = torch.randn(count, context, channels, generator=torch.Generator().manual_seed(seed))
    seeds = directions(state, tangents, seed + 1)

    def form(ways: tuple[str, ...], note: str, explicit: bool = False, last_only: bool = False) -> Form:
        forecast = partial(predict, explicit=explicit, last_only=last_only)
        system = tqs.Forecaster(module, context, channels=channels, predict=forecast, name=name)
        jax_step = "trimmed_window" if last_only else "window"
        return Form(system, state, seeds, jax_step, ways, note)

    plain = ("native", "jax jvp", "jax differences", "func rollout", "differences")
    explicit = ("func rollout",)
    trimmed = ("jax jvp", "jax differences", "differences", "compiled differences")
    both = ("func steps", "compiled steps")
    last = "last layer at the last position only"
    return Network(
        name,
        {
            "plain": form(plain, "scaled_dot_product_attention"),
            "explicit": form(explicit, "softmax and norms written out", explicit=True),
            "trimmed": form(trimmed, last, last_only=True),
            "trimmed explicit": form(both, f"{last}, softmax and norms written out", explicit=True, last_only=True),
        },
        counted="trimmed explicit",
    )
