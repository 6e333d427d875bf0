"""Small systems with known structure, for engine and scoring tests."""

from __future__ import annotations

import torch
from torch import nn

import tqs_fast as tqs
from tqs_fast.systems.tree import tree_map


class Cells(nn.Module):
    """A linear layer between two kinds of recurrent cell."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, width)
        self.gru = nn.GRUCell(width, width)
        self.lstm = nn.LSTMCell(width, width)
        self.out = nn.Linear(width, 3)


def cells_system(width: int = 16, seed: int = 0) -> tqs.Recurrent:
    """Free-running recurrent system with a nested state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Cells(width)

    def step(module: Cells, state):
        value, hidden = module.encoder(state["value"]), module.gru
        h = hidden(value, state["h"])
        pair = module.lstm(h, state["pair"])
        output = 0.7 * state["value"] + module.out(pair[0]).sin() + 0.1 * state["value"].roll(1, -1)
        return {"value": output, "h": h, "pair": pair}, output

    def initial_state(count: int, generator: torch.Generator):
        zeros = torch.zeros(count, width)
        return {"value": torch.randn(count, 3, generator=generator), "h": zeros, "pair": (zeros, zeros)}

    return tqs.Recurrent(module, step=step, initial_state=initial_state)


class LinearMap(nn.Module):
    """z -> A z: every rollout is known in closed form."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.map = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        self.map.weight = nn.Parameter(matrix.clone())


def linear_system(matrix: torch.Tensor) -> tqs.System:
    def step(module: LinearMap, state: torch.Tensor):
        state = module.map(state)
        return state, state

    size = matrix.shape[0]
    return tqs.System(
        LinearMap(matrix), step=step, initial_state=lambda count, g: torch.randn(count, size, generator=g)
    )


def rotation(angle: float = 0.3, radius: float = 1.0) -> torch.Tensor:
    """Scaled rotation of the plane."""
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    return radius * torch.stack([torch.stack([c, -s]), torch.stack([s, c])])


def looped(module: nn.Module, inputs: tuple[torch.Tensor, ...], call=None) -> tuple[tqs.System, object]:
    """Any module as a system: its first floating input is nudged by its output, which makes a loop."""
    call = call or (lambda module, *given: module(*given))

    def step(module: nn.Module, state):
        result = call(module, *state["inputs"])
        leaf = result[0] if isinstance(result, tuple) else result
        features = leaf.flatten(1)
        features = features.to(state["memory"].dtype)
        memory = 0.5 * state["memory"] + features.mean(dim=1, keepdim=True).tanh()
        nudged = tuple(
            x + 0.1 * memory.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype) if x.is_floating_point() else x
            for x in state["inputs"]
        )
        return {"inputs": nudged, "memory": memory}, torch.cat([features, memory], dim=1)

    state = {"inputs": inputs, "memory": torch.zeros(len(inputs[0]), 1)}

    def rows(count: int, generator: torch.Generator):
        return tree_map(lambda leaf: leaf[torch.arange(count) % len(leaf)], state)

    return tqs.System(module, step=step, initial_state=rows), state
