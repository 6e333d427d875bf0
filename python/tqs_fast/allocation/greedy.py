"""Greedy allocation: start at the cheapest plan, buy the best step again and again."""

from __future__ import annotations

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.multiple_choice import improve, multiple_choice
from tqs_fast.allocation.problem import Allocation, Problem


def greedy(problem: Problem, budget: Budget) -> Allocation:
    """All groups at their smallest size, then the step with the largest damage decrease per byte while one fits.

    Under a damage budget: all groups at their least damage, then the step that frees the most bytes per damage.

    Raises:
        InfeasibleError: no plan meets the budget.
    """
    instance = multiple_choice(problem, budget)
    return instance.allocation(improve(instance, [0] * len(instance.rows)))
