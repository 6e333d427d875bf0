"""One time step of the recurrent networks, given both projections of its gates (gate orders as in PyTorch).

`x` and `h` below are W_ih x + b_ih and W_hh h + b_hh, each [batch, gates * hidden_size].
"""

from __future__ import annotations

import torch
from torch import Tensor


def lstm(x: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden before any projection, new cell): c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c')."""
    i, f, g, o = (x + h).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru(x: Tensor, h: Tensor, hidden: Tensor) -> Tensor:
    """h' = n + z (h - n), n = tanh(x_n + r h_n); the reset gate acts on h_n after its bias, as in cuDNN."""
    x_r, x_z, x_n = x.chunk(3, -1)
    h_r, h_z, h_n = h.chunk(3, -1)
    new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return new + torch.sigmoid(x_z + h_z) * (hidden - new)


def rnn(x: Tensor, h: Tensor, nonlinearity: str) -> Tensor:
    """h' = tanh(x + h), or relu."""
    return torch.relu(x + h) if nonlinearity == "relu" else torch.tanh(x + h)
