"""Programs outside torch that can be said in torch: what captures and differentiates them takes that form."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from weakref import WeakSet

import torch

from tqs_fast.capture.verify import verify
from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.quantization.held import Swappable
from tqs_fast.systems import System, iterate
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

_verified: WeakSet[System] = WeakSet()


def in_torch(system: System) -> System:
    """`system` itself, or with the torch form of its module, whose first steps are compared with the program's once.

    Raises:
        CaptureError: there is no such form, or it does something else.
    """
    if not isinstance(system.module, Swappable):
        return system
    twin = copy.copy(system)
    twin.module = system.module.in_torch()
    if system not in _verified:
        _verify(system, twin)
        _verified.add(system)
    return twin


def differentiable(function: str, system: System) -> System:
    """As `in_torch`.

    Raises:
        ArgumentError: there is none, so that `function` has no derivatives.
    """
    try:
        return in_torch(system)
    except CaptureError as error:
        raise ArgumentError(
            f"[{function}] {system.name} runs outside torch, where there are no derivatives ({error}); score it with "
            "Residual() or Noise(), or use the torch module that it was exported from"
        ) from error


def _verify(system: System, twin: System) -> None:
    state = system.state_template

    def run(
        states: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], steps: int
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        given = None if system.input_template is None else _filled(system.input_template, inputs)
        taken = list(iterate(twin, _filled(state, states), given, steps))
        return torch.cat([output for _, output in taken], dim=1), tree_leaves(tree_like(state, taken[-1][0]))

    verify(run, system, state)


def _filled(template: Tree, leaves: Sequence[torch.Tensor]) -> Tree:
    """A tree like `template` of other leaves."""
    given = iter(leaves)
    return tree_map(lambda _: next(given), template)
