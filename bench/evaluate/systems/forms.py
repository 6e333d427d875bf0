"""How a network becomes a system: a window that slides over its own forecasts, or a memory that is carried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

import tqs_fast as tqs
from evaluate.systems.networks import LongShortTerm
from tqs_fast.systems.synthetic import synthetic_windows
from tqs_fast.systems.tree import Tree


class Form(Protocol):
    """What training and judging need to know about a network."""

    @property
    def context(self) -> int:
        """True values that a rollout is started with."""

    def system(self, module: nn.Module, name: str) -> tqs.System:
        """The network, free-running."""

    def start(self, module: nn.Module, given: torch.Tensor) -> Tree:
        """The state after the true values `given` [N, context, C]."""

    def loss(self, module: nn.Module, given: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Mean squared error of a free rollout from `given` [N, context, C] against `after` [N, values, C]."""


@dataclass(frozen=True)
class Window:
    """A network from a window [N, context, C] to its next value, or to a block of them."""

    context: int
    channels: int
    block: int = 1

    def system(self, module: nn.Module, name: str) -> tqs.System:
        def random_windows(count: int, generator: torch.Generator) -> Tree:
            return synthetic_windows(
                count, self.context, self.channels, kinds=("gaussian_process",), generator=generator
            )

        return tqs.Forecaster(
            module,
            self.context,
            channels=self.channels,
            block=self.block,
            initial_state=random_windows,
            name=name,
        )

    def start(self, module: nn.Module, given: torch.Tensor) -> Tree:
        return given

    def loss(self, module: nn.Module, given: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        path = given
        for _ in range(-(-after.shape[1] // self.block)):
            value = module(path[:, -self.context :])
            path = torch.cat([path, value.reshape(len(path), self.block, self.channels)], dim=1)
        return nn.functional.mse_loss(path[:, self.context : self.context + after.shape[1]], after)


@dataclass(frozen=True)
class Carried:
    """A recurrent network that was driven with `context` true values before it is let go."""

    context: int
    channels: int

    def system(self, module: nn.Module, name: str) -> tqs.System:
        width = module.width

        def random_state(count: int, generator: torch.Generator) -> Tree:
            value = torch.randn(count, self.channels, generator=generator)
            return (value, *(torch.zeros(count, width) for _ in range(4)))

        return tqs.Recurrent(module, step=carried_step, initial_state=random_state, name=name)

    def start(self, module: LongShortTerm, given: torch.Tensor) -> Tree:
        memory = module.empty(len(given))
        with torch.no_grad():
            for t in range(self.context - 1):
                _, *memory = module(given[:, t], tuple(memory))
        return (given[:, -1], *memory)

    def loss(self, module: LongShortTerm, given: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        memory = module.empty(len(given))
        known = self.context // 2  # the first half only fills the memory
        truth = torch.cat([given, after], dim=1)
        value, error = given[:, 0], given.new_zeros(())
        for t in range(truth.shape[1] - 1):
            source = truth[:, t] if t < self.context else value
            value, *memory = module(source, tuple(memory))
            if t >= known:
                error = error + nn.functional.mse_loss(value, truth[:, t + 1])
        return error / (truth.shape[1] - 1 - known)


def carried_step(module: nn.Module, state: Tree) -> tuple[Tree, torch.Tensor]:
    """One value of `Carried`."""
    value, *memory = module(state[0], tuple(state[1:]))
    return (value, *memory), value
