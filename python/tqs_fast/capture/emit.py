"""From a graph to a program: buffers, strides, nodes."""

from __future__ import annotations

from collections.abc import Sequence

from tqs_fast.capture.emission import EMITTERS, Memory, elementwise
from tqs_fast.capture.fuse import Group
from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.layout import Layout, contiguous, reshape_strides
from tqs_fast.capture.program import NextState, Program
from tqs_fast.capture.wiring import Wired


def emit(groups: Sequence[Group], wired: Wired) -> Program:
    """Lay the groups out in memory.

    Raises:
        CaptureError: a tensor keeps more than eight axes.
    """
    memory = Memory(wired)
    for group in groups:
        memory.origin = group.operations[-1].origin
        if group.is_elementwise:
            elementwise(memory, group)
        else:
            operation = group.operations[0]
            EMITTERS[operation.kind](memory, operation)
    memory.origin = "step"
    states = tuple(_next_state(memory, position) for position in range(len(memory.states)))
    output = memory.value(_in_arena(memory, wired.output))
    return Program(
        tuple(memory.buffers),
        tuple(memory.values),
        tuple(memory.nodes),
        tuple(memory.constants.listed),
        states,
        tuple(memory.inputs),
        output,
        packed=tuple(memory.constants.packed_weights),
    )


def _in_arena(memory: Memory, tensor: Tensor) -> Layout:
    """What leaves the step is never a view of what the step is given."""
    layout = memory.layout(tensor)
    return layout if memory.buffers[layout.buffer].kind == "arena" else memory.copied(tensor)


def _next_state(memory: Memory, position: int) -> NextState:
    """What state leaf number `position` becomes."""
    buffer, tensor, slide = memory.states[position], memory.wired.next_states[position], memory.wired.slides[position]
    layout = _in_arena(memory, tensor)
    if slide is None:
        return NextState(buffer, memory.value(layout))
    rows = (slide.outer, slide.length_in, slide.inner)
    strides = reshape_strides(layout.sizes, layout.strides, rows)
    if strides is None:
        layout = memory.copied(tensor)
        strides = contiguous(rows)
    joining = memory.value(Layout(layout.buffer, layout.offset, rows, strides))
    return NextState(buffer, joining, slide.length_in, slide.outer, slide.length, slide.inner, slide.pitch)
