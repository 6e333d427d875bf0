"""Do layers keep their order? Spearman's rank correlation of their damages at 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.cells import SEEDS
from evaluate.statistics import rank_correlation
from evaluate.studies.common import column, scorers, setting, shown
from evaluate.subject import HORIZONS, Subject
from evaluate.tables import table as markdown_table

BITS = 4


def measure(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """Mean over pairs of seeds, at each horizon; between horizons; and of every scorer with the measured damages."""
    measured = {
        horizon: [column(setting(subject, horizon, s, folder).table("residual"), BITS) for s in SEEDS]
        for horizon in HORIZONS
    }
    short, long = (measured[horizon][0] for horizon in HORIZONS)
    return {
        "layers": len(short),
        "seeds": {
            str(horizon): float(np.mean([rank_correlation(a, b) for a, b in combinations(found, 2)]))
            for horizon, found in measured.items()
        },
        "horizons": rank_correlation(short, long),
        "scorers": {
            name: {
                str(horizon): rank_correlation(
                    column(setting(subject, horizon, seed, folder).table(name), BITS), measured[horizon][0]
                )
                for horizon in HORIZONS
            }
            for name in scorers()
            if name != "residual"
        },
    }


def table(documents: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for document in documents for name in document["scorers"]))
    columns = ["system", "layers", *(f"seeds, horizon {h}" for h in HORIZONS), "horizons"]
    columns += [f"{name}, horizon {HORIZONS[0]} / {HORIZONS[1]}" for name in names]
    rows = []
    for document in documents:
        row = [document["system"], str(document["layers"]), *(shown(document["seeds"][str(h)]) for h in HORIZONS)]
        row.append(shown(document["horizons"]))
        for name in names:
            found = document["scorers"].get(name, {})
            row.append(" / ".join(shown(found.get(str(h))) for h in HORIZONS))
        rows.append(row)
    return markdown_table(columns, rows)
