"""Hessians of the outputs of planned weights, from the inputs that they see along float rollouts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tqs_fast import kernels
from tqs_fast.compensation import Compensation
from tqs_fast.compensation.elimination import FloatArray
from tqs_fast.engines import Reference, roll_reference
from tqs_fast.engines.reference import family_weights
from tqs_fast.errors import ArgumentError, DivergenceError
from tqs_fast.quantization.weights import Weight, parameter_of
from tqs_fast.rewriting.observed import ObservedTensor
from tqs_fast.rewriting.replace import replace_modules
from tqs_fast.systems import InitialConditions, States, System, default_initial, draw, iterate
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import tree_leaves, tree_like, tree_map

PROBES = 2  # random signs of the trajectory: an expectation over them, and over all places and times besides
PROBE_STREAM = 1 << 32  # apart from the streams that scoring draws from


@dataclass(frozen=True, eq=False)
class Hessians:
    """What rollouts have shown.

    Attributes:
        of_weight: by weight name, (first row, end row, H [K, K] float64) of rows that saw the same inputs. H is a sum,
            of x xᵀ or of what `Compensation.weighting` says. Empty for a weight that multiplied nothing: a table of an
            embedding, or a weight that code reads and multiplies itself.
        inputs: by weight name, how many inputs its first row saw.
        description: of the initial conditions, JSON values.
    """

    of_weight: dict[str, list[tuple[int, int, FloatArray]]]
    inputs: dict[str, int]
    description: list[dict[str, Any]]


def collect_hessians(
    module: nn.Module,
    weights: Sequence[Weight],
    system: System,
    settings: Compensation,
    initial: InitialConditions | Sequence[InitialConditions] | None,
) -> Hessians:
    """Roll `module` out in place of the system's own, and add up what each of `weights` multiplies.

    Raises:
        ArgumentError: `module` does not take the place of `system.module`; for "trajectory", a step that torch cannot
            differentiate.
        DivergenceError: a rollout or a gradient that is not finite.
    """
    given = default_initial(system, settings.count) if initial is None else initial
    states = draw(given, system, horizon=settings.horizon, seed=settings.seed)
    observed = {weight.name: ObservedTensor(parameter_of(module, weight).detach()) for weight in weights}
    watched = replace_modules(copy.deepcopy(module).requires_grad_(False).eval(), weights, observed)
    if settings.weighting == "trajectory":
        _pull_back(watched, list(observed.values()), system, settings, states)
    else:
        for _, output in iterate(system, states.state, states.inputs, system.steps(settings.horizon), module=watched):
            if not bool(torch.isfinite(output).all()):
                raise DivergenceError(
                    f"[quantize] the float rollout of {system.name} is not finite; shorten Compensation.horizon, or "
                    "start elsewhere (initial=Contexts(...))"
                )
    found = {name: tensor.hessians() for name, tensor in observed.items()}
    for name, parts in found.items():
        if not all(math.isfinite(hessian.sum()) for _, _, hessian in parts):
            raise DivergenceError(
                f"[quantize] what {name} multiplies, or the gradient of what it gives, is not finite along the "
                f"rollouts of {system.name}; shorten Compensation.horizon, or start elsewhere (initial=Contexts(...))"
            )
    return Hessians(found, {name: tensor.inputs for name, tensor in observed.items()}, states.description)


def _pull_back(
    watched: nn.Module, observed: list[ObservedTensor], system: System, settings: Compensation, states: States
) -> None:
    """Weigh every input by the squared gradient of the trajectory in the output that it gave.

    To first order the error E of a weight moves the scaled trajectory Y by Σ_u J_u E x_u, u over all uses of the weight
    and J_u = ∂Y/∂(output of u). Uses are taken as independent, and what J_u does as equal for all rows:
    H = Σ_u ‖J_u‖_F² x_u x_uᵀ, with ‖J_u‖_F² = E‖J_uᵀ v‖² over random signs v, as `Adjoint` has it.
    """
    reference = roll_reference(system, states, settings.horizon, keep_states=True)
    after: list[dict[int, torch.Tensor]] = [{} for _ in range(PROBES)]
    for tensor in observed:
        tensor.marking = True
    cotangents = list(_cotangents(system, reference, states, settings))
    for t in reversed(range(len(reference.states))):
        leaves = [
            leaf.detach().requires_grad_() if leaf.is_floating_point() else leaf
            for leaf in tree_leaves(reference.states[t])
        ]
        given = iter(leaves)
        step_input = input_at(states.inputs, t)
        with torch.enable_grad():
            returned, output = system.step(
                watched,
                tree_map(lambda _, given=given: next(given), reference.states[t]),  # type: ignore[misc]
                *(() if step_input is None else (step_input,)),
            )
        reached = tree_leaves(tree_like(reference.states[t], returned))
        marks = [(tensor, *pending) for tensor in observed for pending in tensor.pending]
        wanted = [leaf for leaf in leaves if leaf.requires_grad] + [mark for _, _, _, mark in marks]
        for probe in range(PROBES):
            ends = [(output, cotangents[probe][t].reshape(output.shape).to(output))]
            ends += [(reached[i], after[probe][i]) for i in after[probe] if reached[i].requires_grad]
            ends = [end for end in ends if end[0].requires_grad]
            if not ends:
                raise _not_differentiable(system)
            gradients = torch.autograd.grad(
                [end for end, _ in ends],
                wanted,
                [cotangent for _, cotangent in ends],
                retain_graph=probe < PROBES - 1,
                allow_unused=True,
            )
            arrived = iter(gradients)
            pulled = {i: next(arrived) for i, leaf in enumerate(leaves) if leaf.requires_grad}
            after[probe] = {i: gradient for i, gradient in pulled.items() if gradient is not None}
            for (tensor, rows, x, _), gradient in zip(marks, arrived, strict=True):
                if gradient is not None:
                    tensor.add(rows, x, gradient.reshape(len(x), -1).double().square().sum(dim=1))
        for tensor in observed:
            tensor.pending.clear()


def _cotangents(
    system: System, reference: Reference, states: States, settings: Compensation
) -> Iterator[list[torch.Tensor]]:
    """Per probe, cotangents [N, block, C] of every step's output: signs, in the unit in which damage is a square."""
    horizon, count, channels = reference.outputs.shape
    unit = (family_weights(states).sqrt()[None, :, None] / (horizon * channels) ** 0.5) / reference.scale.cpu()
    steps = system.steps(horizon)
    for probe in range(PROBES):
        drawn = kernels.uniform(horizon * count * channels, seed=settings.seed, stream=PROBE_STREAM + probe)
        signs = torch.from_numpy(drawn).reshape(horizon, count, channels).double().sub(0.5).sign()
        padded = torch.zeros(steps * system.block, count, channels, dtype=torch.float64)
        padded[:horizon] = signs * unit
        yield [
            padded[t * system.block : (t + 1) * system.block].transpose(0, 1).to(reference.outputs.device)
            for t in range(steps)
        ]


def _not_differentiable(system: System) -> ArgumentError:
    return ArgumentError(
        f"[quantize] no gradient of the outputs of {system.name} reaches its state or its weights: the step detaches, "
        'rounds or compares; use Compensation(weighting="output"), which needs no gradient'
    )
