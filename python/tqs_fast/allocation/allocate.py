"""The one door to all allocation methods."""

from __future__ import annotations

from collections.abc import Callable

from tqs_fast.allocation.budget import Budget, read_budget
from tqs_fast.allocation.greedy import greedy
from tqs_fast.allocation.knapsack import knapsack
from tqs_fast.allocation.lagrangian import lagrangian
from tqs_fast.allocation.plan import Plan
from tqs_fast.allocation.problem import Allocation, Problem, build_problem, layer_damage
from tqs_fast.allocation.selection import Freeze
from tqs_fast.allocation.uniform import uniform
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.ties import Tie
from tqs_fast.scoring.sensitivity import Sensitivity

METHODS: dict[str, Callable[[Problem, Budget], Allocation]] = {
    "knapsack": knapsack,
    "greedy": greedy,
    "lagrangian": lagrangian,
    "uniform": uniform,
}


def allocate(
    table: Sensitivity,
    *,
    average_bits: float | None = None,
    bytes: int | None = None,
    compression: float | None = None,
    max_damage: float | None = None,
    method: str = "knapsack",
    tie: Tie | None = None,
    freeze: Freeze | None = None,
) -> Plan:
    """Choose the bits of every layer: least predicted damage within a size, or least size within a damage.

    Exactly one budget is given; a plan is never over it. Sizes are effective: scales, zero points, padding and float
    layers count. The same table and arguments give the same plan every time.

    Args:
        table: the L layers at B bit-widths.
        average_bits: effective bits a weight over all layers of the table.
        bytes: stored size.
        compression: float32 bytes over stored bytes, at least this.
        max_damage: bound on the predicted damage, the sum of the layers' measured damages (no unit).
        method: "knapsack" (exact), "greedy", "lagrangian" or "uniform" (one bit-width for all, the baseline).
        tie: groups of layer names or patterns (`*`, `?`, `[...]`); the layers of a group share their bits. By default
            those that were scored together.
        freeze: patterns of layers that stay float32, or a dict from pattern to bits (None: float32).

    Raises:
        ArgumentError: not exactly one budget, a budget that is not a finite number of the right sign, an unknown
            method, a pattern that matches nothing, or `tie` and `freeze` that contradict each other.
        InfeasibleError: no plan meets the budget; the message names the feasible range in the unit of the budget.
    """
    budget = read_budget(average_bits=average_bits, bytes=bytes, compression=compression, max_damage=max_damage)
    check_arguments(table, method, "allocate")
    problem = build_problem(table, tie=tie, freeze=freeze)
    return make_plan(table, problem, budget, METHODS[method](problem, budget), method)


def check_arguments(table: Sensitivity, method: str, function: str) -> None:
    """Raises ArgumentError unless `table` is a sensitivity table and `method` a known name."""
    if not isinstance(table, Sensitivity):
        raise ArgumentError(f"[{function}] expected a Sensitivity (from tqs_fast.score), got {type(table).__name__}")
    if method not in METHODS:
        raise ArgumentError(f"[{function}] expected method to be one of {', '.join(METHODS)}, got {method!r}")


def make_plan(table: Sensitivity, problem: Problem, budget: Budget, allocation: Allocation, method: str) -> Plan:
    """The allocation by layer name, with the figures of the table."""
    bits: dict[int, int | None] = {}
    for group, choice in zip(problem.groups, allocation.choices, strict=True):
        bits.update(dict.fromkeys(group.members, choice.bits))
    names = [layer.name for layer in problem.layers]
    return Plan(
        bits={name: bits[i] for i, name in enumerate(names)},
        layers=problem.layers,
        quantizer=problem.quantizer,
        predicted_damage=problem.damage(allocation.damage),
        method=method,
        budget={budget.unit: budget.value},
        provenance={
            "sensitivity": table.provenance,
            "tied": [[names[i] for i in group.members] for group in problem.groups if len(group.members) > 1],
            "frozen": [names[i] for group in problem.groups if group.frozen for i in group.members],
            "optimality_gap": allocation.gap,
        },
        damage={name: layer_damage(table, i, bits[i]) for i, name in enumerate(names)},
    )
