"""Many budgets from one table: the plans between the smallest size and the least damage."""

from __future__ import annotations

from tqs_fast.allocation.allocate import METHODS, check_arguments, make_plan
from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.plan import Plan
from tqs_fast.allocation.problem import build_problem
from tqs_fast.allocation.selection import Freeze
from tqs_fast.allocation.uniform import uniform_plans
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.ties import Tie
from tqs_fast.scoring.sensitivity import Sensitivity


def frontier(
    table: Sensitivity,
    *,
    points: int = 20,
    method: str = "knapsack",
    tie: Tie | None = None,
    freeze: Freeze | None = None,
) -> tuple[Plan, ...]:
    """Plans at budgets spread evenly, in bytes, from the smallest plan to the one of least damage.

    Args:
        table, method, tie, freeze: as in `allocate`.
        points: number of budgets, at least 2. "uniform" has one plan for each bit-width, whatever `points` is.

    Returns:
        At most `points` plans by strictly increasing bytes and strictly decreasing predicted damage; budgets that lead
        to the same plan, or to none better than a smaller one, give no plan of their own.

    Raises:
        ArgumentError, InfeasibleError: as in `allocate`, and for `points`.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ArgumentError(f"[frontier] expected points to be a whole number >= 2, got {points!r}")
    check_arguments(table, method, "frontier")
    problem = build_problem(table, tie=tie, freeze=freeze)
    if method == "uniform":
        sizes = [plan.bytes for plan in uniform_plans(problem)]
    else:
        low, high = problem.smallest_bytes, problem.largest_bytes
        sizes = [low + (high - low) * k // (points - 1) for k in range(points)]
    plans: list[Plan] = []
    least: int | None = None
    for size in dict.fromkeys(sizes):
        budget = Budget("bytes", size)
        allocation = METHODS[method](problem, budget)
        if least is None or allocation.damage < least:
            least = allocation.damage
            plans.append(make_plan(table, problem, budget, allocation, method))
    return tuple(plans)
