"""Marks and labels: every kind of plan has a shape of its own, hollow for a prediction, filled for a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tqs_fast.reporting.charts.axes import f1
from tqs_fast.reporting.markup import Markup, element, join

# kind: (series, corners as angles in degrees from the top, radius); no corners is a circle.
SHAPES: dict[str, tuple[int, tuple[int, ...], float]] = {
    "plan": (1, (0, 90, 180, 270), 9),
    "uniform": (0, (45, 135, 225, 315), 7),
    "rival": (3, (0, 120, 240), 7),
    "searched": (2, (180, 300, 60), 7),
    "frontier": (0, (), 2.5),
    "evaluation": (5, (), 5),
}
SHAPE_NAMES = {
    "plan": "diamond",
    "uniform": "square",
    "rival": "triangle pointing up",
    "searched": "triangle pointing down",
    "evaluation": "circle",
}
LINE_HEIGHT = 15.0


def mark(kind: str, x: float, y: float, text: str, *, filled: bool) -> Markup:
    """The mark of a kind of plan at (x, y); `text` is its tooltip."""
    series, corners, radius = SHAPES[kind]
    classes = f"mark s{series}" + (" full" if filled else "")
    title = element("title", text)
    if not corners:
        return element("circle", title, class_=classes, cx=f1(x), cy=f1(y), r=f1(radius))
    angles = [math.radians(corner) for corner in corners]
    points = " ".join(f"{f1(x + radius * math.sin(a))},{f1(y - radius * math.cos(a))}" for a in angles)
    return element("polygon", title, class_=classes, points=points)


def interval(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    """A bar from start to end, both (x, y)."""
    series = SHAPES[kind][0]
    return element(
        "line",
        class_=f"curve s{series}",
        x1=f1(start[0]),
        y1=f1(start[1]),
        x2=f1(end[0]),
        y2=f1(end[1]),
    )


def key(kinds: Sequence[str], words: dict[str, str]) -> Markup:
    """A legend in HTML, so that it wraps: the mark of each kind and what it stands for."""
    items = []
    for kind in kinds:
        sample = element(
            "svg",
            mark(kind, 10, 10, words[kind], filled=True),
            view_box="0 0 20 20",
            class_="sample",
            aria_hidden="true",
        )
        items.append(element("li", sample, f" {words[kind]} ({SHAPE_NAMES[kind]})"))
    return element("ul", *items, class_="legend")


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE_HEIGHT) -> list[float]:
    """Positions in the order of `wanted`, at least `gap` apart, within low..high as far as they fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed = list(wanted)
    for before, i in zip([None, *order], order, strict=False):
        placed[i] = max(placed[i], low if before is None else placed[before] + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def labels(points: Sequence[tuple[float, float, str]], low: float, high: float, right: float) -> Markup:
    """Names beside their marks, moved up or down where they would cover each other, with a line to the mark."""
    parts = []
    places = spread([y for _, y, _ in points], low, high)
    for (x, y, text), at in zip(points, places, strict=True):
        leftwards = x > right - 7.0 * len(text) - 16
        side = -1 if leftwards else 1
        if abs(at - y) > 3:
            parts.append(element("line", class_="leader", x1=f1(x), y1=f1(y), x2=f1(x + 12 * side), y2=f1(at)))
        anchor = "end" if leftwards else "start"
        parts.append(element("text", text, x=f1(x + 14 * side), y=f1(at + 4), text_anchor=anchor))
    return join(*parts)
