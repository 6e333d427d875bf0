"""The result of `diagnose_basin`: scans along the lines from float weights to their rounded ones, and what they say."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast._files import encode_array, write_json
from tqs_fast._table import Table, format_number

FORMAT = "tqs-fast/basin"
VERSION = 1
SATURATED = 0.3  # damage from which on it grows no more in proportion
LEVEL_OFF = 0.5  # exponent below which damage no longer falls steeply on the way back
STEEP = 2.0  # true over quadratic damage above which the line has met a wall

ADVICE = {
    "inside": "keep it",
    "on the wall": 'compensate: quantize(method="sensitivity", system=...); what is left, training can descend',
    "outside": "more bits here; or compensate first, and look again: the gradient leads nowhere from here",
}

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LineScan:
    """Damage along w + a (Q(w) - w), of one layer or of all together.

    Attributes:
        name: of the layer, or "all layers".
        damage: `[A]`, at every a; infinite where rollouts diverge.
        quadratic: damage at a = 1 to second order: ‖∂Y/∂w (Q(w) - w)‖² of the scaled trajectory Y. The float model is
            the teacher: at w damage and gradient are zero, and this is exactly half the curvature along the line.
        distance: ‖Q(w) - w‖ / ‖w‖, with w the whole weight also where the line moves a block of its rows.
        at_rounded: damage at a = 1.
        slope: d(damage)/da at a = 1: the inward gradient. ⟨gradient at Q(w), Q(w) - w⟩; > 0 leads back to w.
        flat_radius: largest a up to which damage stays within the tolerance; the last a where it never leaves it.
        tolerance: damage that counts as flat.
    """

    name: str
    damage: FloatArray
    quadratic: float
    distance: float
    at_rounded: float
    slope: float
    flat_radius: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """True over quadratic damage at Q(w): above 1 the line climbs a wall, far below 1 it has saturated."""
        return self.at_rounded / self.quadratic if self.quadratic > 0 else math.nan

    @property
    def exponent(self) -> float:
        """d log(damage) / d log(a) at Q(w): 2 in a quadratic basin, more on a wall, 0 or less on what lies beyond."""
        return self.slope / self.at_rounded if 0 < self.at_rounded < math.inf else math.nan

    @property
    def verdict(self) -> str:
        """ "inside": damage within the tolerance, and not growing faster than a quadratic by more than `STEEP`.
        "outside": it has diverged or saturated, or no longer falls on the way back. "on the wall": all else.
        """
        if not math.isfinite(self.at_rounded) or self.at_rounded >= SATURATED:
            return "outside"
        if self.at_rounded <= self.tolerance and not self.ratio > STEEP:
            return "inside"
        return "outside" if self.exponent < LEVEL_OFF else "on the wall"

    @property
    def advice(self) -> str:
        """What to do."""
        return ADVICE[self.verdict]


@dataclass(frozen=True, eq=False)
class BasinDiagnosis:
    """Line scans of every layer, and of all layers together.

    Attributes:
        positions: `[A]`, the values of a.
        layers: one scan per packed layer of the plan, every other layer float.
        whole: all layers moved together.
        provenance: system, horizon, initial conditions, engine, and how the weights were rounded.
    """

    positions: FloatArray
    layers: tuple[LineScan, ...]
    whole: LineScan
    provenance: dict[str, Any] = field(default_factory=dict)

    def table(self) -> Table:
        """One row per layer, and one for all."""
        rows = tuple(
            (
                scan.name,
                *map(format_number, (scan.at_rounded, scan.ratio, scan.exponent, scan.flat_radius, scan.distance)),
                scan.verdict,
            )
            for scan in (*self.layers, self.whole)
        )
        columns = ("layer", "damage", "true / quadratic", "exponent", "flat radius", "distance", "verdict")
        caption = "\n".join(
            f"{verdict}: {ADVICE[verdict]}" for verdict in ADVICE if any(row[-1] == verdict for row in rows)
        )
        return Table(columns, rows, (False, *[True] * 5, False), caption)

    def __str__(self) -> str:
        return str(self.table())

    def plot(self) -> Any:
        """Damage along every line, with the quadratic of all layers together, as a `matplotlib.figure.Figure`.

        Raises:
            ArgumentError: matplotlib is not installed (the extra "plots").
        """
        from tqs_fast.recovery.figures import basin_figure  # drawn from the result, so it imports this file

        return basin_figure(self)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes; NaN is None, infinity "inf"."""

        def scan_json(scan: LineScan) -> dict[str, Any]:
            numbers = ("quadratic", "distance", "at_rounded", "slope", "flat_radius", "tolerance")
            return {
                "name": scan.name,
                "damage": encode_array(scan.damage),
                **{name: encode_array(getattr(scan, name)) for name in numbers},
                # Derived, for readers in other languages.
                "ratio": encode_array(scan.ratio),
                "exponent": encode_array(scan.exponent),
                "verdict": scan.verdict,
                "advice": scan.advice,
            }

        return {
            "format": FORMAT,
            "version": VERSION,
            "positions": encode_array(self.positions),
            "layers": [scan_json(scan) for scan in self.layers],
            "whole": scan_json(self.whole),
            "provenance": self.provenance,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_json(), function="BasinDiagnosis.save")
