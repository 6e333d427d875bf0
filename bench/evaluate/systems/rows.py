"""The trained forecasters, one row each: network, data, training."""

from __future__ import annotations

from dataclasses import dataclass

from evaluate.systems.forms import Carried, Window
from evaluate.systems.networks import Convolutions, LongShortTerm, Mixer
from evaluate.systems.training import Recipe, Stage
from jvp.selective_scan import SelectiveScan
from jvp.transformer import Transformer


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        name: of the system and its checkpoint.
        data: a flow of `flows.FLOWS` or a recording of `recordings.RECORDINGS`.
        recipe: how it is trained.
    """

    name: str
    data: str
    recipe: Recipe


ROWS = {
    row.name: row
    for row in (
        Row(
            "transformer-lorenz",
            "Lorenz",
            Recipe(
                lambda: Transformer(False, width=32, heads=4, hidden=64, layers=3, context=16, channels=3),
                Window(16, 3),
                (Stage(2500, 1, 3e-3), Stage(600, 6, 1e-3)),
                noise=0.003,
            ),
        ),
        Row(
            "convolution-rossler",
            "Rossler",
            Recipe(
                lambda: Convolutions(channels=3, width=24, levels=4),
                Window(31, 3),
                (Stage(2500, 1, 3e-3), Stage(800, 8, 1e-3)),
                noise=0.003,
            ),
        ),
        Row(
            "state-space-lorenz96",
            "Lorenz96",
            Recipe(
                lambda: SelectiveScan(width=32, inner=64, states=8, rank=4, layers=2, channels=6),
                Window(8, 6),
                (Stage(2500, 1, 3e-3), Stage(400, 4, 1e-3)),
                noise=0.003,
            ),
        ),
        Row(
            "lstm-halvorsen",
            "Halvorsen",
            Recipe(
                lambda: LongShortTerm(channels=3, width=48),
                Carried(24, 3),
                (Stage(1200, 4, 3e-3), Stage(700, 24, 2e-3)),
                noise=0.003,
            ),
        ),
        Row(
            "mixer-pressure",
            "pressure",
            Recipe(
                lambda: Mixer(channels=1, context=64, patch=4, width=32, hidden=48, layers=2),
                Window(64, 1, block=4),
                (Stage(1200, 4, 2e-3), Stage(1200, 32, 1e-3)),
                noise=0.05,
            ),
        ),
        Row(
            "convolution-elnino",
            "elnino",
            Recipe(
                lambda: Convolutions(channels=1, width=16, levels=4),
                Window(31, 1),
                (Stage(600, 1, 3e-3), Stage(800, 24, 1e-3)),
                noise=0.1,
            ),
        ),
    )
}
