"""Which layers share their bits (`tie`) and which are fixed beforehand (`freeze`), from names and patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.ties import Tie, matching, tied_groups

Freeze = Sequence[str] | Mapping[str, int | None]


@dataclass(frozen=True)
class Selection:
    """The groups of a problem.

    Attributes:
        groups: layer indices of each group, increasing; groups are ordered by their first layer, every layer is in one.
        frozen: fixed bits (None: float) by layer index.
    """

    groups: tuple[tuple[int, ...], ...]
    frozen: dict[int, int | None]


def select(names: Sequence[str], bits: Sequence[int], tie: Tie | None, freeze: Freeze | None) -> Selection:
    """Resolve `tie` and `freeze` against the layer names.

    Raises:
        ArgumentError: a pattern that matches nothing, a layer in two groups, a contradiction, or bits not in the menu.
    """
    frozen = _frozen(names, bits, freeze)
    tied: dict[int, tuple[int, ...]] = {}
    for group in tied_groups(names, tie, "allocate"):
        tied |= dict.fromkeys(group, group)
        _check_frozen_alike(names, group, frozen)
    groups = dict.fromkeys(tied.get(index, (index,)) for index in range(len(names)))
    return Selection(tuple(groups), frozen)


def _frozen(names: Sequence[str], bits: Sequence[int], freeze: Freeze | None) -> dict[int, int | None]:
    if freeze is None:
        return {}
    if isinstance(freeze, str):
        raise ArgumentError(f"[allocate] expected freeze to be a list of patterns or a dict, got the string {freeze!r}")
    wanted = freeze if isinstance(freeze, Mapping) else dict.fromkeys(freeze)
    frozen: dict[int, int | None] = {}
    for pattern, value in wanted.items():
        if value is not None and (isinstance(value, bool) or value not in bits):
            raise ArgumentError(
                f"[allocate] expected freeze[{pattern!r}] to be a scored bit-width {tuple(bits)} or None (float), "
                f"got {value!r}"
            )
        for index in matching(names, pattern, "freeze", "allocate"):
            if frozen.setdefault(index, value) != value:
                raise ArgumentError(
                    f"[allocate] {names[index]!r} is frozen to both {_bits(frozen[index])} and {_bits(value)}; "
                    "make the freeze patterns exclude each other"
                )
    return frozen


def _check_frozen_alike(names: Sequence[str], group: tuple[int, ...], frozen: dict[int, int | None]) -> None:
    first = group[0]
    for index in group[1:]:
        if (index in frozen) != (first in frozen) or frozen.get(index) != frozen.get(first):
            states = [_bits(frozen[i]) if i in frozen else "not frozen" for i in (first, index)]
            raise ArgumentError(
                f"[allocate] {names[first]!r} ({states[0]}) and {names[index]!r} ({states[1]}) are tied; "
                "freeze both alike or neither"
            )


def _bits(value: int | None) -> str:
    return "float" if value is None else f"{value} bits"
