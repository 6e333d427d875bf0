"""Forecasters that see positions: causal ones, whose keys and values can be kept, and others."""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTH, HEADS, CHANNELS = 16, 2, 2


class Layer(nn.Module):
    """Pre-norm attention and feed-forward; `turn` changes queries and keys [N, H, S, D] by their positions."""

    def __init__(self, turn=None, causal=True) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.turn, self.causal = turn, causal

    def forward(self, x):
        count, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(count, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.turn:
            q, k = self.turn(q), self.turn(k)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(seen.transpose(1, 2).reshape(count, length, WIDTH))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


def rotate(x):
    """Rotary positions."""
    size = x.shape[-1]
    frequencies = torch.exp(-math.log(100.0) * torch.arange(0, size, 2, dtype=x.dtype) / size)
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequencies
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Net(nn.Module):
    def __init__(self, block, layers, *, table=0, pooled=False, centred=False) -> None:
        super().__init__()
        self.block, self.pooled, self.centred = block, pooled, centred
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.table = nn.Parameter(torch.randn(table, WIDTH)) if table else None
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, block * CHANNELS)

    def forward(self, window):
        x = window - window.mean(dim=1, keepdim=True) if self.centred else window
        x = self.embed(x)
        if self.table is not None:
            x = x + self.table[: window.shape[1]]
        for layer in self.layers:
            x = layer(x)
        x = x.mean(dim=1) if self.pooled else x[:, -1]
        return self.head(x).view(-1, self.block, CHANNELS) * 0.5 + 0.5 * window[:, -1:]


def rotary(block):
    return Net(block, [Layer(rotate), Layer(rotate)])


def learned_positions(block):
    return Net(block, [Layer(), Layer()], table=32)


def one_layer(block):
    return Net(block, [Layer(rotate)])


def attends_to_all(block):
    return Net(block, [Layer(causal=False), Layer(causal=False)])


def averages_positions(block):
    return Net(block, [Layer()], pooled=True)


def centres_the_window(block):
    return Net(block, [Layer()], centred=True)


CAUSAL = [rotary, learned_positions, one_layer]
NOT_CAUSAL = [
    (attends_to_all, "attention is not causal"),
    (averages_positions, "runs over all positions"),
    (centres_the_window, "runs over all positions"),
]
