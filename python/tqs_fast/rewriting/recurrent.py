"""Drop-ins for LSTM, GRU and RNN.

A layer and direction is one native call (fused.py), or composed here of torch operations: one product for the input
projection of all time steps, and one per step for the recurrence. For both, a sequence is a list of per-step rows
[batch_t, ...], with batch_t never growing in t. That covers padded input (all equal) and PackedSequence with the same
code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from tqs_fast import _gates as gates
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import fused
from tqs_fast.rewriting.fused import State
from tqs_fast.rewriting.packed import QuantModule


class _QuantRecurrent(QuantModule):
    CONFIG: ClassVar[tuple[str, ...]] = (
        "mode",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    )

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        if isinstance(input, PackedSequence):
            return self._packed_sequence(input, hx)
        name = type(self).__name__
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ArgumentError(
                f"[{name}] expected input of 3 dimensions (batched) or 2 (one sequence), "
                f"the last of size {self.input_size}, got shape {list(input.shape)}"
            )
        batched = input.dim() == 3
        batch_first = self.batch_first and batched
        x = input.transpose(0, 1) if batch_first else input if batched else input.unsqueeze(1)
        steps, batch = x.shape[:2]
        if steps == 0:
            raise ArgumentError(f"[{name}] expected at least one time step, got shape {list(input.shape)}")
        state = self._initial(hx, batch, x, batched)
        flat, final = self._layers(x.reshape(steps * batch, -1), [batch] * steps, state)
        output = flat.reshape(steps, batch, -1)
        if not batched:
            return output.squeeze(1), self._hand_back([part.squeeze(1) for part in final])
        return output.transpose(0, 1) if batch_first else output, self._hand_back(final)

    def _packed_sequence(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        sizes = input.batch_sizes.tolist()
        state = self._initial(hx, sizes[0], input.data, True)
        if input.sorted_indices is not None and hx is not None:
            state = [part.index_select(1, input.sorted_indices) for part in state]
        data, final = self._layers(input.data, sizes, state)
        if input.unsorted_indices is not None:
            final = [part.index_select(1, input.unsorted_indices) for part in final]
        output = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return output, self._hand_back(final)

    def _hand_back(self, state: list[Tensor]) -> Any:
        return tuple(state) if self.mode == "LSTM" else state[0]

    def _initial(self, hx: Any, batch: int, like: Tensor, batched: bool) -> list[Tensor]:
        """State parts [layers * directions, batch, size], zeros when hx is None."""
        stack = self.num_layers * (2 if self.bidirectional else 1)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return [like.new_zeros(stack, batch, size) for size in sizes]
        parts = list(hx) if self.mode == "LSTM" else [hx]
        for part, size in zip(parts, sizes, strict=True):
            wanted = (stack, batch, size) if batched else (stack, size)
            if tuple(part.shape) != wanted:
                raise ArgumentError(
                    f"[{type(self).__name__}] expected hx of shape {list(wanted)}, got {list(part.shape)}"
                )
        return parts if batched else [part.unsqueeze(1) for part in parts]

    def _layers(self, x: Tensor, sizes: list[int], state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x [sum of sizes, features], rows ordered by time -> outputs of the last layer, final state parts."""
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(2 if self.bidirectional else 1):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                start = tuple(part[len(finals)] for part in state)
                done = fused.advance(self, self.mode, x, sizes, start, suffix, reverse=bool(direction))
                output, final = done or self._composed(x, sizes, start, suffix, reverse=bool(direction))
                outputs.append(output)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout)
        if len(finals) == 1:
            return x, [part.unsqueeze(0) for part in finals[0]]
        return x, [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _composed(
        self, x: Tensor, sizes: list[int], start: State, suffix: str, *, reverse: bool
    ) -> tuple[Tensor, State]:
        projected = self.project(x, f"weight_ih{suffix}", self._parameters.get(f"bias_ih{suffix}"))
        if sizes[0] == sizes[-1]:
            steps = list(projected.reshape(len(sizes), sizes[0], -1).unbind(0))
        else:
            steps = list(torch.split(projected, sizes))
        output, final = (self._backward if reverse else self._forward)(steps, start, suffix)
        return torch.cat(output), final

    def _forward(self, steps: list[Tensor], state: State, suffix: str) -> tuple[list[Tensor], State]:
        outputs, finished = [], []
        for x in steps:
            running = x.shape[0]
            if running < state[0].shape[0]:  # the shortest sequences end here
                finished.append(tuple(part[running:] for part in state))
                state = tuple(part[:running] for part in state)
            state = self._step(x, state, suffix)
            outputs.append(state[0])
        finished.append(state)
        return outputs, tuple(torch.cat(parts) for parts in zip(*reversed(finished), strict=True))

    def _backward(self, steps: list[Tensor], start: State, suffix: str) -> tuple[list[Tensor], State]:
        outputs = []
        state = tuple(part[: steps[-1].shape[0]] for part in start)
        for x in reversed(steps):
            running, before = x.shape[0], state[0].shape[0]
            if running > before:  # shorter sequences begin at their own end
                state = tuple(
                    torch.cat([part, first[before:running]]) for part, first in zip(state, start, strict=True)
                )
            state = self._step(x, state, suffix)
            outputs.append(state[0])
        return outputs[::-1], state

    def _step(self, x: Tensor, state: State, suffix: str) -> State:
        hidden = state[0]
        h = self.project(hidden, f"weight_hh{suffix}", self._parameters.get(f"bias_hh{suffix}"))
        if self.mode == "LSTM":
            hidden, cell = gates.lstm(x, h, state[1])
            return (self.project(hidden, f"weight_hr{suffix}", None) if self.proj_size else hidden), cell
        if self.mode == "GRU":
            return (gates.gru(x, h, hidden),)
        return (gates.rnn(x, h, "relu" if self.mode == "RNN_RELU" else "tanh"),)

    def flatten_parameters(self) -> None:
        """Nothing to flatten; here because code written for the float module calls it."""

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, bidirectional={self.bidirectional}"
        )


class QuantLSTM(_QuantRecurrent):
    """`nn.LSTM`, each weight packed or float: same call, shapes, `proj_size`, `batch_first`, PackedSequence."""


class QuantGRU(_QuantRecurrent):
    """`nn.GRU`, each weight packed or float."""


class QuantRNN(_QuantRecurrent):
    """`nn.RNN` (tanh or relu), each weight packed or float."""

    CONFIG = (*_QuantRecurrent.CONFIG, "nonlinearity")
