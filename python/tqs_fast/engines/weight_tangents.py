"""Tangents of the outputs along weight directions in torch, by forward-mode differentiation of the rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.autograd import forward_ad

from tqs_fast.engines.reference import Reference, family_weights
from tqs_fast.engines.statistics import ErrorStatistics, LaneErrors
from tqs_fast.engines.substitution import Substitution
from tqs_fast.engines.torch_ways import loading_forward_rules
from tqs_fast.errors import ArgumentError
from tqs_fast.systems import States, System
from tqs_fast.systems.system import advance, input_at


def run_weight_tangents(
    system: System,
    states: States,
    reference: Reference,
    parameters: Sequence[torch.nn.Parameter],
    lanes: Sequence[Mapping[int, torch.Tensor]],
) -> LaneErrors:
    """Squared scaled tangents, one lane after the other.

    Args:
        lanes: per lane, weight index -> direction, of the weight's shape.

    Raises:
        ArgumentError: torch has no forward-mode rule for an operation of the step.
    """
    still = Reference(torch.zeros_like(reference.outputs), reference.scale)
    with loading_forward_rules(), forward_ad.dual_level():
        results = [_roll(system, states, still, parameters, lane) for lane in lanes]
    return LaneErrors(torch.cat([r.samples for r in results]), torch.cat([r.curve for r in results]))


def _roll(
    system: System,
    states: States,
    still: Reference,
    parameters: Sequence[torch.nn.Parameter],
    lane: Mapping[int, torch.Tensor],
) -> LaneErrors:
    statistics = ErrorStatistics(still, family_weights(states), 1)
    duals = {parameters[i]: _dual(parameters[i], direction) for i, direction in lane.items()}
    state = states.state
    for t in range(system.steps(len(still.outputs))):
        try:
            with Substitution(duals):
                state, output = advance(system, state, input_at(states.inputs, t))
        except (NotImplementedError, RuntimeError) as error:
            raise ArgumentError(
                f"[score] torch cannot differentiate a step of {system.name} forwards "
                f'({str(error).splitlines()[0]}); use engine="native", or Noise in place of Tangent'
            ) from error
        tangent = forward_ad.unpack_dual(output).tangent  # type: ignore[no-untyped-call]
        statistics.update(torch.zeros_like(output) if tangent is None else tangent)
    return statistics.result()


def _dual(parameter: torch.nn.Parameter, direction: torch.Tensor) -> torch.Tensor:
    dual: torch.Tensor = forward_ad.make_dual(  # type: ignore[no-untyped-call]
        parameter.detach(), direction.to(parameter)
    )
    return dual
