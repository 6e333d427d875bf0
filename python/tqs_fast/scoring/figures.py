"""Figures of a sensitivity table for papers, by matplotlib (an extra); figures of their own, never pyplot's state."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    from tqs_fast.scoring.sensitivity import Sensitivity

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


def most_damaging(table: Sensitivity) -> list[int]:
    """Layers by the mean over bit-widths of their damage relative to the worst finite one; diverged ones first."""
    finite = np.where(np.isfinite(table.damage), table.damage, 0.0)
    worst = finite.max(axis=0)
    share = np.where(np.isfinite(table.damage), finite / np.where(worst > 0, worst, 1.0), 2.0)
    return [int(i) for i in np.argsort(-share.mean(axis=1), kind="stable")]


def table_figure(table: Sensitivity) -> Any:
    """Error curves, one panel for each bit-width, over the heat map of layer x bits; a matplotlib Figure."""
    shown = min(len(table.layers), 60)
    low = 0.9 + 0.17 * shown
    figure = new_figure(3.2 + low)
    above, below = figure.subfigures(2, 1, height_ratios=(3.2, low))
    draw_curves(above, table)
    draw_heat_map(below, table)
    return figure


def draw_curves(figure: Any, table: Sensitivity) -> None:
    """mse_t of every layer on a logarithmic axis; the most damaging layers apart, the others thin and grey."""
    panels = figure.subplots(1, len(table.bits), sharex=True, sharey=True, squeeze=False)[0]
    steps = np.arange(1, table.curve.shape[2] + 1)
    first = most_damaging(table)[:APART]
    curves = np.where(np.isfinite(table.curve) & (table.curve > 0), table.curve, np.nan)
    for j, (axes, bits) in enumerate(zip(panels, table.bits, strict=True)):
        for i in range(len(table.layers)):
            if i not in first:
                axes.plot(steps, curves[i, j], color="0.7", linewidth=0.5)
        for k, i in enumerate(first):
            axes.plot(steps, curves[i, j], color=f"C{k}", linestyle=DASHES[k], linewidth=1.2, label=plain(table, i))
        axes.set_title(f"{bits} bits", fontsize=SMALL)
        axes.set_xlabel("value of the rollout", fontsize=SMALL)
        axes.tick_params(labelsize=SMALL)
        if np.isfinite(curves).any():
            axes.set_yscale("log")
    panels[0].set_ylabel("scaled squared error", fontsize=SMALL)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)


def draw_heat_map(figure: Any, table: Sensitivity) -> None:
    """Damage of layer x bits, coloured by its logarithm; what diverged is hatched."""
    axes = figure.subplots()
    values = np.where(np.isfinite(table.damage) & (table.damage > 0), table.damage, np.nan)
    levels = np.log10(values)
    image = axes.imshow(levels, aspect="auto", cmap="cividis", interpolation="none")
    axes.set_xticks(range(len(table.bits)), [f"{bits} bits" for bits in table.bits], fontsize=SMALL)
    if len(table.layers) <= 60:
        axes.set_yticks(range(len(table.layers)), [plain(table, i) for i in range(len(table.layers))], fontsize=SMALL)
    else:
        axes.set_ylabel("layer, in the order of the table", fontsize=SMALL)
    middle = float(np.nanmean([np.nanmin(levels), np.nanmax(levels)])) if np.isfinite(levels).any() else 0.0
    patches = importlib.import_module("matplotlib.patches")
    for i, j in np.ndindex(*table.damage.shape):
        value = float(table.damage[i, j])
        if math.isinf(value):
            axes.add_patch(patches.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", linewidth=0))
        elif len(table.layers) <= FIGURED:
            bright = value > 0 and math.log10(value) > middle
            text_colour = "black" if bright or value == 0 else "white"
            axes.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=SMALL - 1, color=text_colour)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("log₁₀ damage", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def plain(table: Sensitivity, index: int) -> str:
    """A layer's name with dollars kept from being read as formulas."""
    return table.layers[index].name.replace("$", r"\$")
