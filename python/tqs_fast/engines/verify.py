"""A captured program against the step it was captured from."""

from __future__ import annotations

import torch

from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.errors import CaptureError
from tqs_fast.systems import System, iterate
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

SAMPLES = 3  # a step that mixes samples, or only fits a batch of one, shows
STEPS = 2  # the second starts from a state that the program itself has left
# Of the largest output: far above what rounding does in two steps, far below what another function would give.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}


def verify(native: NativeProgram, system: System, state: Tree) -> None:
    """Run a few samples for two steps in both.

    Args:
        state: tree of `[N, ...]`; its first rows are the samples, or random states where it has too few.

    Raises:
        CaptureError: they differ, or torch cannot run a batch of samples.
    """
    generator = torch.Generator().manual_seed(0)
    samples = tree_map(lambda leaf: leaf[:SAMPLES], state)
    if len(tree_leaves(state)[0]) < SAMPLES:
        drawn = iter(tree_leaves(system.initial_state(SAMPLES, generator)))
        samples = tree_map(lambda leaf: _like(next(drawn), leaf, generator), state)
    inputs = None
    if system.inputs is not None:
        dtype = next(leaf.dtype for leaf in tree_leaves(state) if leaf.is_floating_point())
        drawn_inputs = system.inputs(SAMPLES, STEPS, generator)
        inputs = tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, drawn_inputs)
    outputs, final = native.ensemble(
        tree_leaves(samples), [] if inputs is None else tree_leaves(inputs), steps=STEPS, values=STEPS * system.block
    )
    taken = list(iterate(system, samples, inputs, STEPS))
    pairs = [(outputs[0], torch.cat([output for _, output in taken], dim=1).transpose(0, 1))]
    pairs += list(zip((leaf[0] for leaf in final), tree_leaves(taken[-1][0]), strict=True))
    for ours, theirs in pairs:
        _compare(system, ours, theirs)


def _like(drawn: torch.Tensor, leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A drawn state leaf in the dtype of a given one; noise where a growing context has another length."""
    if drawn.shape[1:] != leaf.shape[1:]:
        drawn = torch.randn(len(drawn), *leaf.shape[1:], generator=generator)
    return drawn.to(leaf)


def _compare(system: System, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    theirs = theirs.to(ours)
    finite = torch.isfinite(theirs)
    worst = (ours - theirs).abs()[finite].max() if bool(finite.any()) else ours.new_zeros(())
    size = theirs.abs()[finite].max() if bool(finite.any()) else ours.new_zeros(())
    if bool((torch.isnan(ours) != torch.isnan(theirs)).any()) or bool(worst > TOLERANCE[ours.dtype] * size):
        raise CaptureError(
            f"[capture] {system.name}: the captured program differs from the step by {float(worst):.2g} (outputs up to "
            f'{float(size):.2g}); a step that mixes initial conditions cannot be captured; use engine="torch"'
        )
