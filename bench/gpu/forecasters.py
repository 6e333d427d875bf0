"""Forecasters of realistic shapes with random weights: causal transformers over patches of one channel."""

from __future__ import annotations

import torch
from torch import nn

import tqs_fast as tqs

PATCH = 32


class Layer(nn.Module):
    """Pre-norm causal attention and a gated feed-forward network of 8/3 the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        hidden = width * 8 // 3 // 64 * 64
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, S, width] to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        h = self.norm_mlp(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class PatchForecaster(nn.Module):
    """A window [N, context, 1] in patches of `PATCH` values to the next value [N, 1]."""

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH, width)
        self.positions = nn.Parameter(torch.randn(context // PATCH, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 1)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        patches = self.embed(window.squeeze(-1).unflatten(1, (-1, PATCH)))
        return self.head(self.norm(self.layers(patches + self.positions)[:, -1]))


def forecaster(
    *,
    width: int,
    layers: int,
    context: int,
    head: int = 64,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tqs.Forecaster:
    """A system with random weights, made where they stay, in float32, then rounded to `dtype`.

    12 `layers` `width`^2 parameters, and little else: 1024 wide and 16 deep are 0.2 billion, 2048 and 20 are 1.0.
    """
    with torch.random.fork_rng(devices=[0] if device == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        module = PatchForecaster(width, layers, width // head, context).eval().to(dtype)
    return tqs.Forecaster(module, context, channels=1, name=f"forecaster-{width}x{layers}")
