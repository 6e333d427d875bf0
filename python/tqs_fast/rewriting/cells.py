"""Drop-ins for LSTMCell, GRUCell and RNNCell: batched [B, input_size] or one sample [input_size].

A step is one native call (fused.py), or two products and the gates as torch operations.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tqs_fast import _gates as gates
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import fused
from tqs_fast.rewriting.fused import State
from tqs_fast.rewriting.packed import QuantModule


class _QuantCell(QuantModule):
    CONFIG: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "bias")

    def _state(self, input: Tensor, state: Tensor | None, what: str) -> Tensor:
        shape = input.shape
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            raise ArgumentError(
                f"[{type(self).__name__}] expected input [B, {self.input_size}] or [{self.input_size}], "
                f"got {list(shape)}"
            )
        wanted = (*shape[:-1], self.hidden_size)
        if state is None:
            return input.new_zeros(wanted)
        if state.shape != wanted:
            raise ArgumentError(
                f"[{type(self).__name__}] expected {what} of shape {list(wanted)}, got {list(state.shape)}"
            )
        return state

    def _advance(self, mode: str, input: Tensor, start: State) -> State | None:
        rows = 1 if input.dim() == 1 else input.shape[0]
        done = fused.advance(self, mode, input, [rows], start, outputs=False)
        return None if done is None else done[1]

    def _gates(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(input, "weight_ih", self._parameters["bias_ih"])
        return x, self.project(hidden, "weight_hh", self._parameters["bias_hh"])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"


class QuantLSTMCell(_QuantCell):
    """`nn.LSTMCell` with packed weights; hx is (hidden, cell)."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        hidden = self._state(input, None if hx is None else hx[0], "hx[0]")
        cell = self._state(input, None if hx is None else hx[1], "hx[1]")
        done = self._advance("LSTM", input, (hidden, cell))
        return gates.lstm(*self._gates(input, hidden), cell) if done is None else (done[0], done[1])


class QuantGRUCell(_QuantCell):
    """`nn.GRUCell` with packed weights."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        hidden = self._state(input, hx, "hx")
        done = self._advance("GRU", input, (hidden,))
        return gates.gru(*self._gates(input, hidden), hidden) if done is None else done[0]


class QuantRNNCell(_QuantCell):
    """`nn.RNNCell` with packed weights."""

    CONFIG = (*_QuantCell.CONFIG, "nonlinearity")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        hidden = self._state(input, hx, "hx")
        done = self._advance("RNN_RELU" if self.nonlinearity == "relu" else "RNN_TANH", input, (hidden,))
        return gates.rnn(*self._gates(input, hidden), self.nonlinearity) if done is None else done[0]
