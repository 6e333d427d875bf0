"""Derivatives on the torch engine, one step at a time: tangents pushed forward, cotangents pulled back.

A step is differentiated as the user wrote it; torch_ways.py says how, and which way a rollout took is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import jvp, vjp, vmap

from tqs_fast.engines.randomness import drawing_nothing
from tqs_fast.engines.substitution import Substitution
from tqs_fast.engines.torch_ways import Way, first_way
from tqs_fast.systems import System
from tqs_fast.systems.system import advance
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

Leaves = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class TangentStep:
    """One step of lane 0 and its K tangents.

    Attributes:
        state: tree of `[N, ...]`.
        output: `[N, block, C]`.
        tangents: `[K, N, ...]` of every floating leaf of the state, in tree order.
        output_tangents: `[K, N, block, C]`.
    """

    state: Tree
    output: torch.Tensor
    tangents: Leaves
    output_tangents: torch.Tensor


class TorchTangents:
    """Pushes tangents through the steps of a system.

    Args:
        system: whose steps are differentiated.
        weights: parameter -> its tangents `[K, ...]`, the same at every step.
    """

    def __init__(self, system: System, weights: Mapping[torch.nn.Parameter, torch.Tensor] | None = None) -> None:
        self._system = system
        self._parameters = tuple(weights or {})
        self._weight_tangents = tuple((weights or {}).values())
        self._way: Way | None = None

    @property
    def how(self) -> str:
        """How tangents are computed; empty before the first step."""
        return "" if self._way is None else f"torch.func.jvp, {self._way}"

    def step(self, state: Tree, tangents: Leaves, step_input: Tree | None) -> TangentStep:
        """One step.

        Args:
            state: tree of `[N, ...]`.
            tangents: `[K, N, ...]` of every floating leaf, in tree order.
            step_input: tree of `[N, ...]` for a driven system, else None.

        Raises:
            ArgumentError: torch cannot differentiate an operation of the step, with its reason; or it draws random
                numbers.
        """

        def primal(leaves: Leaves, weights: Leaves) -> tuple[tuple[Leaves, torch.Tensor], Leaves]:
            replaced = dict(zip(self._parameters, weights, strict=True))
            with Substitution(replaced) if replaced else nullcontext():
                after, output = advance(self._system, replace_floating(state, leaves), step_input)
                after = tree_like(state, after)
            return (floating(after), output), tuple(leaf for leaf in tree_leaves(after) if not leaf.is_floating_point())

        seeds = (tangents, self._weight_tangents)
        points = (floating(state), tuple(parameter.detach() for parameter in self._parameters))

        def push(way: Way) -> Any:
            def one(directions: Any) -> Any:
                return jvp(primal, points, directions, has_aux=True)

            if way.together:
                # the trajectory and what has no tangent are the same for all, so they stay without a K
                return vmap(one, out_dims=(None, 0, None))(seeds)  # type: ignore[arg-type]
            results = [one(_pick(seeds, k)) for k in range(len(tree_leaves(seeds)[0]))]
            return results[0][0], _stack([moved for _, moved, _ in results]), results[0][2]

        if self._way is None:
            _try(self._system, state, step_input)
            self._way, result = first_way(self._system.name, "tangents", push)
        else:
            result = self._way.run(push)
        (leaves, output), (moved, output_tangents), rest = result
        return TangentStep(_join(state, leaves, rest), output, moved, output_tangents)


class TorchAdjoints:
    """Pulls cotangents of the state back through the steps of a system."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._way: Way | None = None

    @property
    def how(self) -> str:
        """How cotangents are computed; empty before the first step."""
        return "" if self._way is None else f"torch.func.vjp, {self._way}"

    def step(self, state: Tree, cotangents: Leaves, step_input: Tree | None) -> Leaves:
        """Cotangents `[K, N, ...]` of the state before a step, from those of the state after it.

        Args:
            state: before the step, tree of `[N, ...]`.
            cotangents: `[K, N, ...]` of every floating leaf, in tree order.
            step_input: tree of `[N, ...]` for a driven system, else None.

        Raises:
            ArgumentError: torch cannot differentiate an operation of the step, with its reason; or it draws random
                numbers.
        """
        arguments = () if step_input is None else (step_input,)

        def primal(*leaves: torch.Tensor) -> Leaves:
            after, _ = self._system.step(self._system.module, replace_floating(state, leaves), *arguments)
            return floating(tree_like(state, after))

        def pull(way: Way) -> Leaves:
            pullback = vjp(primal, *floating(state))[1]
            if way.together:
                pulled: Leaves = vmap(pullback)(cotangents)
                return pulled
            stacked: Leaves = _stack([pullback(_pick(cotangents, k)) for k in range(len(cotangents[0]))])
            return stacked

        with torch.no_grad():  # outside of vjp: no graph of the parameters
            if self._way is None:
                _try(self._system, state, step_input)
                self._way, result = first_way(self._system.name, "adjoints", pull)
                return result
            return self._way.run(pull)


def _try(system: System, state: Tree, step_input: Tree | None) -> None:
    """One step, whose errors are raised as they are, and which is differentiated in several calls."""
    with drawing_nothing(system, "others in every call, so that it has no derivative"):
        advance(system, state, step_input)


def floating(tree: Tree) -> Leaves:
    """The floating leaves, in tree order."""
    return tuple(leaf for leaf in tree_leaves(tree) if leaf.is_floating_point())


def replace_floating(tree: Tree, leaves: Sequence[torch.Tensor]) -> Tree:
    """`tree` with its floating leaves replaced, in tree order."""
    given = iter(leaves)
    return tree_map(lambda leaf: next(given) if leaf.is_floating_point() else leaf, tree)


def _pick(seeds: Tree, k: int) -> Tree:
    return tree_map(lambda leaf: leaf[k], seeds)


def _stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one structure as one with a leading dimension."""
    stacked = iter([torch.stack(column) for column in zip(*map(tree_leaves, trees), strict=True)])
    return tree_map(lambda _: next(stacked), trees[0])


def _join(template: Tree, leaves: Leaves, rest: Leaves) -> Tree:
    """A tree like `template` with these floating leaves and these others."""
    given, others = iter(leaves), iter(rest)
    return tree_map(lambda leaf: next(given) if leaf.is_floating_point() else next(others), template)
