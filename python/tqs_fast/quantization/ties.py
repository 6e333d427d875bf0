"""Groups of layers that share their bits, from names and patterns: for scoring (one probe moves all) and allocation."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tqs_fast.errors import ArgumentError

Tie = Sequence[Sequence[str]]


def matching(names: Sequence[str], pattern: object, argument: str, function: str) -> list[int]:
    """Indices of the names that a name or pattern selects.

    Raises:
        ArgumentError: no text, or it matches nothing.
    """
    if not isinstance(pattern, str):
        raise ArgumentError(f"[{function}] expected {argument} to hold layer names or patterns, got {pattern!r}")
    # An exact name comes first: brackets in a name must not be read as a pattern.
    found = [i for i, name in enumerate(names) if name == pattern]
    found = found or [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
    if not found:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ArgumentError(f"[{function}] the {argument} pattern {pattern!r} matches no layer; the layers are {shown}")
    return found


def tied_groups(names: Sequence[str], tie: Tie | None, function: str) -> list[tuple[int, ...]]:
    """Indices of each group, increasing.

    Raises:
        ArgumentError: a pattern that matches nothing, or a layer in two groups.
    """
    if tie is None:
        return []
    if isinstance(tie, str) or any(isinstance(patterns, str) or not patterns for patterns in tie):
        raise ArgumentError(f"[{function}] expected tie to be a list of non-empty lists of layer names, got {tie!r}")
    groups = [
        tuple(sorted({index for pattern in patterns for index in matching(names, pattern, "tie", function)}))
        for patterns in tie
    ]
    seen: set[int] = set()
    for group in groups:
        for index in group:
            if index in seen:
                raise ArgumentError(
                    f"[{function}] expected {names[index]!r} in one tie group, got it in two; merge the groups"
                )
        seen |= set(group)
    return groups
