"""A budget in the user's unit, turned into an exact integer limit; and the refusal that names the feasible range."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

from tqs_fast.allocation.problem import Problem
from tqs_fast.errors import ArgumentError, InfeasibleError

UNITS = ("average_bits", "bytes", "compression", "max_damage")


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        unit: "average_bits" (effective bits a weight over all planned layers), "bytes", "compression" (float32 bytes
            over bytes) or "max_damage" (bound on the predicted damage).
        value: of the limit, in that unit.
    """

    unit: str
    value: float

    @property
    def bounds_damage(self) -> bool:
        """True when damage is bounded and bytes are minimised, False the other way round."""
        return self.unit == "max_damage"

    def limit(self, problem: Problem) -> int:
        """The largest number of bytes (or of damage units, for max_damage) that keeps the budget.

        "Keeps" is judged on the figure a plan reports (`plan.average_bits <= average_bits` and so on), so a plan's own
        figure, given back as a budget, admits that plan. Limits above every plan are cut.
        """
        weights, given = problem.parameters, Fraction(self.value)
        if self.unit == "average_bits":
            return _largest(given * weights / 8, problem.bytes_bound, lambda n: 8 * n / weights <= self.value)
        if self.unit == "compression":
            return _largest(4 * weights / given, problem.bytes_bound, lambda n: 4 * weights / n >= self.value)
        if self.unit == "bytes":
            return min(int(self.value), problem.bytes_bound)
        # A sum that rounds to the bound is within it: half a unit in the last place more is still admitted.
        reach = (given + Fraction(math.ulp(self.value)) / 2) * (1 << problem.exponent)
        return _largest(reach, problem.damage_bound, lambda units: problem.damage(units) <= self.value)

    def infeasible(self, problem: Problem, least: int, most: int) -> InfeasibleError:
        """The error for a budget below `least`; `least` and `most` are the ends of the range, bytes or damage units."""
        low, high = self._shown(problem, least), self._shown(problem, most)
        if self.unit == "compression":
            text = f"a compression of at most {low} (feasible: {high} to {low})"
        else:
            text = f"{self.unit} of at least {low} (feasible: {low} to {high})"
        advice = "scales, zero points, padding and float layers are counted"
        if self.bounds_damage:
            advice = "score more bits or keep layers in float"
        if problem.diverged:
            shown = ", ".join(problem.diverged[:4]) + (", ..." if len(problem.diverged) > 4 else "")
            advice += f"; left out because the rollout diverged: {shown}"
        return InfeasibleError(f"[allocate] expected {text}, got {self.value!r}; {advice}")

    def _shown(self, problem: Problem, amount: int) -> str:
        if self.unit == "bytes":
            return str(amount)
        if self.unit == "average_bits":
            return _rounded(Fraction(8 * amount, problem.parameters), ROUND_CEILING)
        if self.unit == "compression":
            return _rounded(Fraction(4 * problem.parameters, amount), ROUND_FLOOR)
        return _rounded(Fraction(amount, 1 << problem.exponent), ROUND_CEILING)


def read_budget(**given: float | None) -> Budget:
    """The one budget among the keyword arguments of `allocate`.

    Raises:
        ArgumentError: none or several given, or a value that is not a finite number of the right sign.
    """
    present = {unit: value for unit, value in given.items() if value is not None}
    if len(present) != 1:
        raise ArgumentError(
            f"[allocate] expected exactly one budget among {', '.join(UNITS)}, got {', '.join(present) or 'none'}"
        )
    [(unit, value)] = present.items()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ArgumentError(f"[allocate] expected {unit} to be a finite number, got {value!r}")
    zero_allowed = unit in ("bytes", "max_damage")
    if value < 0 or (value == 0 and not zero_allowed):
        raise ArgumentError(f"[allocate] expected {unit} {'>= 0' if zero_allowed else '> 0'}, got {value!r}")
    if unit == "bytes":
        if value != int(value):
            raise ArgumentError(f"[allocate] expected bytes to be a whole number, got {value!r}")
        return Budget(unit, int(value))
    return Budget(unit, float(value))


def _largest(estimate: Fraction, most: int, keeps: Callable[[int], bool]) -> int:
    """The largest n in 0..most that keeps the budget; `estimate` is at most a few float roundings away."""
    n = min(math.floor(estimate), most)
    while n < most and keeps(n + 1):
        n += 1
    while n > 0 and not keeps(n):
        n -= 1
    return n


def _rounded(value: Fraction, rounding: str) -> str:
    """Six digits, rounded towards the feasible side so that the printed figure can be used as a budget."""
    exact = Context(prec=60).divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{float(Context(prec=6, rounding=rounding).plus(exact)):.6g}"
