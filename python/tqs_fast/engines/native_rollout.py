"""`tqs.rollout` in the native runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tqs_fast._finite import all_finite
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.engines.native_weights import NativeWeights
from tqs_fast.engines.prepared import prepared
from tqs_fast.errors import CaptureError, DivergenceError
from tqs_fast.systems import System
from tqs_fast.systems.tree import Tree, tree_leaves

Leaves = list[torch.Tensor]


@dataclass(frozen=True, eq=False)
class Rolled:
    """A rollout over leaves; tangents are None for a plain one.

    Attributes:
        outputs: `[T, N, C]`.
        states: per leaf `[N, ...]`.
        tangent_outputs: `[T, K, N, C]`.
        tangents: per leaf `[K, N, ...]`.
    """

    outputs: torch.Tensor
    states: Leaves
    tangent_outputs: torch.Tensor | None
    tangents: Leaves | None

    def to(self, device: torch.device) -> Rolled:
        """Its tensors there."""
        return Rolled(
            self.outputs.to(device),
            [leaf.to(device) for leaf in self.states],
            None if self.tangent_outputs is None else self.tangent_outputs.to(device),
            None if self.tangents is None else [leaf.to(device) for leaf in self.tangents],
        )


def roll_native(
    system: System,
    state: Tree,
    inputs: Tree | None,
    *,
    horizon: int,
    seeds: Leaves | None = None,
    weight_seeds: Mapping[str, torch.Tensor] | None = None,
    device: torch.device | None = None,
) -> Rolled:
    """Roll out `horizon` values.

    Args:
        state: tree of `[N, ...]`.
        inputs: tree of `[N, >= steps, ...]` for a driven system.
        seeds: per state leaf `[K, N, ...]`.
        weight_seeds: qualified parameter name -> `[K, ...]`.
        device: a GPU that the weights are brought to; None: it runs where they lie.

    Raises:
        CaptureError: the step cannot be captured.
        DivergenceError: NaN or infinity, with step, operation, initial condition and tangent.
    """
    starts = tree_leaves(state)
    if not all(leaf.is_floating_point() for leaf in starts):
        raise CaptureError(f'[rollout] {system.name} has integers in its state; use engine="torch"')
    series = [] if inputs is None else tree_leaves(inputs)
    native = prepared(system, state, horizon=horizon, device=device)
    steps = system.steps(horizon)
    if seeds is None and not weight_seeds:
        outputs, final = native.ensemble(starts, series, steps=steps, values=horizon)
        rolled = Rolled(outputs[0], [leaf[0] for leaf in final], None, None)
    else:
        lanes = _weight_lanes(system, native, weight_seeds) if weight_seeds else []
        result = native.tangents(starts, series, steps=steps, values=horizon, seeds=seeds, weight_seeds=lanes)
        rolled = Rolled(result.outputs, result.states, result.tangent_outputs, result.state_tangents)
    rolled = rolled.to(starts[0].device)
    found = [rolled.outputs, *rolled.states, *(rolled.tangents or ())]
    found += [] if rolled.tangent_outputs is None else [rolled.tangent_outputs]
    if not all_finite(found):
        _explain(system, native, starts, series, steps, seeds)
    return rolled


def _weight_lanes(
    system: System, native: NativeProgram, seeds: Mapping[str, torch.Tensor]
) -> list[dict[int, torch.Tensor]]:
    """Per tangent, constant buffer -> tangent of the constant."""
    weights = NativeWeights(native.program, system.module)
    count = len(next(iter(seeds.values())))
    return [weights.tangents({name: directions[k] for name, directions in seeds.items()}) for k in range(count)]


def _explain(
    system: System, native: NativeProgram, starts: Leaves, series: Leaves, steps: int, seeds: Leaves | None
) -> None:
    """Raise for the first value that is not finite.

    A state may hold NaN on purpose (missing values); a rollout that repeats without finding a fault is left alone.
    """
    failure = native.first_non_finite(starts, series, steps=steps, seeds=seeds)
    if failure is None:
        return
    what = "the trajectory" if failure.tangent is None else f"tangent {failure.tangent}"
    advice = "shorten the horizon, or start elsewhere"
    if failure.tangent is not None:
        advice = "shorten the horizon, or re-orthonormalise on the way (growth_rates)"
    raise DivergenceError(
        f"[rollout] {system.name}: {what} of initial condition {failure.sample} is not finite from step {failure.step} "
        f"on, first in {failure.origin}; {advice}"
    )
