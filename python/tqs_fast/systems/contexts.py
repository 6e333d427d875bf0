"""Checking the states and inputs that a user gives against those of the system."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tqs_fast._finite import all_finite
from tqs_fast.errors import ArgumentError
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map


def conform_state(
    system: System, windows: Any, *, allow_nan: bool = False, function: str = "Contexts", name: str = "windows"
) -> Tree:
    """`windows` as a state tree of `[N, ...]` tensors, with the structure, shapes and dtypes of the system's own.

    Args:
        windows: what the user gave.
        allow_nan: NaN marks missing values.
        function, name: what error messages call the caller and the argument.

    Raises:
        ArgumentError: another structure or shape, no initial condition at all, unequal N, NaN or infinity.
    """
    state = conform(function, name, windows, system.state_template, leading=("N",), allow_nan=allow_nan)
    _require_one_count(function, name, state)
    return state


def conform_inputs(system: System, inputs: Any, state: Tree, steps: int, *, function: str = "Contexts") -> Tree | None:
    """`inputs` as a tree of `[N, steps, ...]` tensors, cut to the steps that are needed.

    Raises:
        ArgumentError: given for a free-running system or missing for a driven one, another structure or shape, too
            few steps, another N than the state's, NaN or infinity.
    """
    if system.inputs is None:
        if inputs is not None:
            raise ArgumentError(f"[{function}] {system.name} takes no inputs; leave inputs=None")
        return None
    if inputs is None:
        raise ArgumentError(f"[{function}] {system.name} is driven; give inputs as a tree of [N, >= {steps}, ...]")
    tree = conform(function, "inputs", inputs, system.input_template, leading=("N", "steps"))
    count = tree_leaves(state)[0].shape[0]
    for leaf in tree_leaves(tree):
        if leaf.shape[0] != count or leaf.shape[1] < steps:
            raise ArgumentError(
                f"[{function}] expected inputs of shape [{count}, >= {steps}, ...], got {list(leaf.shape)}; "
                "shorten the horizon or give longer inputs"
            )
    return tree_map(lambda leaf: leaf[:, :steps], tree)


def conform(
    function: str, name: str, given: Any, template: Tree, *, leading: tuple[str, ...], allow_nan: bool = False
) -> Tree:
    """`given` with the structure, dtypes and sizes of `template`, except for the `leading` sizes, which are free.

    Raises:
        ArgumentError: another structure or shape, not numbers, NaN or infinity; the message names `function`, `name`.
    """
    if isinstance(template, dict):
        if not isinstance(given, dict) or set(given) != set(template):
            got = f"keys {sorted(map(str, given))}" if isinstance(given, dict) else type(given).__name__
            raise ArgumentError(f"[{function}] {name}: expected a dict with keys {sorted(template)}, got {got}")
        return {
            key: conform(function, f"{name}[{key!r}]", given[key], value, leading=leading, allow_nan=allow_nan)
            for key, value in template.items()
        }
    if isinstance(template, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(template):
            got = f"{len(given)} items" if isinstance(given, (tuple, list)) else type(given).__name__
            raise ArgumentError(f"[{function}] {name}: expected {len(template)} items in a tuple or list, got {got}")
        items = [
            conform(function, f"{name}[{i}]", value, template[i], leading=leading, allow_nan=allow_nan)
            for i, value in enumerate(given)
        ]
        return type(template)(*items) if hasattr(template, "_fields") else type(template)(items)
    return _conform_leaf(function, name, given, template, leading, allow_nan)


def _conform_leaf(
    function: str, name: str, given: Any, template: torch.Tensor, leading: tuple[str, ...], allow_nan: bool
) -> torch.Tensor:
    if not isinstance(given, (torch.Tensor, np.ndarray)):
        raise ArgumentError(f"[{function}] {name}: expected a tensor or an array, got {type(given).__name__}")
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiub":
            raise ArgumentError(f"[{function}] {name}: expected numbers, got an array of dtype {given.dtype}")
        given = torch.from_numpy(np.ascontiguousarray(given))
    tensor: torch.Tensor = given.detach()
    free = len(leading)
    wanted = list(template.shape[free:])
    if tensor.dim() != template.dim() or list(tensor.shape[free:]) != wanted:
        raise ArgumentError(
            f"[{function}] {name}: expected shape [{', '.join([*leading, *(str(size) for size in wanted)])}], "
            f"got {list(tensor.shape)}"
        )
    if tensor.is_floating_point() and not template.is_floating_point():
        raise ArgumentError(f"[{function}] {name}: expected integers ({template.dtype}), got {tensor.dtype}")
    tensor = tensor.to(template.dtype)
    if all_finite([tensor]):
        return tensor
    bad = torch.isinf(tensor) if allow_nan else ~torch.isfinite(tensor)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        advice = "; fill the gaps"
        if function == "Contexts":
            advice = "" if allow_nan else f"{advice}, or set allow_nan=True if the system masks missing values"
        raise ArgumentError(f"[{function}] {name}: {float(tensor[tuple(where)])} at {where}{advice}")
    return tensor


def _require_one_count(function: str, name: str, state: Tree) -> None:
    counts = {leaf.shape[0] for leaf in tree_leaves(state)}
    if len(counts) != 1 or 0 in counts:
        raise ArgumentError(
            f"[{function}] {name}: expected one number N >= 1 of initial conditions, got {sorted(counts)}"
        )
