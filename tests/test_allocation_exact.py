"""The knapsack against trying every plan, and the other methods against the knapsack."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import OptimizeResult

from allocation_cases import KINDS, Tried, every_plan, make_damage, make_shapes, make_table, stored_bytes
from tqs_fast.allocation import METHODS, Plan, allocate
from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.exact import core_of, exact_best
from tqs_fast.allocation.lagrangian import relax
from tqs_fast.allocation.multiple_choice import hull, improve, multiple_choice
from tqs_fast.allocation.problem import build_problem
from tqs_fast.errors import InfeasibleError
from tqs_fast.quantization import Quantizer
from tqs_fast.scoring.sensitivity import Sensitivity

# The package re-exports functions under the names of their modules.
EXACT = sys.modules["tqs_fast.allocation.exact"]
KNAPSACK = sys.modules["tqs_fast.allocation.knapsack"]


def bits_of(plan: Plan) -> tuple[int, ...]:
    return tuple(plan.bits[layer.name] or 32 for layer in plan.layers)


def best_of(plans: Sequence[Tried], budget: dict[str, float], parameters: int) -> Tried:
    """The best plan by the documented order, judged in the unit of the budget."""
    [(unit, value)] = budget.items()
    if unit == "max_damage":
        kept = [plan for plan in plans if float(plan.damage) <= value]
        return min(kept, key=lambda plan: (plan.bytes, plan.damage, plan.bits))
    keeps = {
        "bytes": lambda plan: plan.bytes <= value,
        "average_bits": lambda plan: 8 * plan.bytes / parameters <= value,
        "compression": lambda plan: 4 * parameters / plan.bytes >= value,
    }[unit]
    return min((plan for plan in plans if keeps(plan)), key=lambda plan: (plan.damage, plan.bytes, plan.bits))


def case(kind: str, seed: int) -> tuple[Sensitivity, list[dict[str, float]], dict[str, Any], list[Tried]]:
    """A small random table, budgets in every unit, tie and freeze arguments, and all its plans."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    count = int(rng.integers(1, 6))
    quantizer = Quantizer(group_size=int(rng.choice([0, 32])), symmetric=bool(rng.integers(2)))
    shapes = make_shapes(count, rng, equal=seed % 3 == 0)
    table = make_table(make_damage(kind, count, rng), shapes, quantizer=quantizer)
    names = [layer.name for layer in table.layers]
    groups: list[tuple[int, ...]] = []
    frozen: dict[int, int | None] = {}
    if count >= 3 and rng.random() < 0.5:
        groups = [tuple(sorted(int(i) for i in rng.choice(count, size=2, replace=False)))]
    if count >= 2 and rng.random() < 0.4:
        free = [i for i in range(count) if not any(i in group for group in groups)]
        frozen = {free[-1]: None if rng.random() < 0.5 else 8}
    arguments: dict[str, Any] = {
        "tie": [[names[i] for i in group] for group in groups] or None,
        "freeze": {names[i]: bits for i, bits in frozen.items()} or None,
    }
    plans = list(every_plan(table, groups, frozen))
    sizes = sorted(plan.bytes for plan in plans)
    damages = sorted(float(plan.damage) for plan in plans)
    parameters = sum(layer.parameters for layer in table.layers)
    budgets: list[dict[str, float]] = []
    for share in (0.0, rng.random(), 1.0):
        size = round(sizes[0] + share * (sizes[-1] - sizes[0]))
        budgets += [
            {"bytes": size},
            {"average_bits": 8 * size / parameters},
            {"compression": 4 * parameters / size},
            {"max_damage": damages[int(share * (len(damages) - 1))]},
        ]
    return table, budgets, arguments, plans


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_knapsack_equals_trying_every_plan(kind: str, seed: int) -> None:
    table, budgets, arguments, plans = case(kind, seed)
    parameters = sum(layer.parameters for layer in table.layers)
    for budget in budgets:
        best = best_of(plans, budget, parameters)
        plan = allocate(table, **budget, **arguments)
        assert bits_of(plan) == best.bits, budget
        assert plan.bytes == best.bytes
        assert plan.predicted_damage == float(best.damage)
        assert plan.provenance["optimality_gap"] == 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_no_method_is_over_budget_or_better_than_the_knapsack(kind: str, seed: int) -> None:
    table, budgets, arguments, _ = case(kind, seed)
    for budget in budgets:
        [(unit, value)] = budget.items()
        best = allocate(table, **budget, **arguments)
        for method in METHODS:
            try:
                plan = allocate(table, **budget, **arguments, method=method)
            except InfeasibleError:
                assert method == "uniform"
                continue
            size = sum(stored_bytes(layer.shape, plan.bits[layer.name], table.quantizer) for layer in plan.layers)
            assert plan.bytes == size
            if unit == "max_damage":
                assert plan.predicted_damage <= value
                assert plan.bytes >= best.bytes
            else:
                figure = getattr(plan, unit)
                assert figure >= value if unit == "compression" else figure <= value
                assert plan.predicted_damage >= best.predicted_damage


