"""Recurrent networks: a GRU cell and a three-layer LSTM, each fed its own last value."""

from __future__ import annotations

from copy import copy

import torch
from torch import nn
from torch.nn.functional import linear

import tqs_fast as tqs
from jvp.form import Form, Network, directions, seeded
from tqs_fast.systems.tree import Tree

RATE = 0.1  # value' = value + RATE * head(h)
LAYERS = 3
State = dict[str, torch.Tensor]


class Gru(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(channels, width)
        self.head = nn.Linear(width, channels)


def gru_step(module: Gru, state: State) -> tuple[State, torch.Tensor]:
    h = module.cell(state["value"], state["h"])
    value = state["value"] + RATE * module.head(h)
    return {"h": h, "value": value}, value


class Lstm(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, width, LAYERS, batch_first=True)
        self.head = nn.Linear(width, channels)


def lstm_step(module: Lstm, state: State) -> tuple[State, torch.Tensor]:
    """One value through nn.LSTM; h and c are [N, layers, width]."""
    before = (state["h"].transpose(0, 1).contiguous(), state["c"].transpose(0, 1).contiguous())
    output, (h, c) = module.lstm(state["value"][:, None], before)
    value = state["value"] + RATE * module.head(output[:, -1])
    return {"h": h.transpose(0, 1), "c": c.transpose(0, 1), "value": value}, value


class LstmCells(nn.Module):
    """The weights of an Lstm in nn.LSTMCell, for ways that cannot see into nn.LSTM."""

    def __init__(self, original: Lstm) -> None:
        super().__init__()
        width = original.lstm.hidden_size
        inputs = [original.lstm.input_size] + [width] * (LAYERS - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(size, width) for size in inputs)
        for layer, cell in enumerate(self.cells):
            for name, _ in list(cell.named_parameters()):
                setattr(cell, name, getattr(original.lstm, f"{name}_l{layer}"))
        self.head = original.head


def lstm_cells_step(module: LstmCells, state: dict[str, Tree]) -> tuple[dict[str, Tree], torch.Tensor]:
    """The same step, a cell for every layer; h and c are tuples of [N, width]."""
    x, hs, cs = state["value"], [], []
    for cell, h, c in zip(module.cells, state["h"], state["c"], strict=True):
        x, c = cell(x, (h, c))
        hs.append(x)
        cs.append(c)
    value = state["value"] + RATE * module.head(x)
    return {"h": tuple(hs), "c": tuple(cs), "value": value}, value


def gru_written_step(module: Gru, state: State) -> tuple[State, torch.Tensor]:
    """`gru_step` with the cell written out: on CUDA torch cannot differentiate its own forward."""
    cell, h = module.cell, state["h"]
    x_r, x_z, x_n = linear(state["value"], cell.weight_ih, cell.bias_ih).chunk(3, -1)
    h_r, h_z, h_n = linear(h, cell.weight_hh, cell.bias_hh).chunk(3, -1)
    new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    h = new + torch.sigmoid(x_z + h_z) * (h - new)
    value = state["value"] + RATE * module.head(h)
    return {"h": h, "value": value}, value


def lstm_written_step(module: LstmCells, state: dict[str, Tree]) -> tuple[dict[str, Tree], torch.Tensor]:
    """`lstm_cells_step` with the cells written out."""
    x, hs, cs = state["value"], [], []
    for cell, h, c in zip(module.cells, state["h"], state["c"], strict=True):
        gates = linear(x, cell.weight_ih, cell.bias_ih) + linear(h, cell.weight_hh, cell.bias_hh)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        x = torch.sigmoid(o) * torch.tanh(c)
        hs.append(x)
        cs.append(c)
    value = state["value"] + RATE * module.head(x)
    return {"h": tuple(hs), "c": tuple(cs), "value": value}, value


def by_layer(state: State, axis: int) -> dict[str, Tree]:
    """The state of `lstm_step` as `lstm_cells_step` has it; `axis` is that of the layers."""
    return {key: leaf if key == "value" else leaf.unbind(axis) for key, leaf in state.items()}


def gru(tangents: int = 16, width: int = 128, channels: int = 8, count: int = 1, seed: int = 0) -> Network:
    def initial_state(count: int, generator: torch.Generator) -> State:
        return {
            "h": torch.randn(count, width, generator=generator).tanh(),
            "value": torch.randn(count, channels, generator=generator),
        }

    module = seeded(lambda: Gru(width, channels), seed)
    system = tqs.Recurrent(module, step=gru_step, initial_state=initial_state, name="gru")
    written = tqs.Recurrent(module, step=gru_written_step, initial_state=initial_state, name="gru-written")
    state = initial_state(count, torch.Generator().manual_seed(seed))
    ways = (
        "native", "jax jvp", "jax by hand", "jax differences", "func rollout", "func steps", "compiled steps",
        "by hand", "differences", "compiled differences",
    )  # fmt: skip
    seeds = directions(state, tangents, seed + 1)
    return Network(
        "gru",
        {
            "plain": Form(system, state, seeds, "gru", ways),
            "written": Form(written, state, seeds, None, ("func steps",), "the cell written out"),
        },
    )


def lstm(tangents: int = 16, width: int = 128, channels: int = 8, count: int = 1, seed: int = 0) -> Network:
    def initial_state(count: int, generator: torch.Generator) -> State:
        hidden = torch.randn(2, count, LAYERS, width, generator=generator).tanh()
        return {"h": hidden[0], "c": hidden[1], "value": torch.randn(count, channels, generator=generator)}

    module = seeded(lambda: Lstm(width, channels), seed)
    state = initial_state(count, torch.Generator().manual_seed(seed))
    seeds = directions(state, tangents, seed + 1)

    plain = tqs.Recurrent(module, step=lstm_step, initial_state=initial_state, name="lstm")
    cells = tqs.Recurrent(
        LstmCells(module),
        step=lstm_cells_step,
        initial_state=lambda count, generator: by_layer(initial_state(count, generator), 1),
        name="lstm-cells",
    )
    written = copy(cells)
    written.step, written.name = lstm_written_step, "lstm-written"
    plain_ways = ("native", "jax jvp", "jax differences", "func rollout", "differences", "compiled differences")
    cells_ways = ("native", "func rollout", "func steps", "compiled steps", "compiled differences")
    return Network(
        "lstm",
        {
            "plain": Form(plain, state, seeds, "lstm", plain_ways, "nn.LSTM"),
            "cells": Form(
                cells, by_layer(state, 1), by_layer(seeds, 2), None, cells_ways, "nn.LSTMCell for every layer"
            ),
            "written": Form(
                written, by_layer(state, 1), by_layer(seeds, 2), None, ("func steps",), "the cells written out"
            ),
        },
        counted="cells",
    )
