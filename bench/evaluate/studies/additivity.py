"""Damage of several layers rounded together, over the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.cells import HORIZONS
from evaluate.judging import Rolls
from evaluate.methods import BITS, QUANTIZER
from evaluate.subject import Subject
from evaluate.tables import table as markdown_table

SUBSETS = 20  # random halves of the layers


def measure(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """Per horizon and bits: all layers together, and the quartiles over random halves."""
    result: dict[str, Any] = {}
    for horizon in HORIZONS:
        rolls = Rolls(subject.system, list(subject.scored_on), horizon=horizon, seed=seed, quantizer=QUANTIZER)
        layers = rolls.layers
        rng = np.random.default_rng(seed)
        halves = [sorted(rng.choice(len(layers), max(1, len(layers) // 2), replace=False)) for _ in range(SUBSETS)]
        for bits in BITS:
            groups = [[i] for i in range(len(layers))] + [list(range(len(layers)))] + halves
            damage = rolls.damages([{layers[i]: bits for i in group} for group in groups]).mean(axis=1)
            alone = damage[: len(layers)]
            together = [float(damage[len(layers) + 1 + k] / alone[half].sum()) for k, half in enumerate(halves)]
            result[f"{horizon}-{bits}"] = {
                "damage": float(damage[len(layers)]),
                "all": float(damage[len(layers)] / alone.sum()),
                "halves": np.quantile(together, [0.25, 0.5, 0.75]).tolist(),
            }
    return {"layers": len(layers), "ratios": result}


def table(documents: Sequence[dict[str, Any]]) -> str:
    keys = [f"{horizon}-{bits}" for horizon in HORIZONS for bits in BITS]
    columns = ["system", *("horizon {}, {} bits".format(*key.split("-")) for key in keys)]
    rows = [
        [
            document["system"],
            *(
                "{:.2f}; {:.2f} (damage {:.2g})".format(found["all"], found["halves"][1], found["damage"])
                for found in (document["ratios"][key] for key in keys)
            ),
        ]
        for document in documents
    ]
    return "All layers; median of random halves.\n\n" + markdown_table(columns, rows)