def brute_free_table(count: int, seed: int, kind: str = "usual") -> Sensitivity:
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(8, 300)), int(rng.integers(8, 300))) for _ in range(count)]
    return make_table(make_damage(kind, count, rng), shapes)


@pytest.mark.parametrize("kind", ["usual", "noisy", "range", "non-convex"])
def test_five_hundred_layers_are_solved_to_proven_optimality(kind: str) -> None:
    table = brute_free_table(500, 3, kind)
    for budget in ({"average_bits": 3.5}, {"max_damage": math.fsum(table.damage[:, 2])}):
        plan = allocate(table, **budget)
        assert plan.provenance["optimality_gap"] == 0.0
        rivals = [allocate(table, **budget, method=method) for method in ("greedy", "lagrangian", "uniform")]
        if "max_damage" in budget:
            assert all(plan.bytes <= rival.bytes for rival in rivals)
        else:
            assert all(plan.predicted_damage <= rival.predicted_damage for rival in rivals)
            # The greedy plan of so many layers is close: a far worse one would mean a broken step rule.
            assert rivals[0].predicted_damage <= 1.01 * plan.predicted_damage


def test_greedy_and_lagrangian_are_near_the_optimum_of_convex_tables() -> None:
    for seed in range(10):
        table = brute_free_table(60, seed)
        best = allocate(table, average_bits=4.0).predicted_damage
        for method in ("greedy", "lagrangian"):
            assert allocate(table, average_bits=4.0, method=method).predicted_damage <= 1.2 * best


def test_greedy_sees_past_a_step_that_does_not_pay_by_itself() -> None:
    """Layer a gains nothing from 2 to 3 bits and much from 2 to 4: looking one step ahead never gets there."""
    table = make_table([[1.0, 0.999, 0.1, 0.09], [0.5, 0.4, 0.35, 0.34]], [(16, 32), (16, 32)])
    smallest = allocate(table, average_bits=2.5).bytes
    step = stored_bytes((16, 32), 4, table.quantizer) - stored_bytes((16, 32), 2, table.quantizer)
    for method in ("greedy", "lagrangian"):
        assert bits_of(allocate(table, bytes=smallest + step, method=method)) == (4, 2)


