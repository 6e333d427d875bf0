"""Lagrangian allocation: one price per byte for all groups, found by bisection; then what is left is spent greedily."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.multiple_choice import MultipleChoice, Option, hull, improve, multiple_choice
from tqs_fast.allocation.problem import Allocation, Problem


def lagrangian(problem: Problem, budget: Budget) -> Allocation:
    """Each group minimises damage + multiplier · bytes, at the least multiplier that keeps the budget.

    Under a damage budget bytes and damage change places.

    Raises:
        InfeasibleError: no plan meets the budget.
    """
    instance = multiple_choice(problem, budget)
    _, picks = relax(instance)
    return instance.allocation(improve(instance, picks))


def relax(instance: MultipleChoice) -> tuple[Fraction, list[int]]:
    """The least multiplier whose picks are feasible, and those picks.

    The picks change only where the multiplier passes a slope of some row's lower convex hull, so bisection over the
    sorted slopes is exact and finite. The multiplier is the dual optimum of the linear relaxation.
    """
    hulls = [[row[index] for index in hull(row)] for row in instance.rows]
    slopes = {Fraction(a.value - b.value, b.cost - a.cost) for corners in hulls for a, b in pairwise(corners)}
    multipliers = [Fraction(0), *sorted(slopes)]
    low, high = 0, len(multipliers) - 1
    while low < high:
        middle = (low + high) // 2
        picks = _cheapest(instance.rows, multipliers[middle])
        if instance.cost(picks) <= instance.limit:
            high = middle
        else:
            low = middle + 1
    return multipliers[low], _cheapest(instance.rows, multipliers[low])


def _cheapest(rows: Sequence[Sequence[Option]], multiplier: Fraction) -> list[int]:
    p, q = multiplier.numerator, multiplier.denominator
    priced = [[q * option.value + p * option.cost for option in row] for row in rows]
    # Ties go to the lower cost (the lower index): then the last slope selects the cheapest option everywhere.
    return [row.index(min(row)) for row in priced]
