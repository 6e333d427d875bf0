"""Damage along the line from a layer's float weights to their rounded ones, and what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
