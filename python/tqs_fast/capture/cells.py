"""Recurrent cells and layers out of elementary operations, where torch would run a fused kernel of its own.

On CUDA, torch computes a GRUCell, an LSTMCell and (without cuDNN) every step of an nn.GRU or nn.LSTM in one kernel,
`_thnn_fused_*_cell`: it has no forward-mode derivative, and a trace shows it as an operation that nothing else knows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tqs_fast import _gates


class CellsWrittenOut(TorchFunctionMode):
    """Meanwhile `torch.gru_cell`, `torch.lstm_cell`, `torch.gru` and `torch.lstm` are written out for CUDA tensors."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        written = WRITTEN.get(func)
        if written is None or not has_fused_kernels(args[0] if args else given["input"]):
            return func(*args, **given)
        return written(*args, **given)


def has_fused_kernels(tensor: Tensor) -> bool:
    """Whether torch computes recurrent cells of its device in one kernel."""
    return tensor.is_cuda


def _gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    return _gates.gru(F.linear(input, w_ih, b_ih), F.linear(hx, w_hh, b_hh), hx)


def _lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    hidden, cell = hx
    return _gates.lstm(F.linear(input, w_ih, b_ih), F.linear(hidden, w_hh, b_hh), cell)


def _gru(*arguments: Any) -> Any:
    """The layers of an nn.GRU, over padded input or the rows of a PackedSequence."""
    padded = not isinstance(arguments[2], Tensor)  # then come the weights, else the state
    return _decomposition(torch.ops.aten.gru.input if padded else torch.ops.aten.gru.data)(*arguments)


def _lstm(*arguments: Any) -> Any:
    """As `_gru`, of an nn.LSTM."""
    padded = not isinstance(arguments[1], Tensor)  # the state, a pair, else the sizes of the batch
    return _decomposition(torch.ops.aten.lstm.input if padded else torch.ops.aten.lstm.data)(*arguments)


@cache
def _decomposition(operator: torch._ops.OpOverload[..., Any]) -> Callable[..., Any]:
    """Torch's own, in Python."""
    found: Callable[..., Any] = torch.export.default_decompositions()[operator]
    return found


WRITTEN: dict[Any, Callable[..., Any]] = {
    torch.gru_cell: _gru_cell,
    torch.lstm_cell: _lstm_cell,
    torch.gru: _gru,
    torch.lstm: _lstm,
}
