"""The tables of a report page: the figures behind every chart, and the heat map, which is a table itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tqs_fast._table import Table, format_count, format_number
from tqs_fast.reporting.charts.measured import measured_rows
from tqs_fast.reporting.evidence import Evidence
from tqs_fast.reporting.markup import Markup, element
from tqs_fast.reporting.palette import LIGHT
from tqs_fast.reporting.words import damage_text, interval_text, ratio_text
from tqs_fast.scoring import Sensitivity

Cell = str | tuple[str, str]  # text, or text with a class


def html_table(
    name: str,
    caption: str,
    columns: Sequence[str],
    right: Sequence[bool],
    rows: Sequence[Sequence[Cell]],
    kept: frozenset[int] = frozenset(),
) -> Markup:
    """A table in a box that scrolls, with the keyboard too; the first column names its row."""
    heads = [
        element("th", text, scope="col", class_="number" if flush else None)
        for text, flush in zip(columns, right, strict=True)
    ]
    body = []
    for i, row in enumerate(rows):
        cells = [element("th", _text(row[0]), scope="row")]
        for cell, flush in zip(row[1:], right[1:], strict=True):
            classes = " ".join(filter(None, ("number" if flush else "", "" if isinstance(cell, str) else cell[1])))
            cells.append(element("td", _text(cell), class_=classes or None))
        body.append(element("tr", *cells, class_="kept" if i in kept else None))
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        id=f"{name}-table",
    )
    return element("div", drawn, class_="scroll", role="region", aria_label=f"table: {caption}", tabindex="0")


def folded(summary: str, table: Markup) -> Markup:
    """A table behind a line that opens it."""
    return element("details", element("summary", summary), table)


def heat_map(evidence: Evidence) -> Markup:
    """Layer x bits: the damage as a figure on a background of its level; the plan's choice is ticked."""
    table, plan = evidence.table, evidence.plan
    level = HeatLevels(table)
    rows: list[list[Cell]] = []
    for i, layer in enumerate(table.layers):
        row: list[Cell] = [layer.name, format_count(layer.parameters)]
        for j, bits in enumerate(table.bits):
            planned = plan.bits[layer.name] == bits
            value = float(table.damage[i, j])
            style = f"level h{level(value)}" if math.isfinite(value) else "diverged"
            row.append((("✓ " if planned else "") + damage_text(value), style + (" planned" if planned else "")))
        rows.append([*row, "✓ float" if plan.bits[layer.name] is None else ""])
    columns = ("layer", "weights", *(f"{bits} bits" for bits in table.bits), "kept")
    right = (False, *[True] * (len(table.bits) + 1), False)
    if None not in plan.bits.values():
        columns, right, rows = columns[:-1], right[:-1], [row[:-1] for row in rows]
    return html_table(
        "heat",
        "Damage of rounding one layer alone; the stronger the colour the worse, ✓ is what the plan chose",
        columns,
        right,
        rows,
    )


class HeatLevels:
    """The heat map's level of a damage: equal steps of its logarithm between the least and the largest positive one."""

    def __init__(self, table: Sensitivity) -> None:
        positive = [v for v in table.damage.ravel().tolist() if 0 < v < math.inf]
        self.low, self.high = (math.log(min(positive)), math.log(max(positive))) if positive else (0.0, 0.0)

    def __call__(self, value: float) -> int:
        if value <= 0 or self.high == self.low:
            return 0
        part = (math.log(value) - self.low) / (self.high - self.low)
        return min(int(part * len(LIGHT.heat)), len(LIGHT.heat) - 1)


def curves_table(table: Sensitivity) -> Markup:
    """Scaled squared error of every layer at the first, middle and last value, and its growth, for each bit-width."""
    T = table.curve.shape[2]
    at = sorted({0, T // 2, T - 1})
    columns = ["layer", "growth/step"]
    columns += [f"{bits} bits, value {t + 1}" for bits in table.bits for t in at]
    rows = [
        [
            layer.name,
            format_number(float(table.growth_rate[i])),
            *(damage_text(float(table.curve[i, j, t])) for j in range(len(table.bits)) for t in at),
        ]
        for i, layer in enumerate(table.layers)
    ]
    return html_table(
        "curves",
        "Scaled squared error of every layer, rounded alone",
        columns,
        [False] + [True] * (len(columns) - 1),
        rows,
    )


def frontier_table(evidence: Evidence) -> Markup:
    """The plan, its rivals and the plans of least predicted damage at each size."""
    rows = [
        [
            point.name,
            format_count(point.plan.bytes),
            f"{point.plan.average_bits:.3f}",
            damage_text(point.predicted),
            "–" if point.error is None else damage_text(point.measured),
        ]
        for point in (*evidence.points, *evidence.frontier)
    ]
    columns = ("plan", "bytes", "bits a weight", "predicted damage", "measured damage")
    return html_table(
        "frontier",
        "Plans by size; the frontier holds the least predicted damage at each size",
        columns,
        (False, True, True, True, True),
        rows,
        frozenset((0,)),
    )


def measured_table(evidence: Evidence) -> Markup:
    """Every measurement with its interval, its families and the plan's damage over it."""
    rows, ours = [], evidence.this.error
    measured = measured_rows(evidence)
    for kind, name, predicted, error in measured:
        families = ", ".join(f"{family} {damage_text(value)}" for family, value in error.damage_of_family.items())
        compared = "–" if ours is None or error is ours or kind == "evaluation" else ratio_text(ours, error)
        rows.append([name, damage_text(predicted), damage_text(error.damage), interval_text(error), compared, families])
    columns = ("measurement", "predicted", "measured", "95 % interval", "this plan over it", "families")
    kept = frozenset(i for i, row in enumerate(measured) if row[0] in ("plan", "evaluation"))
    return html_table(
        "measured",
        "Measured damage; ratios pair initial conditions and carry 95 % intervals",
        columns,
        (False, True, True, True, True, False),
        rows,
        kept,
    )


def plan_table(table: Table) -> Markup:
    """The plan's own table."""
    return html_table("plan", table.caption, table.columns, table.right, table.rows)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]
