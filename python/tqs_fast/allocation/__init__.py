"""Allocation: a sensitivity table and a budget in, a plan (bits for every layer) out.

selection -> problem -> budget -> one method (uniform, greedy, lagrangian, knapsack) -> plan. A method is one file with
a function `method(problem, budget) -> Allocation`, and one row in `allocate.METHODS`.
"""

from tqs_fast.allocation.allocate import METHODS, allocate
from tqs_fast.allocation.frontier import frontier
from tqs_fast.allocation.plan import Plan

__all__ = ["METHODS", "Plan", "allocate", "frontier"]
