"""A captured program against the step it was captured from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from tqs_fast.errors import CaptureError, TqsError
from tqs_fast.systems.initial import to_device
from tqs_fast.systems.system import System, iterate
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

Leaves = Sequence[torch.Tensor]
# run(state leaves [N, ...], input leaves [N, steps, ...], steps) -> outputs [N, steps * block, C], final state leaves
Runner = Callable[[Leaves, Leaves, int], tuple[torch.Tensor, Leaves]]
Tolerance = Mapping[torch.dtype, float]  # of the largest element

SAMPLES = 3  # a step that mixes samples, or only fits a batch of one, shows
STEPS = 2  # the second starts from a state that the program itself has left
# Of the largest element: far above what rounding does in two steps, far below what another function would give.
# Of 16 bits torch rounds after every operation, by u = 2^-8 or 2^-11 of the result: 64 roundings in a row in each of
# two steps add up to sqrt(128) u, and the program's own to less.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9, torch.bfloat16: 2.0**-4, torch.float16: 2.0**-7}
# In tf32 torch keeps as many bits of what a product reads as float16 has.
TF32_TOLERANCE = TOLERANCE | {torch.float32: TOLERANCE[torch.float16]}
# With activations rounded to int8 what differs in the last bit may be rounded to the next integer, 1/127 of the largest
# element of the row; a few of those in two steps.
ROUNDED_TOLERANCE = 0.05


def verify(run: Runner, system: System, state: Tree, *, rounded: bool = False, tf32: bool = False) -> None:
    """Run a few samples for two steps by the program and, as one batch, by torch, and compare.

    Args:
        run: the program.
        state: tree of `[N, ...]`; its first rows are the samples, or random states where it has too few.
        rounded: the program rounds activations to int8.
        tf32: torch may compute float32 products in tf32.

    Raises:
        CaptureError: torch cannot run a batch of samples, or the two differ; the message says whether torch itself
            differs between a batch and its samples alone.
    """
    tolerance = TF32_TOLERANCE if tf32 else TOLERANCE
    if rounded:
        tolerance = dict.fromkeys(TOLERANCE, ROUNDED_TOLERANCE)
    samples, inputs = _drawn(system, state)
    outputs, final = run(tree_leaves(samples), [] if inputs is None else tree_leaves(inputs), STEPS)
    try:
        expected = _rolled(system, samples, inputs)
    except TqsError:
        raise
    except Exception as error:  # whatever a step raises
        raise CaptureError(
            f"[capture] {system.name}: the step takes one initial condition alone, and fails for a batch of {SAMPLES}: "
            f"{type(error).__name__}: {_first_line(error)}; make it work along the first axis"
        ) from error
    for number, (ours, theirs) in enumerate(zip([outputs, *final], expected, strict=True)):
        difference = _difference(ours, theirs, tolerance)
        if difference is not None:
            place = f"state leaf {number - 1}" if number else "the output"
            reason = (
                "the step mixes initial conditions: it gives other results for a batch than for its samples alone"
                if _mixes(system, samples, inputs, expected, tolerance)
                else "the program computes something else than the step"
            )
            raise CaptureError(
                f"[capture] {system.name}: the captured program differs from the step by {difference} in {place}: "
                f'{reason}; use engine="torch"'
            )


def _drawn(system: System, state: Tree) -> tuple[Tree, Tree | None]:
    """`SAMPLES` states, and inputs for every step."""
    generator = torch.Generator().manual_seed(0)
    samples = to_device(system, tree_map(lambda leaf: leaf[:SAMPLES], state))
    if len(tree_leaves(state)[0]) < SAMPLES:
        drawn = iter(tree_leaves(system.initial_state(SAMPLES, generator)))
        samples = tree_map(lambda leaf: _like(next(drawn), leaf, generator), state)
    if system.inputs is None:
        return samples, None
    dtype = next((leaf.dtype for leaf in tree_leaves(state) if leaf.is_floating_point()), None)
    inputs = system.inputs(SAMPLES, STEPS, generator)
    converted = tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, inputs)
    return samples, to_device(system, converted)


def _like(drawn: torch.Tensor, leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A drawn state leaf in the dtype of a given one; noise where a growing context has another length."""
    if drawn.shape[1:] != leaf.shape[1:]:
        drawn = torch.randn(len(drawn), *leaf.shape[1:], generator=generator)
    return drawn.to(leaf)


def _rolled(system: System, state: Tree, inputs: Tree | None) -> list[torch.Tensor]:
    """By torch: outputs `[N, T, C]`, and the final state leaves."""
    taken = list(iterate(system, state, inputs, STEPS))
    return [torch.cat([output for _, output in taken], dim=1), *tree_leaves(taken[-1][0])]


def _mixes(system: System, samples: Tree, inputs: Tree | None, together: Leaves, tolerance: Tolerance) -> bool:
    """Whether torch gives a sample other results alone than in a batch."""
    for row in range(SAMPLES):
        alone = _rolled(system, _row(samples, row), None if inputs is None else _row(inputs, row))
        pairs = zip(alone, together, strict=True)
        if any(_difference(one, many[row : row + 1], tolerance) for one, many in pairs):
            return True
    return False


def _row(tree: Tree, row: int) -> Tree:
    return tree_map(lambda leaf: leaf[row : row + 1], tree)


def _difference(ours: torch.Tensor, theirs: torch.Tensor, tolerance: Tolerance) -> str | None:
    """How far two tensors are apart, in words, where that is too far."""
    theirs = theirs.to(ours)
    finite = torch.isfinite(theirs)
    if bool((torch.isfinite(ours) != finite).any()) or bool((torch.isnan(ours) != torch.isnan(theirs)).any()):
        return "values that are not finite"
    if not bool(finite.any()):
        return None
    worst, size = float((ours - theirs).abs()[finite].max()), float(theirs.abs()[finite].max())
    too_far = worst > tolerance.get(ours.dtype, 0.0) * size
    return f"{worst:.2g} (largest element {size:.2g})" if too_far else None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200].rstrip(".") if lines else ""
