"""Whether a program computes what the step does for a batch: catches steps that mix samples or expect one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.capture.lower import WAY_OUT
from tqs_fast.capture.program import Program
from tqs_fast.errors import CaptureError
from tqs_fast.reference.program import run_program
from tqs_fast.systems.initial import States
from tqs_fast.systems.system import System, advance, input_at
from tqs_fast.systems.tree import tree_leaves, tree_map

Arrays = Sequence[npt.NDArray[Any]]
Runner = Callable[[Program, Arrays, Arrays], tuple[Arrays, npt.NDArray[Any]]]

SAMPLES = 3


def verify(
    program: Program,
    system: System,
    states: States,
    *,
    module: torch.nn.Module | None = None,
    run: Runner = run_program,
) -> None:
    """Step three samples as one batch in torch, and each alone by the program, and compare.

    They may differ by the square root of the precision, relative to the largest element of a leaf: half of the digits,
    far above the rounding of a step and far below what another sample's values would do.

    Args:
        states: where the samples come from; rows are repeated where there are fewer than three.
        module: stepped in place of `system.module`; the one that was captured.
        run: `run(program, state_leaves, input_leaves)` -> next state leaves and output, for one sample.

    Raises:
        CaptureError: they differ; the message says whether torch itself differs between a batch and single samples.
    """
    rows = torch.arange(SAMPLES) % states.count
    state = tree_map(lambda leaf: leaf[rows], states.state)
    given = input_at(states.inputs, 0)
    step_input = None if given is None else tree_map(lambda leaf: leaf[rows], given)
    together = _results(*advance(system, state, step_input, module=module))
    for row in range(SAMPLES):
        leaves = [leaf[row].cpu().numpy() for leaf in tree_leaves(state)]
        driven = [] if step_input is None else [leaf[row].cpu().numpy() for leaf in tree_leaves(step_input)]
        after, output = run(program, leaves, driven)
        for number, (got, expected) in enumerate(zip([*after, output], together, strict=True)):
            error = _excess(torch.from_numpy(np.array(got)), expected[row])
            if error is not None:
                place = "the output" if number == len(after) else f"state leaf {number}"
                alone = _results(*_single(system, state, step_input, row, module))
                mixed = any(_excess(one[0], many[row]) is not None for one, many in zip(alone, together, strict=True))
                reason = (
                    "the step gives other results for a batch than for its samples alone"
                    if mixed
                    else "its program computes something else than the step"
                )
                raise CaptureError(
                    f"[verify] {system.name}: {place} of sample {row} differs by {error}: {reason}; {WAY_OUT}"
                )


def _results(state: Any, output: torch.Tensor) -> list[torch.Tensor]:
    return [*tree_leaves(state), output]


def _single(
    system: System, state: Any, step_input: Any, row: int, module: torch.nn.Module | None
) -> tuple[Any, torch.Tensor]:
    own = tree_map(lambda leaf: leaf[row : row + 1], state)
    driven = None if step_input is None else tree_map(lambda leaf: leaf[row : row + 1], step_input)
    return advance(system, own, driven, module=module)


def _excess(got: torch.Tensor, expected: torch.Tensor) -> str | None:
    """How far two tensors are apart, in words, where that is too far."""
    precision = torch.finfo(expected.dtype).eps if expected.is_floating_point() else torch.finfo(torch.float64).eps
    left, right = got.double().cpu().reshape(-1), expected.double().cpu().reshape(-1)
    finite = torch.isfinite(left)
    if bool((finite != torch.isfinite(right)).any()):
        return "values that are not finite"
    if not bool(finite.any()):
        return None
    error = float((left - right)[finite].abs().max())
    size = float(right[finite].abs().max())
    return f"{error:.3g} (largest element {size:.3g})" if error > precision**0.5 * max(size, precision**0.5) else None
