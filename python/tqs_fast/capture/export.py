"""From a step to a flat torch graph at batch size one: torch.export, and what to say where it fails."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from tqs_fast.capture.cells import CellsWrittenOut
from tqs_fast.errors import CaptureError, TqsError
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

LOGGER = logging.getLogger("torch.fx.experimental.symbolic_shapes")  # of its difficulties with values
WAY_OUT = 'use engine="torch"'
# Kept whole, beside what core ATen keeps: each has a kernel or a shorter lowering of its own.
WHOLE = (
    "_fused_rms_norm",
    "layer_norm",
    "linear",
    "log_sigmoid_forward",
    "logsumexp",
    "matmul",
    "rms_norm",
    "roll",
    "scaled_dot_product_attention",
    "select_scatter",
    "silu",
    "slice_scatter",
    "softplus",
)


@dataclass(frozen=True, eq=False)
class Exported:
    """One step as a torch.fx graph in core ATen.

    Attributes:
        graph: placeholders of parameters and buffers first, then state and input leaves in tree order.
        constants: placeholder name -> (parameter name or None, tensor).
        states, inputs: placeholder names of the leaves.
        results: per state leaf, then the output, what the graph returns for it.
    """

    graph: torch.fx.Graph
    constants: dict[str, tuple[str | None, torch.Tensor]]
    states: list[str]
    inputs: list[str]
    results: list[torch.fx.Node]


class _Step(torch.nn.Module):
    """The step over flat leaves."""

    def __init__(self, system: System, module: torch.nn.Module, state: Tree, step_input: Tree | None) -> None:
        super().__init__()
        self.module = module
        self._step = system.step
        self._trees = [state] if step_input is None else [state, step_input]

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(leaves)
        trees = [tree_map(lambda _: next(given), tree) for tree in self._trees]
        state, output = self._step(self.module, *trees)
        return (*tree_leaves(tree_like(self._trees[0], state)), output)


def export_step(system: System, module: torch.nn.Module, state: Tree, step_input: Tree | None) -> Exported:
    """Export one step.

    Args:
        module: stepped in place of `system.module`.
        state, step_input: trees of `[1, ...]`; None for a free-running system.

    Raises:
        CaptureError: torch.export cannot trace the step, or the step changes a buffer of the module.
    """
    leaves = [*tree_leaves(state), *([] if step_input is None else tree_leaves(step_input))]
    wrapper = _Step(system, module, state, step_input).eval()
    try:
        with tracing() as caught:
            program = torch.export.export(wrapper, tuple(leaves), strict=False)
            program = program.run_decompositions(_decompositions())
    except TqsError:
        raise
    except Exception as error:  # torch raises many kinds, RuntimeError and its own
        raise CaptureError(f"[capture] {system.name}: {explain(error, module)}") from error
    _refuse_attributes(system, caught)
    return _flatten(system, module, program, len(tree_leaves(state)))


@cache
def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """To core ATen but for `WHOLE`."""
    table = torch.export.default_decompositions()
    return {operator: table[operator] for operator in table if str(operator).split(".")[1] not in WHOLE}


@contextmanager
def tracing() -> Iterator[list[warnings.WarningMessage]]:
    """torch as a trace needs it, and silent; the warnings it would have given."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # the fast path of attention modules is one opaque op
    torch.backends.mha.set_fastpath_enabled(False)
    was_silent, LOGGER.disabled = LOGGER.disabled, True
    try:
        # torch warns of its own internals, and prints what it had traced before it failed
        with (
            torch.no_grad(),
            CellsWrittenOut(),
            warnings.catch_warnings(record=True) as caught,
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("always")
            yield caught
    finally:
        LOGGER.disabled = was_silent
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _refuse_attributes(system: System, caught: list[warnings.WarningMessage]) -> None:
    """A tensor that a step stores in its module would be frozen; recurrent modules only renew their list of weights."""
    for warning in caught:
        message = str(warning.message)
        if "assigned during export" in message:
            names = [name for name in re.findall(r"self\.module\.([\w.\[\]]+)", message) if "_flat_weights" not in name]
            if names:
                raise CaptureError(
                    f"[capture] {system.name}: a step stores a tensor in the attribute {names[0]!r} of its module; "
                    'keep it in the state, or use engine="torch"'
                )


def _flatten(
    system: System, module: torch.nn.Module, program: torch.export.ExportedProgram, state_leaves: int
) -> Exported:
    signature = program.graph_signature
    mutated = signature.buffers_to_mutate
    if mutated:
        name = next(iter(mutated.values())).removeprefix("module.")
        raise CaptureError(
            f"[capture] {system.name}: a step changes the buffer {name!r} of its module; "
            'keep it in the state, or use engine="torch"'
        )
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    constants = {}
    for targets in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        for placeholder, target in targets.items():
            tensor: Any = program.state_dict[target] if target in program.state_dict else program.constants[target]
            constants[placeholder] = (names.get(id(tensor)), tensor)
    leaves = list(signature.user_inputs)
    nodes = {node.name: node for node in program.graph.nodes}
    kinds = torch.export.graph_signature.OutputKind
    results = [
        nodes[spec.arg.name]
        for spec in signature.output_specs
        if spec.kind == kinds.USER_OUTPUT and isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    ]
    return Exported(program.graph, constants, leaves[:state_leaves], leaves[state_leaves:], results)


def explain(error: Exception, module: torch.nn.Module) -> str:
    """One sentence of a long message, with the user's line, and what to do."""
    place = _user_place(error, module)
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            f"{place} branches on a value that it computes, or makes a number or a size of one; keep it a tensor "
            f"(torch.where in place of if), or {WAY_OUT}"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0].rstrip(".") if lines else ""
    return f"torch.export failed in {place}: {type(error).__name__}: {first[:200]}; {WAY_OUT}"


def _user_place(error: Exception, module: torch.nn.Module) -> str:
    """`layers.0 at file.py:12`: the innermost line outside torch and this folder, and whose method it is in."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    paths = {id(inner): path for path, inner in module.named_modules()}
    place = "step"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(own) and "/tqs_fast/systems/" not in file:
            path = paths.get(id(frame.f_locals.get("self"))) or "step"
            place = f"{path} at {Path(file).name}:{line}"
    return place
