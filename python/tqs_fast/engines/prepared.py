"""Captured and checked programs, kept as long as the module they came from is unchanged."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from tqs_fast import kernels
from tqs_fast.capture import Program, capture, stream, transposed, verify
from tqs_fast.engines.native_call import Place
from tqs_fast.engines.native_program import Leaves, NativeProgram
from tqs_fast.engines.tf32 import allowing_tf32, tf32_asked
from tqs_fast.engines.torch_form import in_torch
from tqs_fast.errors import ArgumentError, CaptureError, TqsError
from tqs_fast.systems import System
from tqs_fast.systems.tree import Tree, tree_leaves

Key = tuple[Any, ...]

_known: WeakKeyDictionary[torch.nn.Module, dict[Any, tuple[Key, NativeProgram]]] = WeakKeyDictionary()


def prepared(
    system: System, state: Tree, *, horizon: int, transpose: bool = False, device: torch.device | None = None
) -> NativeProgram:
    """The native program of `system`, for rollouts of `horizon` values from states like `state` `[N, ...]`.

    Captured once: a later call with the same module, unchanged weights and states of the same sizes gets the same
    program. Its first steps are compared with torch. A program outside torch is captured in its torch form.
    `device`: a GPU that the weights are brought to; None: it runs where they lie. On a GPU it uses tf32 if torch does.

    Raises:
        CaptureError: the step cannot be captured, or its program does something else than the step.
    """
    system = in_torch(system)
    module = system.module
    tensors = [*module.parameters(), *module.buffers()]
    unchanged = (
        kernels.isa(),
        tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors),
        tuple((leaf.shape[1:], leaf.dtype) for leaf in tree_leaves(state)),
    )
    last = state.shape[1] + (system.steps(horizon) - 1) * system.block if system.growing else 0
    place = Place.of(module) if device is None else Place.bringing(module, device)
    tf32 = place.number >= 0 and tf32_asked()
    slot = (system.step, last, transpose, place, tf32)
    entries = _known.setdefault(module, {})
    if slot not in entries or entries[slot][0] != unchanged:
        of = transposed(system) if transpose else system
        entries[slot] = (unchanged, _prepare(of, state, last, place, tf32))
    return entries[slot][1]


def _prepare(system: System, state: Tree, last: int, place: Place, tf32: bool) -> NativeProgram:
    if system.growing:
        streamed = stream(system, state, longest=last)
        program, prologue = streamed.step, streamed.prologue
    else:
        dtype = next((leaf.dtype for leaf in tree_leaves(state) if leaf.is_floating_point()), None)
        program, prologue = capture(system, dtype=dtype), None
    if tf32:
        program, prologue = allowing_tf32(program), None if prologue is None else allowing_tf32(prologue)
    native = _bind(system, program, prologue, place)

    def run(states: Leaves, inputs: Leaves, steps: int) -> tuple[torch.Tensor, Leaves]:
        outputs, final = native.ensemble(states, inputs, steps=steps, values=steps * system.block)
        return outputs[0].transpose(0, 1), [leaf[0] for leaf in final]

    rounded = any(node.ints.get("int8", (0,))[0] for node in native.first.nodes)
    verify(run, system, state, rounded=rounded, tf32=tf32)
    return native


def _bind(system: System, program: Program, prologue: Program | None, place: Place) -> NativeProgram:
    try:
        return NativeProgram(program, prologue, place=place)
    except ArgumentError as error:
        raise CaptureError(f'[capture] {system.name}: no native op fits: {error}; use engine="torch"') from error
    except TqsError as error:
        if place.number < 0:
            raise
        raise CaptureError(f'[capture] {system.name} on {place.device}: {error}; use engine="torch"') from error
