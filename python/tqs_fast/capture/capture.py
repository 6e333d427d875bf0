"""`capture`: a step of a system as a program."""

from __future__ import annotations

import torch

from tqs_fast.capture.demand import narrow
from tqs_fast.capture.emit import emit
from tqs_fast.capture.export import export_step
from tqs_fast.capture.fuse import fuse
from tqs_fast.capture.lower import lower
from tqs_fast.capture.passes import needed, users_of
from tqs_fast.capture.patterns import recognise
from tqs_fast.capture.program import Program
from tqs_fast.capture.spread import spread
from tqs_fast.capture.wiring import Wired, joined_only, wire
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_map


def capture(
    system: System,
    *,
    module: torch.nn.Module | None = None,
    dtype: torch.dtype | None = None,
    whole: bool = False,
) -> Program:
    """One step of `system`, for one sample.

    Args:
        module: captured in place of `system.module` (a copy in float64, say).
        dtype: of the floating leaves of state and input; by default what the system draws.
        whole: keep what is computed for positions that nothing asks for (`streaming` follows positions).

    Raises:
        CaptureError: the step has an op that a program cannot express, branches on values, draws random numbers or
            changes its module; the message names the op and the module it is in.
    """
    state, step_input = example(system, dtype)
    lowered = lower(export_step(system, system.module if module is None else module, state, step_input), system.name)
    slides, carried = wire(lowered)
    results = [*carried, lowered.output]
    graph, results = recognise(needed(lowered.graph, results), results)
    if not whole:
        graph, results = narrow(needed(graph, results), results)
    graph, results = spread(needed(graph, results), results)
    operations = needed(graph, results)
    users = users_of(operations, results)
    wired = Wired(
        lowered.states, lowered.inputs, slides, results[:-1], results[-1], users, joined_only(operations, users)
    )
    return emit(fuse(operations, results), wired)


def example(system: System, dtype: torch.dtype | None = None) -> tuple[Tree, Tree | None]:
    """A state and an input `[1, ...]`, on the device of the module."""
    generator = torch.Generator().manual_seed(0)
    device = next((parameter.device for parameter in system.module.parameters()), torch.device("cpu"))

    def prepared(leaf: torch.Tensor) -> torch.Tensor:
        # copied: a tensor that is several leaves at once (zeros, say) would be exported as one
        return leaf[:1].to(device=device, dtype=dtype if leaf.is_floating_point() else None, copy=True)

    state = tree_map(prepared, system.initial_state(1, generator))
    if system.inputs is None:
        return state, None
    return state, tree_map(lambda leaf: prepared(leaf[:, 0]), system.inputs(1, 1, generator))
