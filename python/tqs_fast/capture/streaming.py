"""A causal program, one position at a time: keys and values are kept instead of computed again.

A forecaster whose context grows sees one new position a step (or `block` of them). Where the captured program is causal
(`causality`), two programs do the work of the whole: a *prologue* over the first positions, which fills the caches, and
a *step* over the new ones. A tangent rollout keeps the tangents of keys and values in the same caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch

from tqs_fast.capture.capture import capture
from tqs_fast.capture.causality import Along, Newest, Place, Positions, find_positions
from tqs_fast.capture.program import Buffer, NextState, Node, Program, Value
from tqs_fast.systems import System


@dataclass(frozen=True, eq=False)
class Streamed:
    """Two programs with the same constants and the same states: the first window, the newest values, and the caches.

    Attributes:
        prologue: one step over `context` positions.
        step: every later step, over `block` new positions.
        caches: elements of each cache, per sample.
    """

    prologue: Program
    step: Program
    caches: tuple[int, ...]


def stream(system: System, state: torch.Tensor, *, longest: int) -> Streamed:
    """Capture a forecaster with a growing context.

    Args:
        system: a growing `Forecaster`.
        state: windows `[N, context, C]` that rollouts begin with.
        longest: positions that the last step sees.

    Raises:
        CaptureError: the step cannot be captured, or is not causal.
    """
    context, channels = state.shape[1:]

    def look(module: torch.nn.Module, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return window, system.step(module, window)[1]

    def windows(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, longest, channels, generator=generator)

    looking = System(system.module, step=look, initial_state=windows, block=system.block, name=system.name)
    program = capture(looking, dtype=state.dtype, whole=True)
    return split(program, length=longest, context=context, block=system.block)


def split(program: Program, *, length: int, context: int, block: int) -> Streamed:
    """Split a program captured on a window of `length` positions.

    Args:
        program: its only state is the window `[1, length, C]`; what follows the window is ignored.
        length: positions that the last step sees.
        context: positions that the first step sees.
        block: positions that join at every later step.

    Raises:
        CaptureError: the program is not causal.
    """
    positions = find_positions(program, length)
    prologue = _Narrower(program, positions, first=0, count=context, window=context, block=block, steps=1)
    later = (length - context) // block
    step = _Narrower(program, positions, first=context, count=block, window=context, block=block, steps=later)
    return Streamed(prologue.program(), step.program(), tuple(buffer.elements for buffer in prologue.caches))


class _Narrower:
    """The program over positions `[first + t * count, first + (t + 1) * count)` at step t."""

    def __init__(
        self, program: Program, positions: Positions, *, first: int, count: int, window: int, block: int, steps: int
    ) -> None:
        self._source = program
        self._positions = positions
        self._first = first
        self._count = count
        self._steps = steps
        self._window = window
        self._block = block
        self._moves = count if steps > 1 else 0
        self._nodes = self._needed()
        used = {program.output, *(number for node in self._nodes for number in (*node.inputs, *node.outputs))}
        self._buffers = [self._buffer(number) for number in range(len(program.buffers))]
        self._values = [
            self._value(number) if number in used else Value(program.values[number].buffer, 0, (), ())
            for number in range(len(program.values))
        ]
        self._cached: dict[int, tuple[int, int]] = {}  # key or value -> where it is written, where it is read
        self.caches: list[Buffer] = []
        self._cache_numbers: list[int] = []

    def program(self) -> Program:
        source = self._source
        window = source.states[0].buffer
        channels = source.buffers[window].elements // self._positions.length
        # The source's state is the first window in the prologue, the newest values in a step; the other is added.
        other = Buffer("state", source.buffers[window].precision, channels * self._window)
        if self._count == self._window and self._first == 0:
            other = replace(other, elements=channels * self._block)
        self._buffers.append(other)
        added = len(self._buffers) - 1
        nodes = [made for node in self._nodes for made in self._node(node)]
        prologue = self._first == 0
        newest, kept = (added, window) if prologue else (window, added)
        states = [NextState(kept, -1), NextState(newest, source.output)]
        states += [NextState(number, -1) for number in self._cache_numbers]
        return Program(
            buffers=tuple(self._buffers),
            values=tuple(self._values),
            nodes=tuple(nodes),
            constants=source.constants,
            states=tuple(states),
            inputs=(),
            output=source.output,
            longest=max(self._steps, 1),
            packed=source.packed,
        )

    def _needed(self) -> list[Node]:
        """The nodes that the output depends on; what only made the next window is left out."""
        source = self._source
        buffers = {source.values[source.output].buffer}
        kept = []
        for node in reversed(source.nodes):
            if any(source.values[number].buffer in buffers for number in node.outputs):
                kept.append(node)
                buffers |= {source.values[number].buffer for number in node.inputs if number >= 0}
        return kept[::-1]

    def _buffer(self, number: int) -> Buffer:
        buffer = self._source.buffers[number]
        if self._positions.strides[number] is None:
            return buffer
        return replace(buffer, elements=buffer.elements // self._positions.length * self._count)

    def _value(self, number: int) -> Value:
        """A view of all positions, or of the newest, becomes one of the positions at hand."""
        value = self._source.values[number]
        place = self._positions.places[number]
        stride = self._positions.strides[value.buffer]
        if place is None:
            return value
        if self._source.buffers[value.buffer].kind == "constant":
            return self._table(value, place)
        if stride is None:  # the newest position only, or the same at every position
            return replace(value, sizes=self._sizes(value, place))
        length, count = self._positions.length, self._count
        outer, rest = divmod(value.offset, stride * length)
        position, inner = divmod(rest, stride)
        if isinstance(place, Newest):
            position = count - 1
        return Value(
            buffer=value.buffer,
            offset=outer * stride * count + position * stride + inner,
            sizes=self._sizes(value, place),
            strides=tuple(s if s <= stride else s // length * count for s in value.strides),
        )

    def _sizes(self, value: Value, place: Place) -> tuple[int, ...]:
        if not isinstance(place, Along):
            return value.sizes
        narrowed = place.outer * self._count * place.inner
        return tuple(narrowed if axis == place.axis else n for axis, n in enumerate(value.sizes))

    def _table(self, value: Value, place: Along | Newest) -> Value:
        """Rows of a constant table of positions, which move on with the steps."""
        if isinstance(place, Along):
            stride = value.strides[place.axis] * place.inner
            sizes = self._sizes(value, place)
            return replace(value, offset=value.offset + self._first * stride, sizes=sizes, step=self._moves * stride)
        constant = next(c for c in self._source.constants if c.buffer == value.buffer)
        axis = constant.tensor.shape.index(self._positions.length)
        stride = constant.tensor.stride(axis)
        back = self._positions.length - (self._first + self._count)
        return replace(value, offset=value.offset - back * stride, step=self._moves * stride)

    def _node(self, node: Node) -> list[Node]:
        if node.kind != "attention":
            return [node]
        query, key, value = node.inputs[:3]
        written = [self._cache(number) for number in (key, value)]
        seen = self._first
        if isinstance(self._positions.places[query], Newest):
            seen += self._count - 1
        attributes = {**node.ints, "causal": (1,), "causal_offset": (seen,), "causal_step": (self._moves,)}
        whole = replace(node, inputs=(query, *(read for _, read, _ in written), -1), ints=attributes)
        return [copy for _, _, copy in written if copy is not None] + [whole]

    def _cache(self, number: int) -> tuple[int, int, Node | None]:
        """Where a key or value is written, where all of it is read, and the copy that writes it (once)."""
        if number in self._cached:
            return (*self._cached[number], None)
        source = self._source.values[number]
        place = self._positions.places[number]
        assert isinstance(place, Along)
        strides = tuple(prod(source.sizes[axis + 1 :]) for axis in range(len(source.sizes)))
        cache = Buffer("state", self._source.buffers[source.buffer].precision, prod(source.sizes))
        self.caches.append(cache)
        self._buffers.append(cache)
        buffer = len(self._buffers) - 1
        self._cache_numbers.append(buffer)
        stride = strides[place.axis]
        read = Value(buffer, 0, source.sizes, strides)
        write = Value(buffer, self._first * stride, self._values[number].sizes, strides, step=self._moves * stride)
        self._values += [write, read]
        self._cached[number] = (len(self._values) - 2, len(self._values) - 1)
        copy = Node("copy", (number,), (len(self._values) - 2,), origin="cache")
        return (*self._cached[number], copy)