def test_the_solver_alone_finds_the_optimum() -> None:
    """HiGHS must reach what the exact pass proves; were its model wrong, the exact pass would hide it."""
    solved = 0
    for seed in range(30):
        for kind in ("usual", "noisy", "range"):
            table = brute_free_table(12, seed, kind)
            problem = build_problem(table)
            for budget in (Budget("average_bits", 3.7), Budget("max_damage", float(table.damage[:, 2].sum()))):
                try:
                    instance = multiple_choice(problem, budget)
                except InfeasibleError:
                    continue
                multiplier, _ = relax(instance)
                if multiplier == 0:
                    continue  # everything fits: the knapsack never asks the solver
                start = [0] * len(instance.rows)
                core = core_of(instance, multiplier, start)
                found = KNAPSACK._solve(instance, core)
                if found is None:
                    assert core.gap == 0 or all(len(kept) == 1 for kept in core.options)
                    continue
                proven = exact_best(instance, core)
                assert proven is not None
                assert instance.cost(found) <= instance.limit
                # The start is far off here, so the tolerance of 1e-10 of the gap is coarse on a wide range.
                excess = Fraction(instance.value(found) - instance.value(proven)) * core.q / core.gap
                assert 0 <= excess <= Fraction(1, 10**8)
                solved += 1
    assert solved > 100


