"""All cells of a folder as one document: figures per method and judge, and every comparison with its interval.

Rules, fixed before any cell was looked at:

- A comparison of two methods in a cell is the geometric mean over the judges of the ratio of their mean damages, with a
  95 % interval from initial conditions drawn anew within each judge, in pairs. The cell is won where the whole interval
  is below 1, lost where it is above, else tied.
- The best rival of a cell is the one of least damage in that cell, chosen in hindsight: nobody could know it before.
- A cell lies beyond saturation where the geometric mean over judges of uniform's damage is 1 or more: half of what two
  unrelated trajectories have. Such cells are marked, and counted apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.cells import RULES
from evaluate.statistics import Ratio, ratio

SATURATED = 1.0
BASELINE = "uniform"
Document = dict[str, Any]


def read_cells(folder: Path) -> list[Document]:
    """Every finished cell, by system, horizon, size and seed."""
    cells = [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*/*.json"))]
    cells = [cell for cell in cells if cell["identity"]["rules"] == RULES]
    return sorted(cells, key=lambda cell: tuple(cell["cell"].values()))


def condense(cells: Sequence[Document], rivals: Sequence[str]) -> Document:
    """The comparisons of all cells, in JSON values; nothing else is needed to write tables.

    Args:
        rivals: names of the methods that people use today.
    """
    rows = [condense_cell(cell, rivals) for cell in cells]
    machines = {json.dumps(cell["machine"] | {"date": ""}, sort_keys=True): cell["machine"] for cell in cells}
    dates = sorted({cell["machine"]["date"] for cell in cells})
    return {
        "rules": RULES,
        "machines": [machine | {"date": f"{dates[0]} to {dates[-1]}"} for machine in machines.values()],
        "rivals": list(rivals),
        "cells": rows,
    }


def condense_cell(cell: Document, rivals: Sequence[str]) -> Document:
    """One cell: damages, errors against the truth, and comparisons."""
    damage = {method: damage_of(cell, method) for method in cell["methods"]}
    level = geometric_mean([samples.mean() for samples in damage[BASELINE].values()])
    present = [name for name in rivals if name in damage]
    best = min(present, key=lambda name: ratio(damage[name], damage[BASELINE]).value) if present else None
    references = {BASELINE: BASELINE, "uniform-filled": "uniform-filled"}
    if best is not None:
        references["best rival"] = best
    return {
        **cell["cell"],
        "layers": cell["layers"],
        "parameters": cell["parameters"],
        "engine": cell["engine"],
        "saturated": not level < SATURATED,
        "uniform_damage": number(level),
        "best_rival": best,
        "budget_bytes": cell["budget_bytes"],
        "methods": {
            name: {
                "bytes": entry["bytes"],
                "predicted": entry["predicted"],
                "score": entry.get("score"),
                "search": entry.get("search"),
                "damage": {judge: number(samples.mean()) for judge, samples in damage[name].items()},
                "truth": truth_of(cell, name),
            }
            for name, entry in cell["methods"].items()
        },
        "float_truth": truth_of(cell, "float"),
        "comparisons": {
            name: {
                reference: as_json(ratio(damage[name], damage[other]))
                for reference, other in references.items()
                if other in damage
            }
            for name in damage
        },
        "by_judge": {
            name: {
                judge: as_json(ratio({judge: samples}, {judge: damage[BASELINE][judge]}))
                for judge, samples in damage[name].items()
            }
            for name in damage
        },
    }


def damage_of(cell: Document, method: str) -> dict[str, np.ndarray]:
    """Damage per initial condition of every judge."""
    return {name: np.array(judge["damage"][method], dtype=float) for name, judge in cell["judges"].items()}


def truth_of(cell: Document, method: str) -> Document:
    """Means over initial conditions of each judge with a truth: error, scaled error, valid Lyapunov times (None where
    the flow is not chaotic).
    """
    result = {}
    for name, judge in cell["judges"].items():
        if "mae" not in judge:
            continue
        error = float(np.mean(np.array(judge["mae"][method], dtype=float)))
        valid = float(np.mean(judge["valid"][method]))
        result[name] = {
            "mae": number(error),
            "mase": number(error / judge["naive"]),
            "valid_lyapunov_times": None if cell["lyapunov"] is None else valid * cell["lyapunov"],
        }
    return result


def as_json(found: Ratio) -> list[float | str | None]:
    """[ratio, low, high]; `as_ratio` reads it."""
    return [number(found.value), number(found.low), number(found.high)]


def as_ratio(stored: Sequence[float | str | None]) -> Ratio:
    """What `as_json` wrote, with its verdict."""
    return Ratio(*(float("nan") if value is None else float(value) for value in stored))


def number(value: float) -> float | str | None:
    """Five digits; infinity is "inf", NaN None."""
    if math.isnan(value):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else "inf"


def geometric_mean(values: Sequence[float]) -> float:
    """Of numbers >= 0."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(np.asarray(values, dtype=float)))))


def counts(verdicts: Sequence[str]) -> Mapping[str, int]:
    """How many of each."""
    return {verdict: verdicts.count(verdict) for verdict in ("win", "tie", "loss")}
