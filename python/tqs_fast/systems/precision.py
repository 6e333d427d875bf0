"""A system in another precision: a copy of the module, and starting states and inputs cast with it."""

from __future__ import annotations

import copy

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.held import Swappable
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def in_float64(system: System) -> System:
    """`system` with every float parameter, buffer, starting state and input in float64; the original is untouched.

    A step that names a dtype itself breaks this: the first rollout then raises an error that shows the two dtypes.
    """
    return in_precision(system, "float64")


def in_precision(system: System, precision: str) -> System:
    """`system` in "float32" or "float64", see `in_float64`; itself where it is in that precision already.

    Raises:
        ArgumentError: another precision, or a module that cannot be copied.
        CaptureError: a program outside torch that has no torch form.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(f"[in_precision] expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if _has(system, dtype):
        return system
    try:
        own = system.module
        module = copy.deepcopy(own.in_torch() if isinstance(own, Swappable) else own)
    except (RuntimeError, TypeError) as error:  # what pickling raises for a handle to something outside Python
        raise ArgumentError(
            f"[in_precision] {system.name}: the module cannot be copied ({error}); give a System whose module already "
            f"is {precision}, and precision={precision!r} will not be needed"
        ) from error
    twin = copy.copy(system)
    twin.module = module.to(dtype)
    initial_state, inputs = system.initial_state, system.inputs

    def cast_state(count: int, generator: torch.Generator) -> Tree:
        return cast(initial_state(count, generator), dtype)

    twin.initial_state = cast_state
    if inputs is not None:
        drawn = inputs

        def cast_inputs(count: int, steps: int, generator: torch.Generator) -> Tree:
            return cast(drawn(count, steps, generator), dtype)

        twin.inputs = cast_inputs
    return twin


def _has(system: System, dtype: torch.dtype) -> bool:
    """Whether nothing floating of it has another dtype."""
    generator = torch.Generator().manual_seed(0)
    tensors = [*system.module.parameters(), *system.module.buffers()]
    if any(tensor.is_floating_point() and tensor.dtype != dtype for tensor in tensors):
        return False
    tensors = tree_leaves(system.initial_state(1, generator))
    if system.inputs is not None:
        tensors += tree_leaves(system.inputs(1, 1, generator))
    return all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point())


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Every floating leaf in `dtype`; others as they are."""
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)
