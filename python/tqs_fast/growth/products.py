"""Products with the Jacobians of a few steps and with their transposes, by either engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from tqs_fast.engines.prepared import prepared
from tqs_fast.engines.torch_form import differentiable
from tqs_fast.engines.torch_tangents import Leaves, TorchAdjoints, TorchTangents
from tqs_fast.errors import CaptureError
from tqs_fast.systems import System
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map


class Products(Protocol):
    """Pushes tangents along a rollout whose states are known, and pulls cotangents back."""

    @property
    def name(self) -> str:
        """Of the engine."""

    @property
    def how(self) -> dict[str, str]:
        """How tangents and adjoints are computed; known after the first of each."""

    def push(self, states: Sequence[Tree], inputs: Tree | None, tangents: Leaves) -> Leaves:
        """J_{T-1} ... J_0 times tangents `[K, N, ...]` of every floating leaf.

        Args:
            states: before each of the T steps, trees of `[N, ...]`.
            inputs: tree of `[N, T, ...]` for a driven system, else None.
        """

    def pull(self, states: Sequence[Tree], inputs: Tree | None, cotangents: Leaves) -> Leaves:
        """J_0ᵀ ... J_{T-1}ᵀ times cotangents; arguments as in `push`."""


class TorchProducts:
    """By torch.func, step by step."""

    name = "torch"

    def __init__(self, system: System) -> None:
        system = differentiable("growth_rates", system)
        self._pusher, self._puller = TorchTangents(system), TorchAdjoints(system)

    @property
    def how(self) -> dict[str, str]:
        """As `Products.how`."""
        return {"tangents": self._pusher.how, "adjoints": self._puller.how}

    def push(self, states: Sequence[Tree], inputs: Tree | None, tangents: Leaves) -> Leaves:
        """As `Products.push`."""
        for t, state in enumerate(states):
            tangents = self._pusher.step(state, tangents, input_at(inputs, t)).tangents
        return tangents

    def pull(self, states: Sequence[Tree], inputs: Tree | None, cotangents: Leaves) -> Leaves:
        """As `Products.pull`."""
        for t in reversed(range(len(states))):
            cotangents = self._puller.step(states[t], cotangents, input_at(inputs, t))
        return cotangents


class NativeProducts:
    """By tangent rollouts of two captured programs, the step and the transposed step.

    The transposed step is linear in its state: cotangents are its tangents along a rollout from zero, all K of them
    sharing what depends on the states x_t alone.

    Args:
        system: its step is captured.
        state: tree of `[N, ...]` like those of the rollout.

    Raises:
        CaptureError: the step or its transpose cannot be captured, or there are integers in the state.
    """

    name = "native"

    def __init__(self, system: System, state: Tree) -> None:
        if not all(leaf.is_floating_point() for leaf in tree_leaves(state)):
            raise CaptureError(f'[growth_rates] {system.name} has integers in its state; use engine="torch"')
        self._step = prepared(system, state, horizon=1)
        self._transposed = prepared(system, state, horizon=1, transpose=True)

    @property
    def how(self) -> dict[str, str]:
        """As `Products.how`."""
        return {"tangents": "native tangent rollout", "adjoints": "native rollout of the transposed step"}

    def push(self, states: Sequence[Tree], inputs: Tree | None, tangents: Leaves) -> Leaves:
        """As `Products.push`."""
        series = [] if inputs is None else tree_leaves(inputs)
        steps = len(states)
        rolled = self._step.tangents(tree_leaves(states[0]), series, steps=steps, values=1, seeds=tangents)
        return tuple(rolled.state_tangents)

    def pull(self, states: Sequence[Tree], inputs: Tree | None, cotangents: Leaves) -> Leaves:
        """As `Products.pull`."""
        steps = len(states)
        columns = zip(*(tree_leaves(state) for state in reversed(states)), strict=True)
        series = [torch.stack(leaves, dim=1) for leaves in columns]
        if inputs is not None:
            series += [leaf[:, :steps].flip(1) for leaf in tree_leaves(inputs)]
        zero = tree_leaves(tree_map(torch.zeros_like, states[0]))
        rolled = self._transposed.tangents(zero, series, steps=steps, values=1, seeds=cotangents)
        return tuple(rolled.state_tangents)


def choose_products(engine: str, system: System, state: Tree) -> tuple[Products, str]:
    """What multiplies by Jacobians, and why: native where step and transposed step can be captured, else torch.

    Raises:
        CaptureError: engine is "native" and one of them cannot.
    """
    if engine == "torch":
        return TorchProducts(system), "asked for"
    try:
        native = NativeProducts(system, state)
        return native, "asked for" if engine == "native" else "the step and its transpose were captured"
    except CaptureError as error:
        if engine == "native":
            raise
        return TorchProducts(system), f"the native engine cannot run it: {error}"
