"""The weight matrices [N, K] that the bench multiplies by: any size, two forecasters', the built-in systems'.

The forecasters are stacks of d x d projections and d x 4d feed-forwards of which only the shapes matter: their weights
are random. The built-in systems' are the trained ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

import tqs_fast as tqs
from tqs_fast.quantization.weights import find_weights, parameter_of

FORECASTERS = {"forecaster-200m": 1280, "forecaster-1b": 2048}
SYSTEMS = ("lorenz-gru", "silero-vad", "fracast")


@dataclass(frozen=True)
class Layer:
    """One weight; `read` gives it as float32 [N, K]."""

    name: str
    rows: int
    columns: int
    read: Callable[[], torch.Tensor]

    @property
    def shape(self) -> str:
        return f"{self.rows}x{self.columns}"


def find_layers(spec: str) -> list[Layer]:
    """The layers of `NxK` (random), of a name, or `name:NxK`, one of its layers.

    Raises:
        ValueError: there is no such name or layer.
    """
    if re.fullmatch(r"\d+x\d+", spec):
        return [random_layer(spec, *map(int, spec.split("x")))]
    name, _, shape = spec.partition(":")
    if name in FORECASTERS:
        d = FORECASTERS[name]
        layers = [random_layer(name, *sizes) for sizes in ((d, d), (4 * d, d), (d, 4 * d))]
    elif name in SYSTEMS:
        layers = system_layers(name)
    else:
        raise ValueError(f"[bench_qgemm] expected NxK or one of {[*FORECASTERS, *SYSTEMS]}, got {name!r}")
    chosen = [layer for layer in layers if shape in ("", layer.shape)]
    if not chosen:
        raise ValueError(f"[bench_qgemm] {name} has layers {[layer.shape for layer in layers]}, not {shape!r}")
    return chosen


def random_layer(name: str, rows: int, columns: int) -> Layer:
    """Normal weights that keep the variance of their input."""

    def read() -> torch.Tensor:
        return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / math.sqrt(columns)

    return Layer(name, rows, columns, read)


def system_layers(name: str) -> list[Layer]:
    """One weight of every shape, the largest first."""
    system = tqs.load_system(name)
    found: dict[tuple[int, int], torch.Tensor] = {}
    for weight in find_weights(system.module):
        matrix = parameter_of(system.module, weight).detach().float().flatten(1)
        found.setdefault((matrix.shape[0], matrix.shape[1]), matrix)
    shapes = sorted(found, key=math.prod, reverse=True)
    return [Layer(name, *shape, read=lambda shape=shape: found[shape]) for shape in shapes]  # type: ignore[misc]
