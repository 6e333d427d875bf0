"""Line scans as a matplotlib figure (an extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tqs_fast.recovery.scan import FloatArray, LineScan
from tqs_fast.scoring.figures import APART, DASHES, SMALL, new_figure


def basin_figure(positions: FloatArray, layers: Sequence[LineScan], whole: LineScan) -> Any:
    """Damage over a on a logarithmic axis: the worst layers apart, the others thin and grey, all together in black.

    Args:
        positions: `[A]`, the values of a; the first is 0.
        layers: one scan per layer.
        whole: the scan of all of them together.
    """
    figure = new_figure(3.6, width=5.5)
    axes = figure.subplots()
    a = positions[1:]
    worst = sorted(layers, key=lambda scan: -scan.at_rounded)
    for place, scan in enumerate(worst):
        values = np.where(np.isfinite(scan.damage[1:]) & (scan.damage[1:] > 0), scan.damage[1:], np.nan)
        if place < APART:
            label = f"{scan.name} ({scan.verdict})".replace("$", r"\$")
            axes.plot(a, values, color=f"C{place}", linestyle=DASHES[place], linewidth=1.2, label=label)
        else:
            axes.plot(a, values, color="0.7", linewidth=0.5)
    values = np.where(np.isfinite(whole.damage[1:]) & (whole.damage[1:] > 0), whole.damage[1:], np.nan)
    axes.plot(a, values, color="black", linewidth=1.6, label=f"{whole.name} ({whole.verdict})")
    axes.plot(a, whole.quadratic * a**2, color="black", linewidth=0.8, linestyle=":", label="its quadratic")
    axes.axvline(1.0, color="0.5", linewidth=0.6)
    axes.axhline(whole.tolerance, color="0.5", linewidth=0.6)
    axes.set_yscale("log")
    axes.set_xlabel("a: 0 float weights, 1 rounded", fontsize=SMALL)
    axes.set_ylabel("damage", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.legend(fontsize=SMALL - 1, frameon=False)
    return figure
