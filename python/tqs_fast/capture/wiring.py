"""How the state is carried to the next step: by a copy, or as a window that slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tqs_fast.capture.graph import Operation, Tensor
from tqs_fast.capture.lower import Lowered


@dataclass(frozen=True)
class Slide:
    """A window `[outer, length, inner]` along `axis` that moves on by `length_in` positions."""

    axis: int
    outer: int
    length: int
    inner: int
    length_in: int

    @property
    def pitch(self) -> int:
        """Room for twice the window: it is moved back to the front once in `length / length_in` steps."""
        return self.length + max(self.length, self.length_in)


@dataclass(frozen=True, eq=False)
class Wired:
    """What an emitter needs to know of the ends of a step.

    Attributes:
        slides: per state leaf, or None where it is copied.
        next_states: per leaf, what it is next; of a slide, the values that join.
        users: as `passes.users_of` gives them.
        joined: as `joined_only` gives them.
    """

    states: list[Tensor]
    inputs: list[Tensor]
    slides: list[Slide | None]
    next_states: list[Tensor]
    output: Tensor
    users: dict[int, set[int]]
    joined: dict[int, Operation]

    def leaves(self, tensor: Tensor, made: set[int]) -> bool:
        """Whether `tensor` is read by others than the operations in `made`."""
        return bool(self.users[id(tensor)] - made)


def find_slide(leaf: Tensor, after: Tensor, lowered: Lowered) -> tuple[Slide, Tensor] | None:
    """`cat([leaf[b:], new], axis)` as a slide and `new`."""
    source = after.source
    if not isinstance(source, Operation) or source.kind != "concatenate":
        return None
    axis = source.attributes["axis"]
    kept = source.tensors[0].source
    if not isinstance(kept, Operation) or kept.kind != "slice" or kept.tensors[0] is not leaf:
        return None
    given, length = kept.attributes, leaf.sizes[axis]
    joining = length - source.tensors[0].sizes[axis]
    if given["axis"] != axis or given["step"] != 1 or given["start"] != joining:
        return None
    lowered.graph.origin = source.origin
    slide = Slide(axis, prod(leaf.sizes[:axis]), length, prod(leaf.sizes[axis + 1 :]), joining)
    return slide, lowered.graph.concatenate(source.tensors[1:], axis)


def wire(lowered: Lowered) -> tuple[list[Slide | None], list[Tensor]]:
    """Per state leaf its slide and what is carried over."""
    slides: list[Slide | None] = []
    carried: list[Tensor] = []
    for leaf, after in zip(lowered.states, lowered.next_states, strict=True):
        found = find_slide(leaf, after, lowered)
        slides.append(found[0] if found else None)
        carried.append(found[1] if found else after)
    return slides, carried


def joined_only(operations: Sequence[Operation], users: dict[int, set[int]]) -> dict[int, Operation]:
    """id of a tensor -> the concatenation that alone reads it, once: its piece can be computed in place."""
    joined: dict[int, Operation] = {}
    for operation in operations:
        if operation.kind == "concatenate":
            for piece in operation.tensors:
                once = sum(other is piece for other in operation.tensors) == 1
                if once and users[id(piece)] == {id(operation)}:
                    joined[id(piece)] = operation
    return joined
