"""What was measured: intervals of the plan and its rivals in a column, and prediction against measurement."""

from __future__ import annotations

import math

from tqs_fast.reporting.charts.axes import Frame, Scale, f1, logarithmic
from tqs_fast.reporting.charts.figure import WIDTH, figure
from tqs_fast.reporting.charts.marks import interval, key, mark
from tqs_fast.reporting.charts.sizes import WORDS
from tqs_fast.reporting.evidence import KINDS, THIS_PLAN, Evidence
from tqs_fast.reporting.markup import Markup, element, join
from tqs_fast.reporting.words import damage_text
from tqs_fast.scoring import RolloutError

ROW = 26.0
NAMES = 190.0  # width of the column of names
LONGEST = 27  # characters that fit into it
SIDE = 460.0

Row = tuple[str, str, float, RolloutError]  # kind, name, predicted, measured


def measured_rows(evidence: Evidence) -> list[Row]:
    """Everything that was rolled out: the plan on every evaluation, then the search's candidates by damage."""
    this = evidence.this
    rows: list[Row] = [
        ("evaluation", f"{THIS_PLAN}, {name}", this.predicted, error) for name, error in evidence.evaluations.items()
    ]
    decided = sorted(evidence.measured, key=lambda point: point.measured)
    return rows + [(p.kind, p.name, p.predicted, p.error) for p in decided if p.error is not None]


def intervals_chart(evidence: Evidence) -> Markup:
    """One line for each measurement: filled mark and bar measured, hollow mark predicted."""
    rows = measured_rows(evidence)
    values = [value for _, _, predicted, error in rows for value in (predicted, error.damage, *error.interval)]
    height = 64 + ROW * len(rows)
    frame = Frame(logarithmic(values, NAMES, WIDTH - 20), Scale(0, len(rows), height - 40, 24))
    parts = [frame.draw("damage", None)]
    for i, (kind, name, predicted, error) in enumerate(rows):
        y = 24 + ROW * (i + 0.5)
        text = f"{name}: measured {damage_text(error.damage)}, predicted {damage_text(predicted)}"
        shown = name if len(name) <= LONGEST else f"{name[: LONGEST - 10]}…{name[-9:]}"
        weight = "600" if name.startswith(THIS_PLAN) else None
        label = element(
            "text", element("title", text), shown, x=f1(NAMES - 8), y=f1(y + 4), text_anchor="end", font_weight=weight
        )
        parts.append(label)
        if math.isfinite(predicted):
            parts.append(mark(kind, frame.x(predicted), y, text, filled=False))
        if not math.isfinite(error.damage):
            parts.append(element("text", "diverged", x=f1(WIDTH - 24), y=f1(y + 4), text_anchor="end"))
            continue
        low, high = (frame.x(bound) for bound in error.interval)
        parts.append(interval(kind, (low, y), (high, y)))
        parts.append(mark(kind, frame.x(error.damage), y, text, filled=True))
    best = min(rows, key=lambda row: row[3].damage)
    kinds = [kind for kind in ("evaluation", *KINDS) if any(row[0] == kind for row in rows)]
    return figure(
        "intervals",
        join(*parts),
        height=height,
        title="Measured damage with 95 % intervals",
        description=(
            f"{len(rows)} measurements; the least is {damage_text(best[3].damage)} of {best[1]}. The figures are in "
            "the table below."
        ),
        caption="Filled marks with bars were measured; hollow marks of the same shape are the predictions.",
        key=key(kinds, {"evaluation": "this plan, evaluated"} | WORDS),
    )


def agreement_chart(evidence: Evidence) -> Markup:
    """Measured against predicted damage, of every plan rolled out; on the diagonal both are equal."""
    rows = measured_rows(evidence)
    pairs = [*evidence.history, *((predicted, error.damage) for _, _, predicted, error in rows)]
    shown = [pair for pair in pairs if all(map(math.isfinite, pair))]
    values = [value for pair in shown for value in pair]
    values += [bound for _, _, predicted, error in rows if math.isfinite(predicted) for bound in error.interval]
    left, top = 130.0, 34.0
    x = logarithmic(values, left, left + SIDE)
    y = logarithmic(values, top + SIDE - 60, top)
    parts = [
        Frame(x, y).draw("predicted damage", "measured damage"),
        element(
            "line", class_="frame", stroke_dasharray="4 4", x1=f1(x.start), y1=f1(y.start), x2=f1(x.end), y2=f1(y.end)
        ),
    ]
    for predicted, measured in evidence.history:
        if math.isfinite(predicted) and math.isfinite(measured):
            parts.append(element("circle", class_="quiet", cx=f1(x(predicted)), cy=f1(y(measured)), r="3.5"))
    for kind, name, predicted, error in reversed(rows):
        if math.isfinite(predicted) and math.isfinite(error.damage):
            low, high = (y(bound) for bound in error.interval)
            at, text = x(predicted), f"{name}: predicted {damage_text(predicted)}, measured {damage_text(error.damage)}"
            parts += [interval(kind, (at, low), (at, high)), mark(kind, at, y(error.damage), text, filled=True)]
    above = sum(measured > predicted for predicted, measured in shown)
    kinds = [kind for kind in ("evaluation", *KINDS) if any(row[0] == kind for row in rows)]
    left_out = len(pairs) - len(shown)
    searched = (
        f" Small circles are the {len(evidence.history)} plans measured while searching." if evidence.history else ""
    )
    return figure(
        "agreement",
        join(*parts),
        height=top + SIDE - 20,
        title="Predicted against measured damage",
        description=f"{above} of {len(shown)} measurements lie above the diagonal: more damage than predicted.",
        caption=(
            "On the dashed diagonal the sum of the layers' damages is what the whole plan does."
            + searched
            + (f" {left_out} measurements are not drawn: diverged, or not predicted." if left_out else "")
        ),
        key=key(kinds, {"evaluation": "this plan, evaluated"} | WORDS),
    )
