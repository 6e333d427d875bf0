"""The rank-1 effect of long horizons: errors of all layers line up, growth rates become alike, gains stay apart."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tqs_fast as tqs
from evaluate.studies.common import Array
from evaluate.subject import Subject
from evaluate.tables import table as markdown_table
from tqs_fast import kernels
from tqs_fast.quantization.weights import find_weights
from tqs_fast.systems import draw

HORIZONS = (16, 32, 64, 128)
LAST = 16  # values, at the end of the horizon, that make up an error's direction
COUNT = 16  # initial conditions


def measure(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """Per horizon: mean and spread over layers of growth rates, spread of log gains, and alignment."""
    initial = type(subject.scored_on[0])(count=COUNT)
    rows = {}
    for horizon in HORIZONS:
        table = tqs.score(subject.system, horizon=horizon, method=tqs.Tangent(probes=2), initial=initial, seed=seed)
        rows[str(horizon)] = {
            "rate_mean": float(np.nanmean(table.growth_rate)),
            "rate_spread": float(np.nanstd(table.growth_rate)),
            "log_gain_spread": float(np.std(np.log(table.gain))),
            "alignment": alignment(subject.system, initial, horizon, seed),
        }
    return {"horizons": rows, "layers": len(table.layers)}


def alignment(system: tqs.System, initial: Any, horizon: int, seed: int) -> float:
    """Share of the energy of all layers' error directions, each of unit length, in their common first direction; mean
    over initial conditions. 1: all errors are parallel; one over the number of layers: all at right angles.
    """
    states = draw(initial, system, horizon=horizon, seed=seed)
    names = [weight.name for weight in find_weights(system.module)]
    path = tqs.rollout(
        system,
        states.state,
        horizon=horizon,
        inputs=states.inputs,
        weight_tangents={name: one_of(names, name, system, seed) for name in names},
    )
    assert path.tangent_outputs is not None
    tail = path.tangent_outputs[-LAST:].double()  # [t, K, N, C]
    errors = tail.permute(2, 1, 0, 3).flatten(2).numpy()  # [N, K, t * C]
    return float(np.mean([first_share(matrix) for matrix in errors]))


def one_of(names: Sequence[str], name: str, system: tqs.System, seed: int) -> torch.Tensor:
    """`[K, ...]`: tangent k moves weight k alone, by as much as the weight is large."""
    weight = system.module.get_parameter(name).detach()
    noise = torch.from_numpy(kernels.normal(weight.numel(), seed=seed, stream=zlib.crc32(name.encode())))
    moved = noise.reshape(weight.shape).to(weight)
    directions = torch.zeros(len(names), *weight.shape, dtype=weight.dtype)
    directions[names.index(name)] = moved * (weight.norm() / moved.norm())
    return directions


def first_share(matrix: Array) -> float:
    """σ_1² / Σ σ_i² of `[K, D]` with rows scaled to unit length; rows of zeros do not count."""
    lengths = np.linalg.norm(matrix, axis=1)
    units = matrix[lengths > 0] / lengths[lengths > 0, None]
    values = np.square(np.linalg.svd(units, compute_uv=False))
    return float(values[0] / values.sum())


def table(documents: Sequence[dict[str, Any]]) -> str:
    columns = ["system", "layers"]
    columns += [f"rate ± spread; spread of log gain; alignment at {horizon}" for horizon in HORIZONS]
    rows = [
        [
            document["system"], str(document["layers"]),
            *(
                "{rate_mean:.3f} ± {rate_spread:.3f}; {log_gain_spread:.2f}; {alignment:.2f}".format(
                    **document["horizons"][str(horizon)]
                )
                for horizon in HORIZONS
            ),
        ]
        for document in documents
    ]  # fmt: skip
    return markdown_table(columns, rows)
