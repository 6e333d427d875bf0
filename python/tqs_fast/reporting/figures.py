"""Figures of a report for papers, by matplotlib (an extra): the frontier, and prediction against measurement."""

from __future__ import annotations

import math
from typing import Any

from tqs_fast.reporting.charts.measured import measured_rows
from tqs_fast.reporting.charts.sizes import WORDS
from tqs_fast.reporting.evidence import Evidence
from tqs_fast.scoring.figures import SMALL, draw_curves, draw_heat_map, new_figure

# kind: (colour, marker), the shapes of the page
MARKS = {
    "plan": ("C1", "D"),
    "uniform": ("C0", "s"),
    "rival": ("C4", "^"),
    "searched": ("C2", "v"),
    "evaluation": ("C6", "o"),
}
NAMES = {"evaluation": "this plan, evaluated"} | WORDS


def report_figures(evidence: Evidence) -> dict[str, Any]:
    """A matplotlib Figure for each chart: "curves", "heat_map", "frontier" and, where something was measured,
    "agreement".

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    table = evidence.table
    names = [layer.name for layer in table.layers]
    figures = {"heat_map": new_figure(0.9 + 0.17 * min(len(names), 60))}
    draw_heat_map(figures["heat_map"], names, table.bits, table.damage)
    if table.curve.shape[2] > 1:
        figures["curves"] = new_figure(3.0)
        draw_curves(figures["curves"], names, table.bits, table.damage, table.curve)
    figures["frontier"] = _frontier(evidence)
    if measured_rows(evidence):
        figures["agreement"] = _agreement(evidence)
    return figures


def _frontier(evidence: Evidence) -> Any:
    """Damage against bytes: hollow marks predicted, filled ones measured with 95 % intervals."""
    figure = new_figure(3.4, width=4.6)
    axes = figure.subplots()
    line = evidence.frontier
    axes.plot(
        [p.plan.bytes for p in line],
        [p.predicted for p in line],
        "-",
        color="0.5",
        linewidth=0.8,
        label="least predicted damage",
    )
    for point in reversed(evidence.points):
        colour, marker = MARKS[point.kind]
        if math.isfinite(point.predicted):
            axes.plot(point.plan.bytes, point.predicted, marker, color=colour, markerfacecolor="none", markersize=6)
        if point.error is not None and math.isfinite(point.measured):
            _bar(axes, point.plan.bytes, point.error.damage, point.error.interval, point.kind)
    _finish(axes, "bytes", "damage", [k for k in WORDS if any(p.kind == k for p in evidence.points)])
    axes.set_yscale("log")
    return figure


def _agreement(evidence: Evidence) -> Any:
    """Measured against predicted damage, with the diagonal."""
    figure = new_figure(3.6, width=4.6)
    axes = figure.subplots()
    tried = [pair for pair in evidence.history if all(math.isfinite(v) and v > 0 for v in pair)]
    axes.plot([p for p, _ in tried], [m for _, m in tried], "o", color="0.7", markersize=3, markerfacecolor="none")
    rows = [r for r in measured_rows(evidence) if math.isfinite(r[2] + r[3].damage) and min(r[2], r[3].damage) > 0]
    for kind, _, predicted, error in reversed(rows):
        _bar(axes, predicted, error.damage, error.interval, kind)
    values = [value for pair in tried for value in pair] + [v for r in rows for v in (r[2], r[3].damage)]
    if values:
        axes.plot([min(values), max(values)], [min(values), max(values)], "--", color="0.5", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
    _finish(axes, "predicted damage", "measured damage", [k for k in NAMES if any(r[0] == k for r in rows)])
    return figure


def _bar(axes: Any, x: float, y: float, interval: tuple[float, float], kind: str) -> None:
    colour, marker = MARKS[kind]
    reach = [[max(y - interval[0], 0.0)], [max(interval[1] - y, 0.0)]]
    axes.errorbar([x], [y], yerr=reach, fmt=marker, color=colour, markersize=5, linewidth=1)


def _finish(axes: Any, x_label: str, y_label: str, kinds: list[str]) -> None:
    for kind in kinds:
        colour, marker = MARKS[kind]
        axes.plot([], [], marker, color=colour, label=NAMES[kind])
    axes.set_xlabel(x_label, fontsize=SMALL)
    axes.set_ylabel(y_label, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    if kinds:
        axes.legend(fontsize=SMALL, frameon=False)
