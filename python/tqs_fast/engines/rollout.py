"""`tqs.rollout`: the trajectory of a system and, when asked, how it moves with its starting state and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tqs_fast._finite import all_finite
from tqs_fast.engines.native_call import split_engine
from tqs_fast.engines.native_rollout import roll_native
from tqs_fast.engines.torch_form import differentiable
from tqs_fast.engines.torch_tangents import Leaves, TorchTangents, floating, replace_floating
from tqs_fast.errors import ArgumentError, CaptureError, DivergenceError
from tqs_fast.systems import System
from tqs_fast.systems.contexts import conform, conform_inputs, conform_state
from tqs_fast.systems.initial import to_device
from tqs_fast.systems.system import advance, input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

ENGINES = ("auto", "native", "torch")


@dataclass(frozen=True, eq=False)
class Rollout:
    """A trajectory of N initial conditions, T values of C channels, with K tangents if asked for.

    Attributes:
        outputs: `[T, N, C]`.
        state: tree of `[N, ...]` after the last step (`ceil(T / block)` steps).
        tangent_outputs: `[T, K, N, C]`, derivative of `outputs` in the direction of each seed; None without tangents.
        tangents: state tree of `[K, N, ...]`, derivative of `state`; zero for integer leaves; None without tangents.
        provenance: engine, why it was chosen, how tangents were computed; JSON values.
    """

    outputs: torch.Tensor
    state: Tree
    tangent_outputs: torch.Tensor | None
    tangents: Tree | None
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Seeds:
    """Where K tangents start.

    Attributes:
        count: K.
        state: `[K, N, ...]` of every floating leaf of the state, in tree order.
        weights: parameter -> `[K, ...]`.
    """

    count: int
    state: Leaves
    weights: dict[torch.nn.Parameter, torch.Tensor]


def rollout(
    system: System,
    state: Any,
    *,
    horizon: int,
    tangents: Any = None,
    inputs: Any = None,
    weight_tangents: Mapping[str, torch.Tensor] | None = None,
    engine: str = "auto",
) -> Rollout:
    """Roll `system` out from `state`, without gradients.

    Args:
        system: stepped `system.steps(horizon)` times, in its own precision (`in_float64` gives a float64 twin).
        state: tree of `[N, ...]` like the system's own; tensors or arrays.
        horizon: output values T.
        tangents: state tree of `[K, N, ...]`: K directions in which the starting state is moved. Not normalised.
            Integer leaves have no tangent; give zeros there.
        inputs: tree of `[N, >= steps, ...]` for a driven system.
        weight_tangents: qualified parameter name -> `[K, ...]`: a direction per tangent in which that weight is moved,
            for all steps. With `tangents` too, both move together.
        engine: "native" captures the step and rolls it out in C++; "torch" works for any module; "auto" is "native"
            where the step can be captured, else "torch", with the reason in `provenance["reason"]`. "native:cuda" runs
            a module of the CPU on that GPU, weights that do not fit passing through it at every step.

    Raises:
        ArgumentError: arguments that do not fit the system, NaN or infinity among them, or a step that torch cannot
            differentiate (with the operation, and what to do): with tangents it draws no random numbers.
        CaptureError: the native engine was asked for and cannot run the step.
        DivergenceError: NaN or infinity on the way, with the step, the initial condition and the tangent.
    """
    name, device = split_engine(engine, "rollout")
    if name not in ENGINES:
        raise ArgumentError(f"[rollout] expected engine to be one of {', '.join(ENGINES)}, got {engine!r}")
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise ArgumentError(f"[rollout] horizon must be an integer of at least 1 value, got {horizon!r}")
    start = conform_state(system, state, function="rollout", name="state")
    steps = system.steps(horizon)
    fed = conform_inputs(system, inputs, start, steps, function="rollout")
    seeds = conform_seeds(system, start, tangents, weight_tangents)
    start = to_device(system, start)
    fed = None if fed is None else to_device(system, fed)
    provenance = {"requested": engine, "system": system.name, "horizon": horizon}
    reason = "asked for"
    if name != "torch":
        try:
            return _native(system, start, fed, horizon, seeds, device, provenance)
        except CaptureError as error:
            if name == "native":
                raise
            reason = f"the native engine cannot run it: {error}"
    provenance |= {"engine": "torch", "reason": reason}
    if seeds is None:
        return _plain(system, start, fed, horizon, provenance)
    return _with_tangents(differentiable("rollout", system), start, fed, horizon, seeds, provenance)


def conform_seeds(
    system: System, state: Tree, tangents: Any, weight_tangents: Mapping[str, torch.Tensor] | None
) -> Seeds | None:
    """The seeds that a user gives, checked; None where there are none.

    Raises:
        ArgumentError: unknown parameters or integer ones, shapes that do not fit, unequal K, NaN or infinity, or a
            tangent of an integer leaf that is not zero.
    """
    if tangents is None and not weight_tangents:
        return None
    counts: dict[int, str] = {}
    weights: dict[torch.nn.Parameter, torch.Tensor] = {}
    known = dict(system.module.named_parameters()) if weight_tangents else {}
    for name, given in (weight_tangents or {}).items():
        parameter = known.get(name)
        if parameter is None or not parameter.is_floating_point():
            raise ArgumentError(
                f"[rollout] weight_tangents: {system.name} has no floating parameter {name!r}; "
                f"see dict(system.module.named_parameters())"
            )
        template = parameter.detach().unsqueeze(0)
        moved = conform("rollout", f"weight_tangents[{name!r}]", given, template, leading=("K",))
        weights[parameter] = moved.to(parameter.device)
        counts[moved.shape[0]] = f"weight_tangents[{name!r}]"
    if tangents is not None:
        template = tree_map(lambda leaf: leaf.unsqueeze(0), state)
        leaves = tree_leaves(conform("rollout", "tangents", tangents, template, leading=("K",)))
        for leaf in leaves:
            counts[leaf.shape[0]] = "tangents"
            if not leaf.is_floating_point() and bool(leaf.any()):
                raise ArgumentError("[rollout] tangents: expected zeros for an integer leaf of the state, got others")
    if len(counts) != 1 or 0 in counts:
        raise ArgumentError(f"[rollout] expected one number K >= 1 of tangents, got {sorted(counts)}")
    (count,) = counts
    if tangents is None:
        moved_state = tuple(leaf.new_zeros((count, *leaf.shape)) for leaf in floating(state))
    else:
        moved_state = tuple(leaf for leaf in leaves if leaf.is_floating_point())
    return Seeds(count, to_device(system, moved_state), weights)


def _native(
    system: System,
    state: Tree,
    inputs: Tree | None,
    horizon: int,
    seeds: Seeds | None,
    device: torch.device | None,
    provenance: dict[str, Any],
) -> Rollout:
    names = {parameter: name for name, parameter in system.module.named_parameters()} if seeds and seeds.weights else {}
    rolled = roll_native(
        system,
        state,
        inputs,
        horizon=horizon,
        seeds=None if seeds is None else list(seeds.state),
        weight_seeds=None if seeds is None else {names[p]: direction for p, direction in seeds.weights.items()},
        device=device,
    )
    reached, moved = iter(rolled.states), iter(rolled.tangents or ())
    provenance = {**provenance, "engine": "native", "reason": "the step was captured"}
    return Rollout(
        rolled.outputs,
        tree_map(lambda _: next(reached), state),
        rolled.tangent_outputs,
        None if rolled.tangents is None else tree_map(lambda _: next(moved), state),
        provenance if seeds is None else {**provenance, "tangents": "exact derivatives of the captured program"},
    )


def _plain(system: System, state: Tree, inputs: Tree | None, horizon: int, provenance: dict[str, Any]) -> Rollout:
    outputs = []
    for t in range(system.steps(horizon)):
        state, output = advance(system, state, input_at(inputs, t))
        _require_finite(system, t, output, None, floating(state), ())
        outputs.append(output)
    return Rollout(_values(outputs, horizon), state, None, None, provenance)


def _with_tangents(
    system: System, state: Tree, inputs: Tree | None, horizon: int, seeds: Seeds, provenance: dict[str, Any]
) -> Rollout:
    pusher = TorchTangents(system, seeds.weights)
    tangents = seeds.state
    outputs, moved = [], []
    for t in range(system.steps(horizon)):
        step = pusher.step(state, tangents, input_at(inputs, t))
        state, tangents = step.state, step.tangents
        _require_finite(system, t, step.output, step.output_tangents, floating(state), tangents)
        outputs.append(step.output)
        moved.append(step.output_tangents)
    zeros = tree_map(lambda leaf: leaf.new_zeros((seeds.count, *leaf.shape)), state)
    return Rollout(
        _values(outputs, horizon),
        state,
        _values(moved, horizon),
        replace_floating(zeros, tangents),
        {**provenance, "tangents": pusher.how},
    )


def _values(blocks: list[torch.Tensor], horizon: int) -> torch.Tensor:
    """`[..., block, C]` of every step as `[T, ..., C]`."""
    return torch.cat(blocks, dim=-2)[..., :horizon, :].movedim(-2, 0)


def _require_finite(
    system: System,
    t: int,
    output: torch.Tensor,
    output_tangents: torch.Tensor | None,
    state: Leaves,
    tangents: Leaves,
) -> None:
    """Raise for the first initial condition that is not finite: its trajectory, else the tangent that overflowed."""
    for leaf in (output, *state):
        if not all_finite([leaf]):
            bad = (~torch.isfinite(leaf)).flatten(1).any(dim=1).nonzero().flatten().tolist()
            raise DivergenceError(
                f"[rollout] {system.name}: not finite after step {t} for {len(bad)} of {len(leaf)} initial conditions "
                f"(first: {bad[0]}); shorten the horizon, or start elsewhere"
            )
    for leaf in tangents if output_tangents is None else (output_tangents, *tangents):
        if not all_finite([leaf]):
            k, n = (~torch.isfinite(leaf)).flatten(2).any(dim=2).nonzero()[0].tolist()
            raise DivergenceError(
                f"[rollout] {system.name}: tangent {k} of initial condition {n} is not finite after step {t} while the "
                "trajectory is; shorten the horizon, or re-orthonormalise on the way (growth_rates)"
            )