@pytest.mark.parametrize("answer", ["over the limit", "nothing"])
def test_a_bad_answer_of_the_solver_changes_nothing(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    table = brute_free_table(20, 4, "noisy")
    expected = allocate(table, average_bits=3.7)
    asked = 0

    def careless(objective: npt.NDArray[np.float64], **_: Any) -> OptimizeResult:
        nonlocal asked
        asked += 1
        # 0, 1, 2, ... makes the last and most expensive option of every row the strongest.
        return OptimizeResult(x=None if answer == "nothing" else np.arange(len(objective), dtype=np.float64))

    monkeypatch.setattr(KNAPSACK, "milp", careless)
    assert allocate(table, average_bits=3.7) == expected
    monkeypatch.setattr(EXACT, "MOST_PARTIAL_SUMS", 0)
    assert allocate(table, average_bits=3.7).average_bits <= 3.7
    assert asked == 2


def test_an_unfinished_proof_is_reported_and_still_keeps_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = 0
    for seed in range(10):
        table = brute_free_table(20, seed, "noisy")
        for budget in ({"average_bits": 3.7}, {"max_damage": 2.0 * float(table.damage.min(axis=1).sum())}):
            best = allocate(table, **budget)
            with monkeypatch.context() as patch:
                patch.setattr(EXACT, "MOST_PARTIAL_SUMS", 0)
                plan = allocate(table, **budget)
            gap = plan.provenance["optimality_gap"]
            reported += gap > 0
            if "max_damage" in budget:
                assert plan.predicted_damage <= budget["max_damage"]
                assert best.bytes <= plan.bytes <= best.bytes + gap
                assert plan.bytes == best.bytes
            else:
                assert plan.average_bits <= 3.7
                assert best.predicted_damage <= plan.predicted_damage <= (best.predicted_damage + gap) * (1 + 1e-12)
                # What the solver found is used: it is the optimum, though not proven here.
                assert plan.predicted_damage <= best.predicted_damage * (1 + 1e-9)
    assert reported > 0


def test_all_but_proportional_tables_do_not_explode() -> None:
    """Every plan is about as good per byte as any other: the hardest kind for an enumeration."""
    rng = np.random.default_rng(1)
    shapes = [(int(rng.integers(8, 300)), int(rng.integers(8, 300))) for _ in range(200)]
    largest = [stored_bytes(shape, 8, Quantizer(group_size=32)) for shape in shapes]
    damage = [[top - stored_bytes(s, b, Quantizer(group_size=32)) for b in (2, 3, 4, 8)] for s, top in
              zip(shapes, largest, strict=True)]  # fmt: skip
    table = make_table(np.array(damage) * (1 + 1e-4 * rng.random((200, 4))), shapes)
    plan = allocate(table, average_bits=4.0)
    assert plan.average_bits <= 4.0
    assert plan.predicted_damage <= allocate(table, average_bits=4.0, method="greedy").predicted_damage


@pytest.mark.parametrize("method", METHODS)
def test_repeated_runs_are_identical(method: str) -> None:
    table = brute_free_table(40, 5, "noisy")
    first = allocate(table, average_bits=4.5, method=method)
    assert all(allocate(table, average_bits=4.5, method=method) == first for _ in range(3))


@pytest.mark.parametrize("kind", ["usual", "noisy", "range"])
def test_the_order_of_layers_does_not_matter(kind: str) -> None:
    table = brute_free_table(40, 8, kind)
    order = np.random.default_rng(0).permutation(40)
    fields = ("samples", "curve", "relative_error", "gain", "growth_rate", "growth_window")
    shuffled = replace(
        table,
        layers=tuple(table.layers[i] for i in order),
        **{name: getattr(table, name)[order] for name in fields},
    )
    for budget in ({"average_bits": 3.3}, {"bytes": 500_000}, {"max_damage": float(table.damage[:, 1].sum())}):
        a, b = allocate(table, **budget), allocate(shuffled, **budget)
        assert a.bits == b.bits
        assert a.predicted_damage == b.predicted_damage


def test_ties_go_to_fewer_bytes_and_then_to_fewer_bits_first() -> None:
    shapes = [(8, 32)] * 3
    table = make_table([[1.0, 0.5, 0.5, 0.5]] * 3, shapes)
    # Room for one step of one bit: three plans tie, the lexicographically smallest raises the last layer.
    smallest = 3 * stored_bytes((8, 32), 2, table.quantizer)
    step = stored_bytes((8, 32), 3, table.quantizer) - stored_bytes((8, 32), 2, table.quantizer)
    assert bits_of(allocate(table, bytes=smallest + step)) == (2, 2, 3)
    assert bits_of(allocate(table, bytes=smallest + 2 * step)) == (2, 3, 3)
    # More bits at the same damage are never bought.
    assert bits_of(allocate(table, bytes=10**9)) == (3, 3, 3)
    assert bits_of(allocate(table, max_damage=2.0)) == (2, 3, 3)


def test_hull_keeps_only_corners() -> None:
    table = make_table([[1.0, 0.9, 0.1, 0.0]], [(8, 64)])
    [row] = multiple_choice(build_problem(table), Budget("bytes", 10**6)).rows
    assert [row[i].bits for i in hull(row)] == [2, 4, 8]
    # Three points on one line: the middle one is no corner.
    sizes = [option.cost for option in row]
    line = make_table([[float(sizes[-1] - size) for size in sizes]], [(8, 64)])
    [row] = multiple_choice(build_problem(line), Budget("bytes", 10**6)).rows
    assert [row[i].bits for i in hull(row)] == [2, 8]


def test_the_relaxation_is_a_lower_bound_and_its_picks_are_feasible() -> None:
    for seed in range(20):
        table = brute_free_table(30, seed, "noisy")
        instance = multiple_choice(build_problem(table), Budget("average_bits", 4.0))
        multiplier, picks = relax(instance)
        assert instance.cost(picks) <= instance.limit
        best = exact_best(instance, core_of(instance, multiplier, improve(instance, picks)))
        assert best is not None
        assert core_of(instance, multiplier, best).gap >= 0
        assert instance.value(best) <= instance.value(improve(instance, picks)) <= instance.value(picks)


def test_damages_are_summed_exactly() -> None:
    """Ten times 0.1 is not 1 in floating point; the sum reported is the correctly rounded one."""
    table = make_table([[0.1] * 4] * 10, [(8, 32)] * 10)
    assert allocate(table, average_bits=8.0).predicted_damage == math.fsum([0.1] * 10)
    tiny = make_table([[5e-324, 4e-324, 0.0, 0.0], [1e300, 1e299, 1e298, 1e297]], [(8, 32)] * 2)
    assert allocate(tiny, average_bits=9.0).predicted_damage == 1e297
    huge = make_table([[1.7e308] * 4] * 2, [(8, 32)] * 2)
    assert allocate(huge, average_bits=9.0).predicted_damage == math.inf
