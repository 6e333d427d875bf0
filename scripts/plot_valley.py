"""Draw docs/figures/valley.svg: two weights on a river, rounded up the wall, and trained back (tests/valley.py).

python scripts/plot_valley.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import tqs_fast as tqs
from packing import plan_for
from valley import valley

ROOT = Path(__file__).resolve().parent.parent
STEPS, SUM = 120, 0.36
RIVER, PATH, DEPLOYED = "0.35", "C0", "C3"


def main() -> None:
    latent, rounded = paths()
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    axes = figure.subplots()
    a, b = np.meshgrid(np.linspace(0.05, 0.32, 40), np.linspace(0.05, 0.32, 40))
    loss = ((a + b) / SUM - 1) ** 2
    shades = axes.contourf(a, b, np.log10(loss + 1e-4), levels=np.linspace(-4, 0, 9), cmap="Greys", alpha=0.6)
    axes.plot([0.05, 0.31], [SUM - 0.05, SUM - 0.31], color=RIVER, linestyle="--", linewidth=1)
    axes.text(
        0.054,
        0.29,
        "the river: w₀ + w₁ = 0.36",
        color=RIVER,
        rotation=-45,
        va="top",
        rotation_mode="anchor",
        fontsize=8,
    )
    grid = np.arange(1, 3) / 8
    for x in grid:
        for y in grid:
            axes.plot(x, y, marker="s", color="black", markersize=5, markerfacecolor="white")
    axes.plot(*latent.T, color=PATH, linewidth=1.5, label="float weights w, trained straight through")
    axes.plot(*latent[0], marker="o", color=PATH, linestyle="none", label="where they start: on the river")
    deployed = rounded[np.r_[True, (np.diff(rounded, axis=0) != 0).any(axis=1)]]
    axes.plot(*deployed.T, color=DEPLOYED, linestyle=":", linewidth=1.5, marker="s", label="Q(w), in the order visited")
    for i, point in enumerate(deployed[:2]):
        damage = (point.sum() / SUM - 1) ** 2
        text = ("rounded to nearest" if i == 0 else "trained") + f": loss {damage:.2g}"
        axes.annotate(text, point, xytext=(6, -12), textcoords="offset points", color=DEPLOYED, fontsize=8)
    axes.plot([], [], marker="s", color="black", markerfacecolor="white", linestyle="none", label="the 4-bit grid")
    axes.set_xlabel("w₀")
    axes.set_ylabel("w₁")
    axes.set_aspect("equal")
    axes.legend(fontsize=7, loc="lower left")
    figure.colorbar(shades, ax=axes, label="log₁₀ loss")
    mpl.rcParams["svg.hashsalt"] = "valley"
    figure.savefig(ROOT / "docs" / "figures" / "valley.svg", metadata={"Date": None})


def paths() -> tuple[np.ndarray, np.ndarray]:
    """[STEPS + 1, 2] float and rounded weights, from the checkpoints of a run that is continued step by step."""
    system = valley()
    plan = plan_for(system.module, [4], tqs.Quantizer(0, search="minmax"))
    states = tqs.Contexts(torch.tensor([[-1.0], [1.0]]))
    run = {"initial": states, "horizon": 1, "batch": 2, "every": 1, "patience": STEPS, "learning_rate": 2e-3}
    weights = [system.module.weight.detach().clone()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pt"
        for step in range(1, STEPS + 1):
            tqs.recover(system, plan, steps=step, checkpoint=path, **run)
            weights.append(torch.load(path, weights_only=True)["trained"][0])
    rounded = [plan.quantizer.dequantized(weight, 4) for weight in weights]
    latent, deployed = (np.array([weight[0, :2].tolist() for weight in found]) for found in (weights, rounded))
    return latent, deployed


if __name__ == "__main__":
    main()
