"""Which values of a program run along the positions of a window, and whether a position sees only earlier ones.

A program captured on a window of L positions is *causal* when what it computes at position p depends on positions up to
p only, and every op treats positions alike. Keys and values can then be kept from step to step (see `streaming`).
Everything else (a mean over the window, a convolution along it, a mask of another form) is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tqs_fast.capture.program import Node, Program, Value
from tqs_fast.errors import CaptureError

ALIKE = ("elementwise", "linear", "packed_linear", "normalize", "softmax", "reduce", "copy")


@dataclass(frozen=True)
class Along:
    """A value with something for every position along `axis`, whose size is `outer * L * inner`.

    Capture merges axes that adjoin in memory, so that positions may share one with what lies inside or outside them.
    """

    axis: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Newest:
    """A value of the newest position only."""


Place = Along | Newest | None  # None: the same at every position


@dataclass(frozen=True)
class Positions:
    """Where the positions of a program lie.

    Attributes:
        length: L.
        strides: per buffer, elements from one position to the next; None where it has no positions.
        places: per value.
    """

    length: int
    strides: tuple[int | None, ...]
    places: tuple[Place, ...]


def find_positions(program: Program, length: int) -> Positions:
    """Follow the positions of the window `[1, L, C]`, the only state leaf, through the program.

    Raises:
        CaptureError: the program is not causal, or it cannot be told that it is.
    """
    if len(program.states) != 1 or program.inputs:
        raise CaptureError("[stream] expected a step with one state leaf, the window, and no inputs")
    window = program.states[0].buffer
    finder = _Finder(program, length)
    finder.strides[window] = program.buffers[window].elements // length
    for node in program.nodes:
        finder.visit(node)
    if finder.place(program.output, None) != Newest():
        raise CaptureError("[stream] the output of the step does not come from the newest position")
    return Positions(length, tuple(finder.strides), tuple(finder.places))


def is_causal_mask(tensor: torch.Tensor, value: Value) -> bool:
    """Whether a constant mask `[..., L, L]` hides later positions and nothing else."""
    mask = torch.as_strided(tensor.flatten(), value.sizes, value.strides, value.offset)
    visible = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    expected = torch.zeros(mask.shape[-2:], dtype=mask.dtype).masked_fill(~visible, -torch.inf)
    return bool((mask == expected).all())


class _Finder:
    def __init__(self, program: Program, length: int) -> None:
        self.program = program
        self.length = length
        self.strides: list[int | None] = [None] * len(program.buffers)
        self.places: list[Place] = [None] * len(program.values)
        self._newest: set[int] = set()  # buffers of one position, kept as they are
        self._constants = {constant.buffer: constant for constant in program.constants}

    def refuse(self, node: Node | None, reason: str) -> CaptureError:
        where = "the output" if node is None else node.origin or node.kind
        return CaptureError(f"[stream] {where}: {reason}; positions cannot be kept from step to step")

    def place(self, number: int, node: Node | None) -> Place:
        """Of a value whose buffer's stride is known."""
        value = self.program.values[number]
        stride = self.strides[value.buffer]
        if stride is None:
            self.places[number] = Newest() if value.buffer in self._newest else None
            return self.places[number]
        along = self._along(value.sizes, value.strides, stride)
        position = value.offset // stride % self.length
        if along is not None and position == 0:
            self.places[number] = along
        elif along is None and position == self.length - 1 and self._avoids_positions(value, stride):
            self.places[number] = Newest()
        else:
            raise self.refuse(node, "it picks positions other than all or the newest")
        return self.places[number]

    def _along(self, sizes: tuple[int, ...], strides: tuple[int, ...], stride: int) -> Along | None:
        """The axis of a value that runs over all positions, which are `stride` apart."""
        for axis, (n, s) in enumerate(zip(sizes, strides, strict=True)):
            if n > 1 and s > 0 and stride % s == 0 and n % (self.length * (stride // s)) == 0:
                return Along(axis, n // (self.length * (stride // s)), stride // s)
        return None

    def _avoids_positions(self, value: Value, stride: int) -> bool:
        """Whether no axis of the value steps from one position to another."""
        period = stride * self.length
        axes = [(n, s) for n, s in zip(value.sizes, value.strides, strict=True) if n > 1]
        return all((n - 1) * s < stride or s % period == 0 for n, s in axes)

    def visit(self, node: Node) -> None:
        places = {number: self.place(number, node) for number in node.inputs if number >= 0}
        moving = {number: place for number, place in places.items() if place is not None}
        if not moving:
            return
        if node.kind == "attention":
            place = self._attention(node)
        elif node.kind in ALIKE:
            place = self._alike(node, list(moving.values()))
        else:
            raise self.refuse(node, f"{node.kind} may mix positions")
        for number in node.outputs:
            self._follow(node, number, place)
        if node.kind == "elementwise":
            for number in node.inputs:
                if places[number] is None:
                    self._broadcast(node, number, place)

    def _alike(self, node: Node, places: list[Place]) -> Place:
        if any(place != places[0] for place in places):
            raise self.refuse(node, "it combines the newest position with earlier ones")
        place = places[0]
        if isinstance(place, Along):
            rank = len(self.program.values[node.inputs[0]].sizes)
            mixed = {
                "linear": {rank - 1},
                "packed_linear": {rank - 1},
                "softmax": {rank - 1},
                "normalize": set(range(rank - node.ints.get("axes", (0,))[0], rank)),
                "reduce": set(node.ints.get("axes", ())),
            }.get(node.kind, set())
            if place.axis in mixed:
                raise self.refuse(node, f"{node.kind} runs over all positions")
        return place

    def _attention(self, node: Node) -> Place:
        query, key, value, mask = (*node.inputs, -1)[:4]
        rank = len(self.program.values[query].sizes)
        rows = Along(rank - 2)
        if self.places[key] != rows or self.places[value] != rows or self.places[query] not in (rows, Newest()):
            raise self.refuse(node, "attention does not run along the positions")
        hidden = bool(node.ints.get("causal", (0,))[0])
        offset = node.ints.get("causal_offset", (0,))[0]
        if mask >= 0:
            constant = self._constants.get(self.program.values[mask].buffer)
            whole = self.places[query] == rows and constant is not None
            hidden = whole and is_causal_mask(constant.tensor, self.program.values[mask])  # type: ignore[union-attr]
            offset = 0
        if self.places[query] == rows and not (hidden and offset == 0):
            raise self.refuse(node, "attention is not causal")
        if self.places[query] == Newest() and (mask >= 0 or (hidden and offset != self.length - 1)):
            raise self.refuse(node, "attention hides some earlier positions")
        return self.places[query]

    def _follow(self, node: Node, number: int, place: Place) -> None:
        value = self.program.values[number]
        if isinstance(place, Newest):
            self._newest.add(value.buffer)
            self.places[number] = place
            return
        assert isinstance(place, Along)
        stride = value.strides[place.axis] * place.inner
        if value.sizes[place.axis] != self.length * place.inner * place.outer or value.offset >= stride:
            raise self.refuse(node, "positions are joined with others")
        if self.strides[value.buffer] not in (None, stride):
            raise self.refuse(node, "positions are laid out in two ways")
        self.strides[value.buffer] = stride
        self.places[number] = place

    def _broadcast(self, node: Node, number: int, place: Place) -> None:
        """What meets positions without having come from them: the same for all, or a constant table with a row each."""
        value = self.program.values[number]
        constant = self._constants.get(value.buffer)
        if isinstance(place, Along):
            if value.strides[place.axis] and (constant is None or place.outer > 1):
                raise self.refuse(node, "it meets positions that it cannot follow")
            self.places[number] = place
            return
        if constant is None:
            return
        axes = [a for a, n in enumerate(constant.tensor.shape) if n == self.length]
        strides = [constant.tensor.stride(a) for a in axes]
        for stride in strides:
            last = value.offset // stride % self.length == self.length - 1
            if last and self._avoids_positions(value, stride):
                self.places[number] = Newest()
