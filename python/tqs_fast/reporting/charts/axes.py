"""Scales, ticks and the frame of a chart, in SVG user units."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tqs_fast._table import format_number
from tqs_fast.reporting.markup import Markup, element, join

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DECADES = 12  # a wider range would flatten everything that matters; what lies below is drawn on the lower edge


@dataclass(frozen=True)
class Scale:
    """A map from values to user units, linear or logarithmic; values outside are drawn on the edge.

    Attributes:
        low, high: the range of values, low < high.
        start, end: where they are drawn.
        logarithmic: equal ratios take equal lengths; values are positive then.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """At most eight (value, label)."""
        if not self.logarithmic:
            return [(value, size_label(value)) for value in _round_values(self.low, self.high)]
        low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if high - low < 2:
            steps = [m * 10.0**e for e in range(low - 1, high + 1) for m in (1, 2, 5)]
            return [(v, format_number(v)) for v in steps if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
        stride = -(-(high - low) // 7)
        return [(10.0**e, f"10{str(e).translate(SUPERSCRIPTS)}") for e in range(low, high + 1, stride)]


def logarithmic(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale around the finite positive values, with room on both sides; at most DECADES wide."""
    shown = [value for value in values if math.isfinite(value) and value > 0]
    low, high = (min(shown), max(shown)) if shown else (1.0, 10.0)
    low = max(low, high * 10.0**-DECADES, 1e-300)
    room = max((high / low) ** 0.05, 1.25)
    return Scale(low / room, min(high * room, 1e300), start, end, True)


def linear(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale around the values, with room on both sides."""
    shown = list(values)
    low, high = min(shown), max(shown)
    room = 0.06 * (high - low) or 0.5 * max(abs(high), 1.0)
    return Scale(max(low - room, 0.0), high + room, start, end)


def size_label(value: float) -> str:
    """A number of things or bytes: 950, 12k, 3.4M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Frame:
    """The rectangle that two scales span: x from left to right, y from bottom to top."""

    x: Scale
    y: Scale

    def draw(self, x_label: str, y_label: str | None) -> Markup:
        """Grid, ticks and the names of both axes; no y axis where `y_label` is None."""
        left, right, top, bottom = self.x.start, self.x.end, self.y.end, self.y.start
        parts = []
        for value, text in self.x.ticks():
            at = self.x(value)
            parts.append(element("line", class_="grid", x1=f1(at), x2=f1(at), y1=f1(top), y2=f1(bottom)))
            parts.append(element("text", text, class_="tick", x=f1(at), y=f1(bottom + 16), text_anchor="middle"))
        for value, text in self.y.ticks() if y_label is not None else ():
            at = self.y(value)
            parts.append(element("line", class_="grid", x1=f1(left), x2=f1(right), y1=f1(at), y2=f1(at)))
            parts.append(element("text", text, class_="tick", x=f1(left - 6), y=f1(at + 4), text_anchor="end"))
        parts.append(
            element("rect", class_="frame", x=f1(left), y=f1(top), width=f1(right - left), height=f1(bottom - top))
        )
        parts.append(
            element("text", x_label, class_="axis", x=f1((left + right) / 2), y=f1(bottom + 34), text_anchor="middle")
        )
        if y_label is not None:
            parts.append(element("text", y_label, class_="axis", x=f1(left - 40), y=f1(top - 10)))
        return join(*parts)


def f1(value: float) -> str:
    """A coordinate: a tenth of a unit is less than a pixel, and shorter files are read faster."""
    return f"{value:.1f}"


def _round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within the range, five to eight of them."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]
