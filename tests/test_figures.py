"""Figures for papers: what is drawn is the table, divergence is left out, and the extra is named when it is missing."""

from __future__ import annotations

import io
import math
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import reports
import tqs_fast as tqs

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plots")


def rendered(figure):
    """Size of the figure drawn as a PNG, in bytes; warnings are errors here."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    return len(stream.getvalue())


@needs_matplotlib
def test_plot_draws_the_curves_and_the_heat_map():
    table = reports.table(8)
    figure = table.plot()
    assert rendered(figure) > 5000
    curves, heat = figure.subfigs
    for j, axes in enumerate(curves.axes):
        assert axes.get_yscale() == "log"
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        for i, layer in enumerate(table.layers):
            if layer.name in lines:
                np.testing.assert_array_equal(lines[layer.name], table.curve[i, j])
        assert len(axes.lines) == 8
        assert sum(name in lines for name in (layer.name for layer in table.layers)) == 6
    image = heat.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), np.log10(table.damage))


@needs_matplotlib
@pytest.mark.parametrize("count", [1, 80])
def test_divergence_zeros_and_many_layers_are_drawn(count):
    lost = [(0, j) for j in range(4)]
    names = [f"$x_{i}^$ & <b>" for i in range(count)]
    table = reports.table(
        count, names=names, diverged=lost if count == 1 else lost[:1], zero=[(count - 1, 3)][: count - 1]
    )
    assert rendered(table.plot()) > 3000


@needs_matplotlib
def test_a_report_has_a_figure_for_each_chart():
    report = reports.full()
    figures = report.figures()
    assert set(figures) == {"curves", "heat_map", "frontier", "agreement"}
    assert all(rendered(figure) > 3000 for figure in figures.values())
    plan = tqs.Report(report.table, report.plan)
    assert set(plan.figures()) == {"curves", "heat_map", "frontier"}
    line = figures["frontier"].axes[0].lines[0]
    expected = tqs.frontier(report.table)
    assert list(line.get_xdata()) == [p.bytes for p in expected]
    assert list(line.get_ydata()) == [p.predicted_damage for p in expected]


@needs_matplotlib
def test_a_report_of_diverged_rollouts_can_be_drawn():
    table = reports.table(3, horizon=1, diverged=[(i, j) for i in range(3) for j in range(4)])
    figures = tqs.Report(table, reports.uniform(table, 4), evaluation=reports.error(math.inf)).figures()
    assert set(figures) == {"heat_map", "frontier", "agreement"}
    assert all(rendered(figure) > 1000 for figure in figures.values())


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(tqs.ArgumentError, match=r"tqs-fast\[plots\]"):
        reports.table(2).plot()
