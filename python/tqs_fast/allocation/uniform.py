"""Uniform allocation: one bit-width for every layer that is not frozen. The rival every plan must beat."""

from __future__ import annotations

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.problem import Allocation, Choice, Group, Problem
from tqs_fast.errors import InfeasibleError


def uniform(problem: Problem, budget: Budget) -> Allocation:
    """The largest bit-width that keeps a size budget, or the smallest plan that keeps a damage budget.

    Raises:
        InfeasibleError: no uniform plan meets the budget.
    """
    candidates = uniform_plans(problem)
    limit = budget.limit(problem)
    if budget.bounds_damage:
        kept = [plan for plan in candidates if plan.damage <= limit]
        if not kept:
            damages = [plan.damage for plan in candidates]
            raise budget.infeasible(problem, min(damages), max(damages))
        return min(kept, key=lambda plan: (plan.bytes, plan.damage))
    kept = [plan for plan in candidates if plan.bytes <= limit]
    if not kept:
        raise budget.infeasible(problem, candidates[0].bytes, candidates[-1].bytes)
    return kept[-1]


def uniform_plans(problem: Problem) -> list[Allocation]:
    """One plan for each bit-width at which no layer diverged, by increasing bits; frozen groups stay as they are.

    Raises:
        InfeasibleError: at every bit-width some layer diverged.
    """
    if all(group.frozen for group in problem.groups):
        return [Allocation(tuple(group.choices[0] for group in problem.groups))]
    picks = [[_at(group, bits) for group in problem.groups] for bits in problem.bits]
    plans = [Allocation(tuple(c for c in row if c is not None)) for row in picks if None not in row]
    if not plans:
        raise InfeasibleError(
            "[allocate] expected a bit-width at which no layer diverges, got none; freeze layers in float or take "
            f"another method; diverged: {', '.join(problem.diverged[:8])}"
        )
    return plans


def _at(group: Group, bits: int) -> Choice | None:
    if group.frozen:
        return group.choices[0]
    return next((choice for choice in group.choices if choice.bits == bits), None)
