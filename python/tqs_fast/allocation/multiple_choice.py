"""The multiple-choice knapsack in exact integers, which greedy, lagrangian and knapsack share.

    minimise Σ_i value(i, pick_i)   subject to   Σ_i cost(i, pick_i) <= limit

Under a size budget cost is bytes and value is damage; under a damage budget the two change places.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.problem import Allocation, Choice, Problem


@dataclass(frozen=True)
class Option:
    """One choice of a row. `bits` orders equally good picks: fewer first."""

    cost: int
    value: int
    bits: int
    choice: Choice


@dataclass(frozen=True)
class MultipleChoice:
    """One option is picked from each row.

    Attributes:
        rows: per group, options of strictly increasing cost and strictly decreasing value.
        limit: of the total cost; at least the cost of taking the cheapest option everywhere.
    """

    rows: tuple[tuple[Option, ...], ...]
    limit: int

    def cost(self, picks: Sequence[int]) -> int:
        return sum(row[pick].cost for row, pick in zip(self.rows, picks, strict=True))

    def value(self, picks: Sequence[int]) -> int:
        return sum(row[pick].value for row, pick in zip(self.rows, picks, strict=True))

    def best(self, candidates: Iterable[Sequence[int]]) -> Sequence[int]:
        """The candidate of least value, then least cost, then lexicographically fewest bits."""
        return min(candidates, key=lambda picks: (self.value(picks), self.cost(picks), self.bits(picks)))

    def bits(self, picks: Sequence[int]) -> tuple[int, ...]:
        return tuple(row[pick].bits for row, pick in zip(self.rows, picks, strict=True))

    def allocation(self, picks: Sequence[int], gap: float | None = None) -> Allocation:
        return Allocation(tuple(row[pick].choice for row, pick in zip(self.rows, picks, strict=True)), gap)


def multiple_choice(problem: Problem, budget: Budget) -> MultipleChoice:
    """The problem seen through the budget.

    Raises:
        InfeasibleError: even the cheapest plan is over the budget.
    """
    limit = budget.limit(problem)
    if budget.bounds_damage:
        if limit < problem.least_damage:
            raise budget.infeasible(problem, problem.least_damage, problem.most_damage)
        return MultipleChoice(
            tuple(
                tuple(Option(c.damage, c.bytes, c.bits or 32, c) for c in reversed(group.efficient))
                for group in problem.groups
            ),
            limit,
        )
    if limit < problem.smallest_bytes:
        raise budget.infeasible(problem, problem.smallest_bytes, problem.largest_bytes)
    return MultipleChoice(
        tuple(tuple(Option(c.bytes, c.damage, c.bits or 32, c) for c in group.efficient) for group in problem.groups),
        limit,
    )


def hull(row: Sequence[Option]) -> list[int]:
    """Indices of the options on the lower convex hull of (cost, value), cheapest first."""
    kept: list[int] = []
    for index, option in enumerate(row):
        while len(kept) >= 2:
            a, b = row[kept[-2]], row[kept[-1]]
            # b stays only if it lies strictly below the line from a to the new option.
            if (a.value - b.value) * (option.cost - a.cost) > (a.value - option.value) * (b.cost - a.cost):
                break
            kept.pop()
        kept.append(index)
    return kept


def improve(instance: MultipleChoice, picks: Sequence[int]) -> list[int]:
    """From feasible `picks`, take the affordable step of the largest value decrease per cost until none is left.

    A step may skip options of its row, so one that lies above the convex hull is not a dead end. Equal ratios go to the
    earlier row.
    """
    picks = list(picks)
    room = instance.limit - instance.cost(picks)
    queue: list[tuple[Fraction, int, int]] = []

    def push(index: int) -> None:
        row, now = instance.rows[index], instance.rows[index][picks[index]]
        steps = [
            (Fraction(row[j].value - now.value, row[j].cost - now.cost), index, j)
            for j in range(picks[index] + 1, len(row))
            if row[j].cost - now.cost <= room
        ]
        if steps:
            heapq.heappush(queue, min(steps))

    for index in range(len(instance.rows)):
        push(index)
    while queue:
        _, index, target = heapq.heappop(queue)
        extra = instance.rows[index][target].cost - instance.rows[index][picks[index]].cost
        if extra <= room:
            room -= extra
            picks[index] = target
        # Taken, or no longer affordable: either way the row offers its best remaining step, which is never better.
        push(index)
    return picks
