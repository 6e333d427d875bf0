"""The allocation problem: groups of layers that share bits, and what each choice of bits costs and damages.

Damages are kept as integers in units of 2^-exponent, in which every float64 of the table is exact. All sums and
comparisons downstream are then exact, and plans do not depend on the order of summation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tqs_fast.allocation.selection import Freeze, select
from tqs_fast.errors import InfeasibleError
from tqs_fast.quantization import Quantizer
from tqs_fast.quantization.ties import Tie
from tqs_fast.scoring.sensitivity import Layer, Sensitivity


@dataclass(frozen=True)
class Choice:
    """One bit-width for a group.

    Attributes:
        bits: per code; None keeps float32.
        bytes: stored size of the whole group.
        damage: summed over the group, in units of 2^-exponent of the problem.
    """

    bits: int | None
    bytes: int
    damage: int


@dataclass(frozen=True)
class Group:
    """Layers that share their bits.

    Attributes:
        members: layer indices, increasing.
        choices: every choice whose damage is finite, by increasing bits.
        frozen: True when the only choice was the user's.
    """

    members: tuple[int, ...]
    choices: tuple[Choice, ...]
    frozen: bool = False

    @cached_property
    def efficient(self) -> tuple[Choice, ...]:
        """The choices worth having: bytes strictly increase and damage strictly decreases.

        A choice is dropped when another has no more bytes and no more damage; of two equal ones the fewer bits stay.
        """
        kept: list[Choice] = []
        for choice in sorted(self.choices, key=lambda c: (c.bytes, c.damage)):
            if not kept or choice.damage < kept[-1].damage:
                kept.append(choice)
        return tuple(kept)


@dataclass(frozen=True)
class Problem:
    """What all methods solve, for any budget.

    Attributes:
        layers, bits, quantizer: of the table.
        groups: ordered by their first layer; every layer is in exactly one.
        exponent: damages are integers in units of 2^-exponent.
        diverged: "name at b bits" for each choice that was left out because its rollout diverged.
    """

    layers: tuple[Layer, ...]
    bits: tuple[int, ...]
    quantizer: Quantizer
    groups: tuple[Group, ...]
    exponent: int
    diverged: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def smallest_bytes(self) -> int:
        """The least size of any plan."""
        return sum(group.efficient[0].bytes for group in self.groups)

    @property
    def largest_bytes(self) -> int:
        """The size of the plan of least damage; more bytes buy nothing."""
        return sum(group.efficient[-1].bytes for group in self.groups)

    @property
    def least_damage(self) -> int:
        """In units of 2^-exponent."""
        return sum(group.efficient[-1].damage for group in self.groups)

    @property
    def most_damage(self) -> int:
        """Damage of the smallest plan, in units of 2^-exponent."""
        return sum(group.efficient[0].damage for group in self.groups)

    @property
    def bytes_bound(self) -> int:
        """No plan, however wasteful, has more bytes."""
        return sum(max(choice.bytes for choice in group.choices) for group in self.groups)

    @property
    def damage_bound(self) -> int:
        """No plan, however wasteful, has more damage, in units of 2^-exponent."""
        return sum(max(choice.damage for choice in group.choices) for group in self.groups)

    def damage(self, units: int) -> float:
        """`units` of 2^-exponent as a float, correctly rounded."""
        try:
            return units / (1 << self.exponent)
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Allocation:
    """The answer of a method.

    Attributes:
        choices: one for each group.
        gap: for a method that proves something, by how much the bounded optimum could still be better (damage, or bytes
            under a damage budget); 0 is proven optimal. None for methods that prove nothing.
    """

    choices: tuple[Choice, ...]
    gap: float | None = None

    @property
    def bytes(self) -> int:
        return sum(choice.bytes for choice in self.choices)

    @property
    def damage(self) -> int:
        """In units of 2^-exponent."""
        return sum(choice.damage for choice in self.choices)


def build_problem(table: Sensitivity, *, tie: Tie | None = None, freeze: Freeze | None = None) -> Problem:
    """Groups and choices of a table.

    Raises:
        ArgumentError: `tie` or `freeze` is wrong (see `select`).
        InfeasibleError: a group whose every choice diverged.
    """
    names = [layer.name for layer in table.layers]
    tie = table.provenance.get("tie") if tie is None else tie
    selection = select(names, table.bits, tie, freeze)
    exponent = _exponent(table)
    diverged: list[str] = []
    groups: list[Group] = []
    for members in selection.groups:
        frozen = members[0] in selection.frozen
        menu = (selection.frozen[members[0]],) if frozen else table.bits
        choices = []
        for bits in menu:
            infinite = [i for i in members if math.isinf(layer_damage(table, i, bits))]
            diverged += [f"{names[i]} at {bits} bits" for i in infinite]
            if not infinite:
                choices.append(
                    Choice(
                        bits=bits,
                        bytes=sum(table.quantizer.bytes(table.layers[i].shape, bits) for i in members),
                        damage=sum(_units(layer_damage(table, i, bits), exponent) for i in members),
                    )
                )
        if not choices:
            listed = ", ".join(names[i] for i in members)
            raise InfeasibleError(
                f"[allocate] expected a bit-width at which {listed} does not diverge, got none among "
                f"{', '.join(str(bits) for bits in menu)} bits; keep it in float: freeze=[{names[members[0]]!r}, ...]"
            )
        groups.append(Group(members, tuple(choices), frozen))
    return Problem(table.layers, table.bits, table.quantizer, tuple(groups), exponent, tuple(diverged))


def layer_damage(table: Sensitivity, index: int, bits: int | None) -> float:
    """Measured damage of one layer; float layers have none."""
    return 0.0 if bits is None else float(table.damage[index, table.bits.index(bits)])


def _exponent(table: Sensitivity) -> int:
    finite = [float(value) for value in table.damage.ravel() if math.isfinite(value)]
    return max((value.as_integer_ratio()[1].bit_length() - 1 for value in finite), default=0)


def _units(value: float, exponent: int) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (exponent - denominator.bit_length() + 1)
