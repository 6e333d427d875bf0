"""Artificial series: random walks, seasonal mixtures, Gaussian-process draws, and trends.

Random numbers come from a torch.Generator, arithmetic is numpy float64 on one thread: same seed, same windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[np.float64]]

FEATURES = 96  # random Fourier features per Gaussian-process draw
SEASONS = 3  # sinusoids per seasonal mixture, each with one overtone


def synthetic_windows(
    count: int, context: int, channels: int, *, kinds: tuple[str, ...], generator: torch.Generator
) -> torch.Tensor:
    """Windows `[count, context, channels]` float32, kinds taken in turn, channels independent.

    Every series has mean 0 and standard deviation 1 over its window.
    """
    windows = np.empty((count, context, channels))
    for i in range(count):
        make = _MAKERS[kinds[i % len(kinds)]]
        for c in range(channels):
            series = make(context, generator)
            series = series - series.mean()
            windows[i, :, c] = series / max(float(series.std()), 1e-12)
    return torch.from_numpy(windows.astype(np.float32))


def _normal(size: int, generator: torch.Generator) -> Array:
    return torch.randn(size, generator=generator, dtype=torch.float64).numpy()


def _uniform(size: int, generator: torch.Generator) -> Array:
    return torch.rand(size, generator=generator, dtype=torch.float64).numpy()


def _random_walk(length: int, generator: torch.Generator) -> Array:
    walk: Array = np.cumsum(_normal(length, generator))
    return walk


def _seasonal(length: int, generator: torch.Generator) -> Array:
    """Sinusoids with overtones, periods log-uniform between 4 values and a third of the window, a trend, noise."""
    t = np.arange(length, dtype=np.float64)
    shortest, longest = 4.0, max(8.0, length / 3)
    periods = shortest * (longest / shortest) ** _uniform(SEASONS, generator)
    phases = 2 * np.pi * _uniform(2 * SEASONS, generator)
    amplitudes = np.abs(_normal(2 * SEASONS, generator))
    series = np.zeros(length)
    for k in range(SEASONS):
        series += amplitudes[2 * k] * np.sin(2 * np.pi * t / periods[k] + phases[2 * k])
        series += 0.4 * amplitudes[2 * k + 1] * np.sin(4 * np.pi * t / periods[k] + phases[2 * k + 1])
    slope = float(_normal(1, generator)[0])
    noise = 0.3 * float(_uniform(1, generator)[0])
    return series + slope * t / length + noise * _normal(length, generator)


def _gaussian_process(length: int, generator: torch.Generator) -> Array:
    """A draw with a squared-exponential kernel by random Fourier features (Rahimi and Recht, 2007).

    The length scale is log-uniform between 1/128 and 1/4 of the window.
    """
    t = np.arange(length, dtype=np.float64)
    scale = max(1.0, length / 128 * 32 ** float(_uniform(1, generator)[0]))
    frequencies = _normal(FEATURES, generator) / scale
    phases = 2 * np.pi * _uniform(FEATURES, generator)
    weights = _normal(FEATURES, generator)
    series = np.zeros(length)
    for frequency, phase, weight in zip(frequencies, phases, weights, strict=True):
        series += weight * np.cos(frequency * t + phase)
    return series


def _trend(length: int, generator: torch.Generator) -> Array:
    """A bent line that dwarfs what rides on it: a seasonal mixture of 2 to 20 % of its spread (log-uniform)."""
    t = np.linspace(0.0, 1.0, length)
    slope, bend = 1 + float(_uniform(1, generator)[0]), float(_uniform(1, generator)[0])
    line: Array = np.sign(_normal(1, generator)) * (slope * t + bend * t**2)
    share = 0.02 * 10 ** float(_uniform(1, generator)[0])
    rider = _seasonal(length, generator)
    line += share * float(line.std()) * (rider - rider.mean()) / max(float(rider.std()), 1e-12)
    return line


_MAKERS: dict[str, Callable[[int, torch.Generator], Array]] = {
    "random_walk": _random_walk,
    "seasonal": _seasonal,
    "gaussian_process": _gaussian_process,
    "trend": _trend,
}
KINDS = tuple(_MAKERS)
