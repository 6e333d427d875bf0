"""Checking the states and inputs that a user gives against those of the system."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map


def conform_state(system: System, windows: Any, *, allow_nan: bool = False) -> Tree:
    """`windows` as a state tree of `[N, ...]` tensors, with the structure, shapes and dtypes of the system's own.

    Raises:
        ArgumentError: another structure or shape, no initial condition at all, unequal N, NaN or infinity.
    """
    template = system.initial_state(1, torch.Generator().manual_seed(0))
    state = _conform("windows", windows, template, free=1, allow_nan=allow_nan)
    _require_one_count("windows", state)
    return state


def conform_inputs(system: System, inputs: Any, state: Tree, steps: int) -> Tree | None:
    """`inputs` as a tree of `[N, steps, ...]` tensors, cut to the steps that are needed.

    Raises:
        ArgumentError: given for a free-running system or missing for a driven one, another structure or shape, too
            few steps, another N than the state's, NaN or infinity.
    """
    if system.inputs is None:
        if inputs is not None:
            raise ArgumentError(f"[Contexts] {system.name} takes no inputs; leave inputs=None")
        return None
    if inputs is None:
        raise ArgumentError(f"[Contexts] {system.name} is driven; give inputs as a tree of [N, >= {steps}, ...]")
    template = system.inputs(1, 1, torch.Generator().manual_seed(0))
    tree = _conform("inputs", inputs, template, free=2, allow_nan=False)
    count = tree_leaves(state)[0].shape[0]
    for leaf in tree_leaves(tree):
        if leaf.shape[0] != count or leaf.shape[1] < steps:
            raise ArgumentError(
                f"[Contexts] expected inputs of shape [{count}, >= {steps}, ...], got {list(leaf.shape)}; "
                "shorten the horizon or give longer inputs"
            )
    return tree_map(lambda leaf: leaf[:, :steps], tree)


def _conform(name: str, given: Any, template: Tree, *, free: int, allow_nan: bool) -> Tree:
    """`given` with the structure of `template`; the first `free` sizes of each leaf may differ from the template's."""
    if isinstance(template, dict):
        if not isinstance(given, dict) or set(given) != set(template):
            got = f"keys {sorted(map(str, given))}" if isinstance(given, dict) else type(given).__name__
            raise ArgumentError(f"[Contexts] {name}: expected a dict with keys {sorted(template)}, got {got}")
        return {
            key: _conform(f"{name}[{key!r}]", given[key], value, free=free, allow_nan=allow_nan)
            for key, value in template.items()
        }
    if isinstance(template, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(template):
            got = f"{len(given)} items" if isinstance(given, (tuple, list)) else type(given).__name__
            raise ArgumentError(f"[Contexts] {name}: expected {len(template)} items in a tuple or list, got {got}")
        items = [
            _conform(f"{name}[{i}]", value, template[i], free=free, allow_nan=allow_nan)
            for i, value in enumerate(given)
        ]
        return type(template)(*items) if hasattr(template, "_fields") else type(template)(items)
    return _conform_leaf(name, given, template, free, allow_nan)


def _conform_leaf(name: str, given: Any, template: torch.Tensor, free: int, allow_nan: bool) -> torch.Tensor:
    if not isinstance(given, (torch.Tensor, np.ndarray)):
        raise ArgumentError(f"[Contexts] {name}: expected a tensor or an array, got {type(given).__name__}")
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiub":
            raise ArgumentError(f"[Contexts] {name}: expected numbers, got an array of dtype {given.dtype}")
        given = torch.from_numpy(np.ascontiguousarray(given))
    tensor: torch.Tensor = given.detach()
    wanted = list(template.shape[free:])
    if tensor.dim() != template.dim() or list(tensor.shape[free:]) != wanted:
        leading = ["N", "steps"][:free]
        raise ArgumentError(
            f"[Contexts] {name}: expected shape [{', '.join(leading + [str(size) for size in wanted])}], "
            f"got {list(tensor.shape)}"
        )
    if tensor.is_floating_point() and not template.is_floating_point():
        raise ArgumentError(f"[Contexts] {name}: expected integers ({template.dtype}), got {tensor.dtype}")
    tensor = tensor.to(template.dtype)
    bad = torch.isinf(tensor) if allow_nan else ~torch.isfinite(tensor)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        advice = "" if allow_nan else "; fill the gaps, or set allow_nan=True if the system masks missing values"
        raise ArgumentError(f"[Contexts] {name}: {float(tensor[tuple(where)])} at {where}{advice}")
    return tensor


def _require_one_count(name: str, state: Tree) -> None:
    counts = {leaf.shape[0] for leaf in tree_leaves(state)}
    if len(counts) != 1 or 0 in counts:
        raise ArgumentError(
            f"[Contexts] {name}: expected one number N >= 1 of initial conditions, got {sorted(counts)}"
        )
