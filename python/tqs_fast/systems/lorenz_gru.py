"""`lorenz-gru`: a small recurrent forecaster of Lorenz-63, trained by scripts/train_lorenz_gru.py."""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load

from tqs_fast.errors import ArgumentError
from tqs_fast.systems import lorenz63
from tqs_fast.systems.initial import Contexts
from tqs_fast.systems.system import Recurrent
from tqs_fast.systems.tree import Tree

WIDTH = 64
WARM_UP = 64  # true samples that fill the memory; training drew 16 to 96


class LorenzGRU(torch.nn.Module):
    """Two stacked GRU cells that predict the increment of the standardised state over one sample of 0.02 time units."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(3, WIDTH)
        self.cell1 = torch.nn.GRUCell(WIDTH, WIDTH)
        self.cell2 = torch.nn.GRUCell(WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, WIDTH)
        self.out = torch.nn.Linear(WIDTH, 3)

    def forward(
        self, value: torch.Tensor, hidden1: torch.Tensor, hidden2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`value` [N, 3] standardised and both hidden states [N, 64], one sample later."""
        hidden1 = self.cell1(self.encoder(value), hidden1)
        hidden2 = self.cell2(hidden1, hidden2)
        increment = self.out(torch.nn.functional.silu(self.head(hidden2)))
        return value + increment, hidden1, hidden2


def lorenz_gru() -> Recurrent:
    """The trained network as a free-running system: its own value is its next input; output [N, 3], standardised."""
    module = LorenzGRU()
    weights = files("tqs_fast.systems").joinpath("data", "lorenz_gru.safetensors").read_bytes()
    module.load_state_dict(load(weights))
    return lorenz_system(module)


def lorenz_system(module: torch.nn.Module) -> Recurrent:
    """Any weights of `LorenzGRU` as a system; random states are standard normal with empty memory."""
    return Recurrent(module, step=_step, initial_state=_random_state, name="lorenz-gru")


def lorenz_contexts(count: int = 16, *, seed: int = 0, module: torch.nn.Module | None = None) -> Contexts:
    """States that the true Lorenz-63 flow leads to: the network is driven with true samples before it is let go.

    Args:
        count: independent trajectories of the true flow.
        seed: of their starts.
        module: the float network; the shipped one by default.

    Raises:
        ArgumentError: count below 1.
    """
    if count < 1:
        raise ArgumentError(f"[lorenz_contexts] count must be at least 1, got {count}")
    truth = lorenz63.standardise(lorenz63.trajectories(count, WARM_UP + 1, seed=seed))
    samples = torch.from_numpy(truth).float()
    with torch.no_grad():
        state = warm_up(lorenz_gru().module if module is None else module, samples)
    return Contexts(state, name="lorenz-63")


def warm_up(module: torch.nn.Module, samples: torch.Tensor) -> Tree:
    """The state after driving with `samples` [N, T, 3]: memory of the first T - 1, and the last as the value."""
    hidden1 = hidden2 = samples.new_zeros(samples.shape[0], WIDTH)
    for t in range(samples.shape[1] - 1):
        _, hidden1, hidden2 = module(samples[:, t], hidden1, hidden2)
    return {"value": samples[:, -1], "hidden1": hidden1, "hidden2": hidden2}


def _step(module: torch.nn.Module, state: Tree) -> tuple[Tree, torch.Tensor]:
    value, hidden1, hidden2 = module(state["value"], state["hidden1"], state["hidden2"])
    return {"value": value, "hidden1": hidden1, "hidden2": hidden2}, value


def _random_state(count: int, generator: torch.Generator) -> Tree:
    value = torch.randn(count, 3, generator=generator)
    return {"value": value, "hidden1": torch.zeros(count, WIDTH), "hidden2": torch.zeros(count, WIDTH)}
