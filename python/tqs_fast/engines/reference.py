"""The reference trajectory: the float model rolled out once, and the unit of every error below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tqs_fast.engines.randomness import drawing_nothing
from tqs_fast.errors import ArgumentError, DivergenceError
from tqs_fast.systems import States, System, iterate
from tqs_fast.systems.tree import Tree

CONSTANT = 1e-6  # of the largest magnitude: below it a spread is float32 rounding, not dynamics


@dataclass(frozen=True, eq=False)
class Reference:
    """The float rollout from all initial conditions.

    Attributes:
        outputs: `[T, N, C]`.
        scale: `[C]`, standard deviation of each channel over all N and T, the unit of errors (float64).
        states: before each step, trees of `[N, ...]`; empty where they were not asked for.
    """

    outputs: torch.Tensor
    scale: torch.Tensor
    states: tuple[Tree, ...] = ()


def roll_reference(
    system: System,
    states: States,
    horizon: int,
    *,
    outputs: torch.Tensor | None = None,
    keep_states: bool = False,
) -> Reference:
    """Roll the float model `horizon` values from `states`; or take the `outputs` `[T, N, C]` of an engine that has.

    A channel that does not vary takes the largest scale of the channels that do: its errors stay finite and count
    little.

    Raises:
        ArgumentError: horizon < 1, or the step draws random numbers.
        DivergenceError: an output is NaN or infinite, or no channel varies at all.
    """
    path: list[Tree] = []
    if outputs is None:
        outputs = _roll(system, states, horizon, None, path if keep_states else None)
    finite = torch.isfinite(outputs).all(dim=2)
    if not bool(finite.all()):
        bad = (~finite).any(dim=0).nonzero().flatten().tolist()
        first = int((~finite).any(dim=1).nonzero()[0])
        raise DivergenceError(
            f"[reference] the float rollout of {system.name} is not finite from value {first} on, for {len(bad)} of "
            f"{states.count} initial conditions (first: {bad[0]}); shorten the horizon, or start elsewhere (Contexts)"
        )
    values = outputs.double().flatten(0, 1)
    scale = values.std(dim=0, unbiased=False)
    constant = scale <= CONSTANT * values.abs().amax(dim=0)
    if bool(constant.all()):
        raise DivergenceError(
            f"[reference] the float rollout of {system.name} is constant over all initial conditions and times: "
            f"there is "
            "no trajectory to protect; start elsewhere (Contexts or Synthetic) or check the step function"
        )
    return Reference(outputs, torch.where(constant, scale.max(), scale), tuple(path))


def roll_outputs(
    system: System, states: States, horizon: int, *, module: torch.nn.Module | None = None
) -> torch.Tensor:
    """Outputs `[T, N, C]` of a plain rollout; `module` replaces the system's own."""
    return _roll(system, states, horizon, module, None)


def _roll(
    system: System, states: States, horizon: int, module: torch.nn.Module | None, path: list[Tree] | None
) -> torch.Tensor:
    """Outputs `[T, N, C]`; the state before each step is added to `path`."""
    if horizon < 1:
        raise ArgumentError(f"[rollout] horizon must be at least 1 value, got {horizon}")
    blocks = []
    before = states.state
    with drawing_nothing(system, "which would count as errors of the weights"):
        for after, output in iterate(system, states.state, states.inputs, system.steps(horizon), module=module):
            blocks.append(output)
            if path is not None:
                path.append(before)
            before = after
    return torch.cat(blocks, dim=1)[:, :horizon].transpose(0, 1)


def family_weights(states: States) -> torch.Tensor:
    """`[N]`, sum 1: every family counts equally, and every initial condition equally within its family."""
    sizes = np.bincount(states.family_of, minlength=len(states.families))
    return torch.from_numpy(1.0 / (len(states.families) * sizes[states.family_of]))
