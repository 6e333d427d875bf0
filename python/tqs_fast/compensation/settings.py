"""How weights are compensated: the method and its parameters, as a user names them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tqs_fast.errors import ArgumentError

METHODS = ("obq", "gptq", "sensitivity")
WEIGHTINGS = ("output", "trajectory")


@dataclass(frozen=True)
class Compensation:
    """A quantizer that compensates; `quantize(method="gptq")` is `quantize(method=Compensation("gptq"))`.

    Attributes:
        method: "obq": each row for itself, of the weights left always the one of least error / [H^-1]_qq
            (arXiv:2208.11580; slow, there to compare with). "gptq": all rows in one order (arXiv:2210.17323).
            "sensitivity": all rows in one order, chosen while eliminating: the columns whose rounding costs most when
            all others may still compensate come first (after the abstract of arXiv:2509.05576; docs/compensation.md).
        act_order: of "gptq" alone: columns of largest mean squared input first. False: as they are stored.
        sweeps: of "gptq" and "sensitivity": how often codes are gone over again, each given the others, in spans of
            columns that double (docs/compensation.md).
        damping: added to the diagonal of H, as a share of its mean.
        weighting: "output": H sums the inputs of a layer, x xᵀ. "trajectory": each input is weighted by what an error
            of the layer's output at that place and time does to the rest of the trajectory, to first order.
        horizon: output values per rollout that inputs are seen along.
        count: initial conditions, where none are given.
        seed: of the initial conditions, and of the random signs of "trajectory". Neither that of `score` nor of
            `evaluate`.

    Raises:
        ArgumentError: an unknown name, or a number out of range.
    """

    method: str = "sensitivity"
    act_order: bool = True
    sweeps: int = 0
    damping: float = 0.01
    weighting: str = "output"
    horizon: int = 32
    count: int = 32
    seed: int = 3

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("weighting", self.weighting, WEIGHTINGS)):
            if value not in known:
                raise ArgumentError(f"[Compensation] {name} must be one of {', '.join(known)}, got {value!r}")
        if isinstance(self.damping, bool) or not 0 <= self.damping < math.inf:
            raise ArgumentError(f"[Compensation] damping must be a number >= 0, got {self.damping!r}")
        for name, least in (("sweeps", 0), ("horizon", 1), ("count", 1), ("seed", 0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ArgumentError(f"[Compensation] {name} must be an integer of at least {least}, got {number!r}")

    @property
    def regroups(self) -> bool:
        """Whether scales of a group are chosen when its first column is reached, instead of before all rounding."""
        return self.method == "gptq" and not self.act_order
