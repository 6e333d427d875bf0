"""Exact multiple-choice knapsack: HiGHS finds a plan, exact integer arithmetic proves it best and breaks ties.

A solver in floating point alone cannot do this: damages span 1e-9 to 1e2 in one table, and HiGHS stops at absolute
tolerances of 1e-6. So it is given only the core that a relaxation leaves open, in units of the remaining gap, and its
answer is an incumbent, never trusted beyond that.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]  # scipy ships no types
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.exact import Core, core_of, exact_best
from tqs_fast.allocation.lagrangian import relax
from tqs_fast.allocation.multiple_choice import MultipleChoice, improve, multiple_choice
from tqs_fast.allocation.problem import Allocation, Problem
from tqs_fast.allocation.silence import silent_stdout

# Limits by nodes and not by seconds: the same table gives the same plan on a slow machine.
NODE_LIMIT = 20_000
# The objective runs from 0 to about this, so that HiGHS's absolute gap of 1e-6 is 1e-10 of the gap being closed.
OBJECTIVE_SCALE = 1e4


def knapsack(problem: Problem, budget: Budget) -> Allocation:
    """The plan of least predicted damage within a size budget, or the smallest within a damage budget.

    Ties: fewer bytes (under a damage budget less damage), then the lexicographically smallest bits in layer order.
    `gap` of the result is 0 when optimality is proven, else a bound on what was left.

    Raises:
        InfeasibleError: no plan meets the budget.
    """
    instance = multiple_choice(problem, budget)
    multiplier, relaxed = relax(instance)
    best = instance.best([improve(instance, relaxed), improve(instance, [0] * len(instance.rows))])
    core = core_of(instance, multiplier, best)
    found = _solve(instance, core)
    if found is not None:
        best = instance.best([best, found])
        core = core_of(instance, multiplier, best)
    proven = exact_best(instance, core)
    if proven is None:
        gap = Fraction(core.gap, core.q)
        return instance.allocation(best, float(gap) if budget.bounds_damage else float(gap / (1 << problem.exponent)))
    return instance.allocation(proven, 0.0)


def _solve(instance: MultipleChoice, core: Core) -> list[int] | None:
    """Feasible picks from HiGHS, or None when it found none or there is nothing to gain.

        minimise   Σ (r/gap)·x + (p·slack/gap)·t
        subject to Σ_j x_ij = 1 for each row i,   Σ (cost - base)·x + slack·t = limit - Σ base

    t in [0, 1] is the unused part of the limit: by the identity in exact.py this is the value, shifted and scaled.
    """
    if core.gap == 0:
        return None
    open_rows = [i for i, kept in enumerate(core.options) if len(kept) > 1]
    variables = [(i, j, r) for i in open_rows for j, r in zip(core.options[i], core.reduced[i], strict=True)]
    if not variables:
        return None
    base = [instance.rows[i][kept[0]].cost for i, kept in enumerate(core.options)]
    # In units of the largest cost in the core, so that costs of any size (bytes, damage units) are near 1.
    unit = max(instance.rows[i][j].cost - base[i] for i, j, _ in variables)
    slack = min(Fraction(core.gap, core.p), Fraction(instance.limit - sum(base)))
    objective = [float(Fraction(r, core.gap)) for _, _, r in variables] + [float(slack * core.p / core.gap)]
    costs = [float(Fraction(instance.rows[i][j].cost - base[i], unit)) for i, j, _ in variables]
    costs.append(float(slack / unit))
    position = {row: k for k, row in enumerate(open_rows)}
    choose = csr_array(
        (np.ones(len(variables)), ([position[i] for i, _, _ in variables], range(len(variables)))),
        shape=(len(open_rows), len(variables) + 1),
    )
    room = float(Fraction(instance.limit - sum(base), unit))
    with silent_stdout():
        result = milp(
            OBJECTIVE_SCALE * np.array(objective),
            integrality=np.array([1] * len(variables) + [0]),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(choose, 1, 1), LinearConstraint(np.array(costs)[None, :], room, room)],
            options={"mip_rel_gap": 0.0, "node_limit": NODE_LIMIT},
        )
    if result.x is None:
        return None
    picks = [kept[0] for kept in core.options]
    strongest = dict.fromkeys(open_rows, -1.0)
    for (i, j, _), x in zip(variables, result.x, strict=False):
        if x > strongest[i]:
            strongest[i], picks[i] = float(x), j
    # Rounded to integers, the solver's point may be over the limit by its own tolerance: judged exactly here.
    return picks if instance.cost(picks) <= instance.limit else None
