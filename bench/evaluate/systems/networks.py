"""Forecasters that are trained here, beside the transformer and the selective scan of bench/jvp.

Each predicts the increment of the last value, so that an untrained network holds it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Convolutions(nn.Module):
    """A temporal convolution network (arXiv:1803.01271): dilated causal convolutions with residuals.

    The window is as long as the last position sees: 1 + 2 · (2^levels - 1) values.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(channels, width, 1)
        self.levels = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**level) for level in range(levels))
        self.mixes = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(levels))
        self.outlet = nn.Linear(width, channels)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """`window` [N, context, C] -> [N, C]."""
        x = self.inlet(window.transpose(1, 2))
        for level, mix in zip(self.levels, self.mixes, strict=True):
            y = functional.gelu(level(functional.pad(x, (2 * level.dilation[0], 0))))
            x = x + mix(y)
        return window[:, -1] + self.outlet(x[..., -1])


class Mixer(nn.Module):
    """Patches of a window mixed along time and along features in turn (arXiv:2105.01601, for series arXiv:2303.06053);
    it forecasts a patch at a time.
    """

    def __init__(self, channels: int, context: int, patch: int, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        tokens = context // patch
        self.patch, self.channels = patch, channels
        self.embed = nn.Linear(patch * channels, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.times = nn.ModuleList(
            nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, tokens)) for _ in range(layers)
        )
        self.features = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in range(layers)
        )
        self.head = nn.Linear(tokens * width, patch * channels)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """`window` [N, context, C] -> [N, patch, C]."""
        x = self.embed(window.reshape(window.shape[0], -1, self.patch * self.channels))
        for layer, (time, feature) in enumerate(zip(self.times, self.features, strict=True)):
            x = x + time(self.norms[2 * layer](x).transpose(1, 2)).transpose(1, 2)
            x = x + feature(self.norms[2 * layer + 1](x))
        return window[:, -1:] + self.head(x.flatten(1)).reshape(-1, self.patch, self.channels)


class LongShortTerm(nn.Module):
    """Two LSTM cells, one above the other, that carry their state from value to value."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.encoder = nn.Linear(channels, width)
        self.lower = nn.LSTMCell(width, width)
        self.upper = nn.LSTMCell(width, width)
        self.head = nn.Linear(width, width)
        self.outlet = nn.Linear(width, channels)

    def forward(self, value: torch.Tensor, memory: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """`value` [N, C] and four memories [N, width], one value later."""
        lower = self.lower(self.encoder(value), memory[:2])
        upper = self.upper(lower[0], memory[2:])
        increment = self.outlet(functional.silu(self.head(upper[0])))
        return value + increment, *lower, *upper

    def empty(self, count: int) -> tuple[torch.Tensor, ...]:
        """Memories before anything was seen."""
        return tuple(torch.zeros(count, self.width) for _ in range(4))
