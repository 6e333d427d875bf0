"""Predicted against measured damage of random plans, measured on initial conditions that scoring never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.cells import HORIZONS, JUDGE_SEED
from evaluate.judging import Rolls
from evaluate.methods import BITS
from evaluate.statistics import rank_correlation
from evaluate.studies.common import column, scorers, setting, shown
from evaluate.subject import Subject
from evaluate.tables import table as markdown_table

PLANS = 50
PREDICTING = ("residual", "adjoint", "noise", "tangent")  # tables whose numbers are damages
SATURATED = 1.0


def measure(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """Per horizon and table: rank correlation, and median of predicted over measured, over plans with every layer's
    bits drawn from the menu; plans beyond saturation are counted, and left out of the second pair of figures.
    """
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {}
    for horizon in HORIZONS:
        tables = setting(subject, horizon, seed, folder)
        quantizer = tables.table("residual").quantizer
        rolls = Rolls(
            subject.system, list(subject.scored_on), horizon=horizon, seed=JUDGE_SEED + seed, quantizer=quantizer
        )
        choices = rng.integers(len(BITS), size=(PLANS, len(rolls.layers)))
        plans = [dict(zip(rolls.layers, (BITS[c] for c in row), strict=True)) for row in choices]
        measured = rolls.damages(plans).mean(axis=1)
        fair = measured < SATURATED
        found = {}
        for name in PREDICTING:
            if name not in scorers():
                continue
            columns = np.stack([column(tables.table(name), bits) for bits in BITS])  # [B, L]
            predicted = columns[choices, np.arange(len(rolls.layers))].sum(axis=1)
            found[name] = {
                "rank_correlation": rank_correlation(predicted, measured),
                "ratio": float(np.median(predicted / measured)),
                "rank_correlation_fair": rank_correlation(predicted[fair], measured[fair]) if fair.sum() > 2 else None,
                "ratio_fair": float(np.median((predicted / measured)[fair])) if fair.any() else None,
            }
        result[str(horizon)] = {"saturated": int((~fair).sum()), "tables": found}
    return {"plans": PLANS, "horizons": result}


def table(documents: Sequence[dict[str, Any]]) -> str:
    columns = ["system", "horizon", "saturated"]
    names = [n for n in PREDICTING if any(n in d["horizons"][str(HORIZONS[0])]["tables"] for d in documents)]
    columns += [f"{name}: rank correlation; predicted / measured" for name in names]
    rows = []
    for document in documents:
        for horizon, found in document["horizons"].items():
            row = [document["system"], horizon, f"{found['saturated']} of {document['plans']}"]
            for name in names:
                entry = found["tables"].get(name)
                row.append(
                    "-"
                    if entry is None
                    else f"{shown(entry['rank_correlation'])} ({shown(entry['rank_correlation_fair'])}); "
                    f"{shown(entry['ratio'])} ({shown(entry['ratio_fair'])})"
                )
            rows.append(row)
    note = "In brackets: without the plans beyond saturation.\n\n"
    return note + markdown_table(columns, rows)
