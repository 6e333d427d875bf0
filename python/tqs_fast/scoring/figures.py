"""Figures of a sensitivity table for papers, by matplotlib (an extra); figures of their own, never pyplot's state."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.errors import ArgumentError

FloatArray = npt.NDArray[np.float64]

WIDTH = 7.0  # inches: both columns of a paper
SMALL = 8  # points, the size of a caption
APART = 6  # layers drawn in colours and dashes of their own
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (8, 3, 1, 3, 1, 3)))
FIGURED = 40  # layers up to which every cell of the heat map holds its figure


def new_figure(height: float, *, width: float = WIDTH) -> Any:
    """An empty `matplotlib.figure.Figure`, sizes in inches.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    try:
        figure = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ArgumentError(
            "[plot] expected matplotlib to be installed, got none; install the extra: pip install 'tqs-fast[plots]'"
        ) from error
    return figure.Figure(figsize=(width, height), layout="constrained")


def most_damaging(damage: FloatArray) -> list[int]:
    """Layers by the mean over bit-widths of their damage `[L, B]` relative to the worst finite one; diverged first."""
    finite = np.where(np.isfinite(damage), damage, 0.0)
    worst = finite.max(axis=0)
    share = np.where(np.isfinite(damage), finite / np.where(worst > 0, worst, 1.0), 2.0)
    return [int(i) for i in np.argsort(-share.mean(axis=1), kind="stable")]


def table_figure(layers: Sequence[str], bits: Sequence[int], damage: FloatArray, curve: FloatArray) -> Any:
    """Error curves, one panel for each bit-width, over the heat map of layer x bits; a matplotlib Figure.

    Args:
        layers: L names.
        bits: B bit-widths.
        damage: `[L, B]`; infinite where rollouts diverged.
        curve: `[L, B, T]`, mse_t.
    """
    low = 0.9 + 0.17 * min(len(layers), 60)
    figure = new_figure(3.2 + low)
    above, below = figure.subfigures(2, 1, height_ratios=(3.2, low))
    draw_curves(above, layers, bits, damage, curve)
    draw_heat_map(below, layers, bits, damage)
    return figure


def draw_curves(figure: Any, layers: Sequence[str], bits: Sequence[int], damage: FloatArray, curve: FloatArray) -> None:
    """mse_t of every layer on a logarithmic axis; the most damaging layers apart, the others thin and grey."""
    panels = figure.subplots(1, len(bits), sharex=True, sharey=True, squeeze=False)[0]
    steps = np.arange(1, curve.shape[2] + 1)
    first = most_damaging(damage)[:APART]
    curves = np.where(np.isfinite(curve) & (curve > 0), curve, np.nan)
    for j, (axes, width) in enumerate(zip(panels, bits, strict=True)):
        for i in range(len(layers)):
            if i not in first:
                axes.plot(steps, curves[i, j], color="0.7", linewidth=0.5)
        for k, i in enumerate(first):
            axes.plot(steps, curves[i, j], color=f"C{k}", linestyle=DASHES[k], linewidth=1.2, label=plain(layers[i]))
        axes.set_title(f"{width} bits", fontsize=SMALL)
        axes.set_xlabel("value of the rollout", fontsize=SMALL)
        axes.tick_params(labelsize=SMALL)
        if np.isfinite(curves).any():
            axes.set_yscale("log")
    panels[0].set_ylabel("scaled squared error", fontsize=SMALL)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)


def draw_heat_map(figure: Any, layers: Sequence[str], bits: Sequence[int], damage: FloatArray) -> None:
    """Damage of layer x bits, coloured by its logarithm; what diverged is hatched."""
    axes = figure.subplots()
    levels = np.log10(np.where(np.isfinite(damage) & (damage > 0), damage, np.nan))
    image = axes.imshow(levels, aspect="auto", cmap="cividis", interpolation="none")
    axes.set_xticks(range(len(bits)), [f"{width} bits" for width in bits], fontsize=SMALL)
    if len(layers) <= 60:
        axes.set_yticks(range(len(layers)), [plain(name) for name in layers], fontsize=SMALL)
    else:
        axes.set_ylabel("layer, in the order of the table", fontsize=SMALL)
    middle = float(np.nanmean([np.nanmin(levels), np.nanmax(levels)])) if np.isfinite(levels).any() else 0.0
    patches = importlib.import_module("matplotlib.patches")
    for i, j in np.ndindex(*damage.shape):
        value = float(damage[i, j])
        if math.isinf(value):
            axes.add_patch(patches.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", linewidth=0))
        elif len(layers) <= FIGURED:
            bright = value > 0 and math.log10(value) > middle
            text_colour = "black" if bright or value == 0 else "white"
            axes.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=SMALL - 1, color=text_colour)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("log₁₀ damage", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def plain(name: str) -> str:
    """A layer's name with dollars kept from being read as formulas."""
    return name.replace("$", r"\$")
