"""The frontier: damage against bytes, with the plan and its rivals."""

from __future__ import annotations

import math

from tqs_fast._table import format_count
from tqs_fast.reporting.charts.axes import Frame, f1, linear, logarithmic
from tqs_fast.reporting.charts.figure import WIDTH, figure
from tqs_fast.reporting.charts.marks import interval, key, labels, mark
from tqs_fast.reporting.evidence import KINDS, Evidence, Point
from tqs_fast.reporting.markup import Markup, element, join
from tqs_fast.reporting.words import damage_text

HEIGHT = 420.0
WORDS = {
    "plan": "this plan",
    "uniform": "uniform bits",
    "rival": "given to the search",
    "searched": "found by the search",
}


def frontier_chart(evidence: Evidence) -> Markup:
    """Predicted damage hollow, measured filled with its interval."""
    points = evidence.points
    every = [*evidence.frontier, *points]
    bounds = [bound for p in points if p.error is not None for bound in p.error.interval]
    x = linear([p.plan.bytes for p in every], 58, WIDTH - 20)
    y = logarithmic([*(p.predicted for p in every), *(p.measured for p in points), *bounds], HEIGHT - 54, 34)
    frame = Frame(x, y)
    parts = [frame.draw("bytes of the planned layers", "damage")]
    line = [(p.plan.bytes, p.predicted) for p in evidence.frontier]
    if line:
        path = "".join(f"{'M' if i == 0 else 'L'}{f1(x(b))} {f1(y(d))}" for i, (b, d) in enumerate(line))
        parts.append(element("path", d=path, class_="quiet"))
        parts += [mark("frontier", x(p.plan.bytes), y(p.predicted), _text(p), filled=False) for p in evidence.frontier]
    for point in reversed(points):
        parts.append(_drawn(frame, point))
    named = [p for p in points if p.kind in ("plan", "uniform") and math.isfinite(p.predicted)]
    parts.append(labels([(x(p.plan.bytes), y(p.predicted), p.name) for p in named], 40, HEIGHT - 60, WIDTH - 20))
    least = damage_text(evidence.frontier[-1].predicted) if evidence.frontier else "unknown"
    return figure(
        "frontier",
        join(*parts),
        height=HEIGHT,
        title="Frontier: damage against bytes",
        description=(
            f"The least predicted damage at each size falls to {least}. {_text(evidence.this)}. "
            "The figures of every mark are in the table below."
        ),
        caption=(
            "The line is the least predicted damage at each size, no layer kept float. Hollow marks are predictions, "
            "the sum of the layers' damages; filled marks were measured by rolling the whole plan out, and bars are "
            "95 % intervals."
        ),
        key=key([kind for kind in KINDS if any(p.kind == kind for p in points)], WORDS),
    )


def _drawn(frame: Frame, point: Point) -> Markup:
    x, text, parts = frame.x(point.plan.bytes), _text(point), []
    if math.isfinite(point.predicted):
        parts.append(mark(point.kind, x, frame.y(point.predicted), text, filled=False))
    if point.error is not None and math.isfinite(point.measured):
        low, high = point.error.interval
        parts.append(interval(point.kind, (x, frame.y(low)), (x, frame.y(high))))
        parts.append(mark(point.kind, x, frame.y(point.measured), text, filled=True))
    return join(*parts)


def _text(point: Point) -> str:
    text = f"{point.name}: {format_count(point.plan.bytes)} bytes, predicted damage {damage_text(point.predicted)}"
    return text if point.error is None else f"{text}, measured {damage_text(point.measured)}"
