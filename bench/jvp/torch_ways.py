"""PyTorch: torch.func, torch.compile and finite differences over a Python loop of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import jvp, vmap

from jvp.form import Contestant, Form, Rollout
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

Step = Callable[[Tree], tuple[Tree, torch.Tensor]]
StepTangents = Callable[[Tree, Tree], tuple[tuple[Tree, torch.Tensor], tuple[Tree, torch.Tensor]]]


def step_of(form: Form) -> Step:
    """state -> (next state, output [N, C])."""

    def step(state: Tree) -> tuple[Tree, torch.Tensor]:
        state, output = form.system.step(form.system.module, state)
        return state, output.flatten(1)  # a forecaster gives [N, 1, C]

    return step


def roll(step: Step, state: Tree, horizon: int) -> torch.Tensor:
    """Outputs [T, N, C]."""
    outputs = []
    for _ in range(horizon):
        state, output = step(state)
        outputs.append(output)
    return torch.stack(outputs)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Through inductor as one graph: without that, what it cannot compile runs eagerly and says nothing."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def func_rollout(form: Form, horizon: int) -> Contestant:
    """vmap(jvp(rollout)): the primal and all K tangents, the whole rollout under the transforms."""
    step = step_of(form)

    @torch.no_grad()
    def call() -> Any:
        def along(direction: Tree) -> Any:
            return jvp(lambda state: roll(step, state, horizon), (form.state,), (direction,))

        return vmap(along, out_dims=(None, 1))(form.tangents)

    return Contestant(call, lambda result: result)


def step_tangents(form: Form) -> StepTangents:
    """(state, tangents) -> (next state, output), (their tangents with K in front)."""
    step = step_of(form)

    def advance(state: Tree, tangents: Tree) -> Any:
        return vmap(lambda direction: jvp(step, (state,), (direction,)), out_dims=(None, 0))(tangents)

    return advance


def roll_tangents(advance: StepTangents, form: Form, horizon: int) -> Contestant:
    @torch.no_grad()
    def call() -> list[tuple[torch.Tensor, torch.Tensor]]:
        state, tangents, rolled = form.state, form.tangents, []
        for _ in range(horizon):
            (state, output), (tangents, output_tangents) = advance(state, tangents)
            rolled.append((output, output_tangents))
        return rolled

    def read(rolled: list[tuple[torch.Tensor, torch.Tensor]]) -> Rollout:
        return torch.stack([y for y, _ in rolled]), torch.stack([dy for _, dy in rolled])

    return Contestant(call, read)


def func_steps(form: Form, horizon: int) -> Contestant:
    """vmap(jvp(step)), one step at a time."""
    return roll_tangents(step_tangents(form), form, horizon)


def compiled_steps(form: Form, horizon: int) -> Contestant:
    """The same step through torch.compile (inductor)."""
    return roll_tangents(compiled(step_tangents(form)), form, horizon)


def differences(form: Form, horizon: int, epsilon: float, inductor: bool = False) -> Contestant:
    """Forward differences, the displaced states stacked with the state along the batch; eager, or steps compiled."""
    step = compiled(step_of(form)) if inductor else step_of(form)
    count = tree_leaves(form.state)[0].shape[0]

    @torch.no_grad()
    def call() -> Rollout:
        directions = iter(tree_leaves(form.tangents))
        stacked = tree_map(lambda z: torch.cat([z[None], z + epsilon * next(directions)]).flatten(0, 1), form.state)
        outputs = roll(step, stacked, horizon)
        lanes = outputs.unflatten(1, (-1, count))
        return lanes[:, 0], (lanes[:, 1:] - lanes[:, :1]) / epsilon

    return Contestant(call, lambda result: result)
