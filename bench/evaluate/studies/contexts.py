"""Plans from self-generated initial conditions against plans from real ones, both judged on other real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqs_fast as tqs
from evaluate.cells import HORIZONS, JUDGE_SEED, size
from evaluate.judging import Rolls
from evaluate.statistics import rank_correlation, ratio
from evaluate.studies.common import column, residual, setting, shown
from evaluate.subject import Subject
from evaluate.tables import table as markdown_table

CONTEXT_SEED = 2000  # neither scoring's nor judging's
AVERAGE_BITS = (3.0, 4.0)


def measure(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """Per real family: rank correlation of layers, and damage of the one plan over that of the other."""
    horizon = HORIZONS[0]
    own = setting(subject, horizon, seed, folder).table("residual")
    judged = {judge.name: judge for judge in subject.judges(JUDGE_SEED + seed, horizon)}
    families = {}
    for known in subject.judges(CONTEXT_SEED + seed, horizon):
        if not isinstance(known.initial, tqs.Contexts):
            continue
        real = residual(subject, [known.initial], horizon, seed)
        rolls = Rolls(subject.system, judged[known.name].initial, horizon=horizon, seed=seed, quantizer=own.quantizer)
        found: dict[str, Any] = {"rank_correlation": rank_correlation(column(own, 4), column(real, 4))}
        for bits in AVERAGE_BITS:
            budget = size(own, bits)
            plans = [tqs.allocate(table, bytes=budget).bits for table in (own, real)]
            damages = rolls.damages(plans)
            compared = ratio({known.name: damages[0]}, {known.name: damages[1]})
            found[f"{bits:g}"] = [compared.value, compared.low, compared.high]
        families[known.name] = found
    return {"horizon": horizon, "families": families}


def table(documents: Sequence[dict[str, Any]]) -> str:
    columns = ["system", "real contexts", "rank correlation of layers, 4 bits"]
    columns += [f"self-generated over real, {bits:g} bits" for bits in AVERAGE_BITS]
    rows = []
    for document in documents:
        for family, found in document["families"].items():
            ratios = ("{:.2f} ({:.2f} to {:.2f})".format(*found[f"{bits:g}"]) for bits in AVERAGE_BITS)
            rows.append([document["system"], family, shown(found["rank_correlation"]), *ratios])
    return markdown_table(columns, rows)
