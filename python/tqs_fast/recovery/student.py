"""The network that recovery trains: a float copy that holds rounded weights, rolled out against its float teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tqs_fast.engines import roll_reference
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import Block
from tqs_fast.quantization.weights import Weight, parameter_of
from tqs_fast.systems import InitialConditions, States, System, draw
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree, tree_map


@dataclass(frozen=True, eq=False)
class Lesson:
    """Initial conditions and what the teacher does from there.

    Attributes:
        states: N initial conditions.
        outputs: `[T, N, C]` of the float model.
        scale: `[C]`, the unit of errors.
    """

    states: States
    outputs: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(
        cls, system: System, initial: InitialConditions | Sequence[InitialConditions], horizon: int, seed: int
    ) -> Lesson:
        states = draw(initial, system, horizon=horizon, seed=seed)
        reference = roll_reference(system, states, horizon)
        return cls(states, reference.outputs, reference.scale.to(reference.outputs))


class Student:
    """A copy of the module whose planned weights are set from outside.

    Args:
        system: the float model.
        planned: weights and their row blocks, as `planned_weights` returns them.
    """

    def __init__(self, system: System, planned: Sequence[tuple[Weight, list[Block]]]) -> None:
        self.system = system
        self.module = copy.deepcopy(system.module).requires_grad_(False).eval()
        self.weights = [parameter_of(self.module, weight).requires_grad_() for weight, _ in planned]

    def hold(self, values: Sequence[torch.Tensor]) -> None:
        """Take `values` as weights."""
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)

    def loss(self, lesson: Lesson, chosen: torch.Tensor | None = None) -> float:
        """Damage from the initial conditions `chosen` (indices; None: all); infinite where it diverges."""
        with torch.no_grad():
            return float(sum(self._segments(lesson, chosen, truncation=len(lesson.outputs), pull=False)))

    def gradients(self, lesson: Lesson, chosen: torch.Tensor, truncation: int) -> tuple[float, list[torch.Tensor]]:
        """Damage, and its gradient in the weights held, through at most `truncation` steps at a time."""
        for weight in self.weights:
            weight.grad = None
        loss = sum(self._segments(lesson, chosen, truncation, pull=True))
        return float(loss), [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]

    def _segments(self, lesson: Lesson, chosen: torch.Tensor | None, truncation: int, *, pull: bool) -> list[float]:
        """Share of the damage of every `truncation` steps; gradients are pulled back within each of them."""
        horizon, _, channels = lesson.outputs.shape
        state, inputs, target = lesson.states.state, lesson.states.inputs, lesson.outputs
        if chosen is not None:
            state, target = tree_map(lambda leaf: leaf[chosen], state), target[:, chosen]
            inputs = None if inputs is None else tree_map(lambda leaf: leaf[chosen], inputs)
        count = target.shape[1]
        shares = []
        steps = self.system.steps(horizon)
        for first in range(0, steps, truncation):
            state = tree_map(lambda leaf: leaf.detach(), state)
            outputs = []
            with torch.set_grad_enabled(pull):
                for t in range(first, min(steps, first + truncation)):
                    state, output = self._step(state, input_at(inputs, t))
                    outputs.append(output)
                begin = first * self.system.block
                values = torch.cat(outputs, dim=1)[:, : horizon - begin].transpose(0, 1)
                error = (values - target[begin : begin + len(values)]) / lesson.scale
                share = error.square().sum() / (horizon * count * channels)
                if pull:
                    if not share.requires_grad:
                        raise ArgumentError(
                            f"[recover] no gradient of the outputs of {self.system.name} reaches its weights: the step "
                            'detaches, or computes outside torch; use method="zeroth-order", which needs none'
                        )
                    share.backward()  # type: ignore[no-untyped-call]
            shares.append(float(share.detach().nan_to_num(nan=torch.inf)))
        return shares

    def _step(self, state: Tree, step_input: Tree | None) -> tuple[Tree, torch.Tensor]:
        arguments = () if step_input is None else (step_input,)
        state, output = self.system.step(self.module, state, *arguments)
        return state, output if output.dim() == 3 else output.unsqueeze(1)


def trained_copy(
    module: nn.Module, planned: Sequence[tuple[Weight, list[Block]]], latent: Sequence[torch.Tensor]
) -> nn.Module:
    """A copy of the float `module` with `latent` as its planned weights."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for (weight, _), values in zip(planned, latent, strict=True):
            parameter_of(twin, weight).copy_(values)
    return twin
