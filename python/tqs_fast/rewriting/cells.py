"""Drop-ins for LSTMCell, GRUCell and RNNCell: batched [B, input_size] or one sample [input_size]."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import gates
from tqs_fast.rewriting.packed import QuantModule


class _QuantCell(QuantModule):
    CONFIG: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "bias")

    def _state(self, input: Tensor, state: Tensor | None, what: str) -> Tensor:
        name = type(self).__name__
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise ArgumentError(
                f"[{name}] expected input [B, {self.input_size}] or [{self.input_size}], got {list(input.shape)}"
            )
        if state is None:
            return input.new_zeros((*input.shape[:-1], self.hidden_size))
        if state.shape != (*input.shape[:-1], self.hidden_size):
            wanted = [*input.shape[:-1], self.hidden_size]
            raise ArgumentError(f"[{name}] expected {what} of shape {wanted}, got {list(state.shape)}")
        return state

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
        return gates.lstm(*self._gates(input, hidden), cell)


class QuantGRUCell(_QuantCell):
    """`nn.GRUCell` with packed weights."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        hidden = self._state(input, hx, "hx")
        return gates.gru(*self._gates(input, hidden), hidden)


class QuantRNNCell(_QuantCell):
    """`nn.RNNCell` with packed weights."""

    CONFIG = (*_QuantCell.CONFIG, "nonlinearity")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        hidden = self._state(input, hx, "hx")
        return gates.rnn(*self._gates(input, hidden), self.nonlinearity)
