"""A network in the forms that contestants run: the same weights and numbers, written in different ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import tqs_fast as tqs
from tqs_fast.systems.tree import Tree, tree_map

Rollout = tuple[torch.Tensor, torch.Tensor]  # outputs [T, N, C] and their tangents [T, K, N, C]


@dataclass(frozen=True, eq=False)
class Contestant:
    """Something that rolls a form out with its tangents.

    Attributes:
        call: does all the work and returns it in any layout; what is timed.
        read: turns what `call` returned into a Rollout; not timed.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Rollout]


@dataclass(frozen=True, eq=False)
class Form:
    """One way to write a network.

    Attributes:
        system: the step in torch.
        state: where the rollout starts, leaves [N, ...].
        tangents: K directions of that state, leaves [K, N, ...].
        jax_step: name of a function in `jax_steps`, None for a form that only torch runs.
        ways: names of the contestants that run it (`WAYS` of bench_jvp.py).
        note: what the form is, for the table.
    """

    system: tqs.System
    state: Tree
    tangents: Tree
    jax_step: str | None
    ways: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Network:
    """A network of the bench.

    Attributes:
        name: on the command line.
        forms: "plain" first, the form that a user would write; all give the same outputs and tangents.
        counted: the form whose matrix products are counted for the limit: nothing computed that no output needs.
    """

    name: str
    forms: dict[str, Form]
    counted: str = "plain"

    @property
    def plain(self) -> Form:
        return self.forms["plain"]


def directions(state: Tree, count: int, seed: int, leaves: Callable[[Any], bool] = lambda key: True) -> Tree:
    """`count` standard normal tangents of every leaf [N, ...] of a state dict or tensor.

    Those of a dict's entry are zero where `leaves(key)` is False.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf: torch.Tensor) -> torch.Tensor:
        return torch.randn(count, *leaf.shape, generator=generator)

    if isinstance(state, dict):
        return {
            key: tree_map(draw if leaves(key) else lambda leaf: leaf.new_zeros(count, *leaf.shape), value)
            for key, value in state.items()
        }
    return tree_map(draw, state)


def seeded(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """The module with torch's default initialisation under `seed`; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()
