"""What a search moves in: plans that keep the ties, the frozen layers and the size of the plan it starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.plan import Plan
from tqs_fast.allocation.problem import Problem, build_problem, layer_damage
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.sensitivity import Sensitivity

Bits: TypeAlias = tuple[int | None, ...]
"""Bits of every group of a space, in order; None keeps float32."""

SIZES = ("average_bits", "bytes", "compression")


@dataclass(frozen=True)
class Space:
    """All plans that a search may return.

    Attributes:
        table: first-order damages; a search orders its moves by them.
        problem: groups of tied layers, and the choices of each whose own rollout did not diverge.
        limit: the largest size in bytes.
    """

    table: Sensitivity
    problem: Problem
    limit: int

    @cached_property
    def menus(self) -> tuple[tuple[int | None, ...], ...]:
        """Bit-widths that moves may give each group, increasing; one for a frozen group."""
        return tuple(tuple(choice.bits for choice in group.choices) for group in self.problem.groups)

    @cached_property
    def _bytes(self) -> tuple[dict[int | None, int], ...]:
        layers, quantizer = self.problem.layers, self.problem.quantizer
        return tuple(
            {b: sum(quantizer.bytes(layers[i].shape, b) for i in group.members) for b in (*self.table.bits, None)}
            for group in self.problem.groups
        )

    @cached_property
    def _damage(self) -> tuple[dict[int | None, float], ...]:
        return tuple(
            {b: sum(layer_damage(self.table, i, b) for i in group.members) for b in (*self.table.bits, None)}
            for group in self.problem.groups
        )

    def choice_bytes(self, group: int, bits: int | None) -> int:
        """Stored size of one group."""
        return self._bytes[group][bits]

    def bytes(self, bits: Bits) -> int:
        """Stored size of a plan."""
        return sum(self._bytes[g][b] for g, b in enumerate(bits))

    def predicted(self, bits: Bits) -> float:
        """First-order damage: the sum over layers; infinite where a layer diverges on its own."""
        return math.fsum(self._damage[g][b] for g, b in enumerate(bits))

    def choice_damage(self, group: int, bits: int | None) -> float:
        """First-order damage of one group."""
        return self._damage[group][bits]

    def of_plan(self, plan: Plan, name: str) -> Bits:
        """The bits of each group in `plan`.

        Raises:
            ArgumentError: `plan` is not one of this space; `name` says which it is.
        """
        _check_same(self.table, plan, name)
        names = [layer.name for layer in self.problem.layers]
        bits: list[int | None] = []
        for group in self.problem.groups:
            found = {plan.bits[names[i]] for i in group.members}
            if len(found) > 1:
                raise ArgumentError(
                    f"[search] expected {name} to keep the ties of the plan, got different bits for "
                    f"{', '.join(names[i] for i in group.members)}; allocate it with the same tie"
                )
            bits.append(found.pop())
            if group.frozen and bits[-1] != group.choices[0].bits:
                raise ArgumentError(
                    f"[search] expected {name} to keep {names[group.members[0]]} at {_shown(group.choices[0].bits)} "
                    f"as the plan does, got {_shown(bits[-1])}; allocate it with the same freeze"
                )
            if bits[-1] not in self._bytes[len(bits) - 1]:
                raise ArgumentError(
                    f"[search] expected {name} to use the bits of the table {self.table.bits}, got {bits[-1]} for "
                    f"{names[group.members[0]]}; score that bit-width too"
                )
        if self.bytes(tuple(bits)) > self.limit:
            raise ArgumentError(
                f"[search] expected {name} of at most {self.limit} bytes, the budget of the plan, got "
                f"{self.bytes(tuple(bits))}; allocate it at the same budget"
            )
        return tuple(bits)

    def by_layer(self, bits: Bits) -> dict[str, int | None]:
        """Bits by layer name, in the order of the layers."""
        group_of = {i: g for g, group in enumerate(self.problem.groups) for i in group.members}
        return {layer.name: bits[group_of[i]] for i, layer in enumerate(self.problem.layers)}

    def uniform(self) -> dict[str, Bits]:
        """Every uniform plan within the budget, by name; frozen groups stay as they are."""
        plans = {}
        for b in self.table.bits:
            bits = tuple(menu[0] if g.frozen else b for g, menu in zip(self.problem.groups, self.menus, strict=True))
            if self.bytes(bits) <= self.limit:
                plans[f"uniform {b}"] = bits
        return plans


def build_space(table: Sensitivity, plan: Plan) -> Space:
    """The space around `plan`: its tied and frozen layers stay so, and its budget is kept.

    The budget is what the plan was allocated for where that is a size (its own bytes may be a little less), else the
    bytes of the plan.

    Raises:
        ArgumentError: the plan is not of this table.
        InfeasibleError: a layer that may move diverged at every bit-width of the table.
    """
    _check_same(table, plan, "plan")
    tied = plan.provenance.get("tied", [])
    frozen = {name: plan.bits[name] for name in plan.provenance.get("frozen", [])}
    frozen |= {name: None for name, bits in plan.bits.items() if bits is None}
    problem = build_problem(table, tie=tied or None, freeze=frozen or None)
    limits = [Budget(unit, value).limit(problem) for unit, value in plan.budget.items() if unit in SIZES]
    space = Space(table, problem, max([plan.bytes, *limits]))
    space.of_plan(plan, "plan")
    return space


def _check_same(table: Sensitivity, plan: Plan, name: str) -> None:
    if plan.layers != table.layers:
        differing = sorted({layer.name for layer in plan.layers} ^ {layer.name for layer in table.layers})
        where = f"{differing[0]!r} is in one but not the other" if differing else "their shapes or order differ"
        raise ArgumentError(
            f"[search] expected {name} with the layers of the table; {where}; allocate it from a table "
            "of the same layers and row blocks"
        )
    if plan.quantizer != table.quantizer:
        raise ArgumentError(
            f"[search] expected {name} with the quantizer of the table {table.quantizer}, got {plan.quantizer}"
        )
    if plan.activations:
        raise ArgumentError(
            f"[search] expected {name} without int8 activations, which a search of bits does not measure; search "
            "first, then choose_activations"
        )


def _shown(bits: int | None) -> str:
    return "float" if bits is None else f"{bits} bits"
