"""Module kinds with quantizable weights: a row here is checked by the rewriting tests and by the lane tests.

Every row calls `make_module()(*make_input(batch), **kwargs)`. Inputs and outputs have the batch in dimension 0, also
where the module inside wants it elsewhere; sizes are small, odd, and long enough for several groups in some rows.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModuleCase:
    """One row; `make_module` gives the same weights and `make_input` the same values at every call."""

    name: str
    make_module: Callable[[], nn.Module]
    make_input: Callable[[int], tuple[Tensor, ...]]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


class Sequence(nn.Module):
    """A recurrent network, batch first whatever the network wants; returns (output, *final state)."""

    def __init__(self, inner: nn.RNNBase) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        parts = tuple(part.transpose(0, 1).contiguous() for part in state)
        hx = None if not parts else parts if len(parts) == 2 else parts[0]
        with warnings.catch_warnings() if self.inner.proj_size else contextlib.nullcontext():
            if self.inner.proj_size:
                warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            y, final = self.inner(x if self.inner.batch_first else x.transpose(0, 1), hx)
        final = final if isinstance(final, tuple) else (final,)
        return (y if self.inner.batch_first else y.transpose(0, 1), *(part.transpose(0, 1) for part in final))


class Cell(nn.Module):
    """Three steps of a cell from a zero state; returns the hidden states [batch, 3, hidden]."""

    def __init__(self, inner: nn.RNNCellBase) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.inner(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Attention(nn.Module):
    """Self-attention (one input), or query, key, value; an optional bool padding mask [batch, keys] comes last."""

    def __init__(self, inner: nn.MultiheadAttention, *, causal: bool = False, need_weights: bool = False) -> None:
        super().__init__()
        self.inner, self.causal, self.need_weights = inner, causal, need_weights

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        padding = inputs[-1] if inputs[-1].dtype == torch.bool else None
        inputs = inputs if padding is None else inputs[:-1]
        if not self.inner.batch_first:
            inputs = tuple(part.transpose(0, 1) for part in inputs)
        query, key, value = inputs if len(inputs) == 3 else (inputs[0],) * 3
        length, sources = (part.shape[1 if self.inner.batch_first else 0] for part in (query, key))
        mask = torch.ones(length, sources, dtype=torch.bool).triu(1) if self.causal else None
        y, weights = self.inner(
            query,
            key,
            value,
            key_padding_mask=padding,
            attn_mask=mask,
            is_causal=self.causal,
            need_weights=self.need_weights,
        )
        y = y if self.inner.batch_first else y.transpose(0, 1)
        return (y,) if weights is None else (y, weights)


class TiedHead(nn.Module):
    """An embedding whose table is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(19, 40)
        self.head = nn.Linear(40, 19)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """`make` from a fixed seed, in evaluation mode, with biases that are not zero."""

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            module = make().eval()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if "bias" in name:
                        parameter.uniform_(-0.5, 0.5)
        return module

    return build


def floats(*shapes: tuple[int, ...]) -> Callable[[int], tuple[Tensor, ...]]:
    """Standard normal inputs [batch, *shape]."""

    def make(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(11)
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)

    return make


def tokens(*shape: int, below: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Integer inputs [batch, *shape]."""

    def make(batch: int) -> tuple[Tensor, ...]:
        return (torch.randint(below, (batch, *shape), generator=torch.Generator().manual_seed(11)),)

    return make


def padded(make: Callable[[int], tuple[Tensor, ...]], keys: int) -> Callable[[int], tuple[Tensor, ...]]:
    """The inputs of `make` and a padding mask [batch, keys] that hides the last keys of every second sample."""

    def build(batch: int) -> tuple[Tensor, ...]:
        mask = torch.zeros(batch, keys, dtype=torch.bool)
        mask[::2, keys - 2 :] = True
        return (*make(batch), mask)

    return build


def row(name: str, make: Callable[[], nn.Module], make_input: Callable[[int], tuple[Tensor, ...]]) -> ModuleCase:
    return ModuleCase(name, seeded(make), make_input)


def _recurrent(kind: type[nn.RNNBase], name: str) -> list[ModuleCase]:
    states = [(2, 9)] * (2 if kind is nn.LSTM else 1)
    return [
        row(name, lambda: Sequence(kind(5, 40, batch_first=True)), floats((6, 5))),
        row(f"{name}-time-major", lambda: Sequence(kind(5, 9)), floats((6, 5))),
        row(f"{name}-2-layers", lambda: Sequence(kind(5, 9, 2, batch_first=True)), floats((4, 5))),
        row(f"{name}-bidirectional", lambda: Sequence(kind(5, 9, 2, bidirectional=True)), floats((4, 5))),
        row(f"{name}-no-bias", lambda: Sequence(kind(37, 9, bias=False, batch_first=True)), floats((4, 37))),
        row(f"{name}-state", lambda: Sequence(kind(5, 9, 2)), floats((4, 5), *states)),
    ]


def _attention(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(24, 4, **options)


def _encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(24, 4, dim_feedforward=40, batch_first=True, **options)


SELF, CROSS = floats((6, 24)), floats((5, 24), (7, 24), (7, 24))

CASES: tuple[ModuleCase, ...] = (
    row("Linear", lambda: nn.Linear(150, 7), floats((150,))),
    row("Linear-3d", lambda: nn.Linear(33, 5), floats((3, 33))),
    row("Linear-no-bias", lambda: nn.Linear(3, 5, bias=False), floats((3,))),
    row("Linear-scalar", lambda: nn.Linear(1, 1), floats((1,))),
    row("Conv1d", lambda: nn.Conv1d(20, 6, 5), floats((20, 11))),
    row("Conv1d-same", lambda: nn.Conv1d(12, 6, 3, padding="same", dilation=2), floats((12, 11))),
    row("Conv1d-circular", lambda: nn.Conv1d(12, 6, 3, padding=2, padding_mode="circular"), floats((12, 11))),
    row("Conv1d-reflect", lambda: nn.Conv1d(12, 6, 3, padding=1, padding_mode="reflect"), floats((12, 11))),
    row("Conv1d-causal", lambda: nn.Conv1d(12, 6, 3, stride=2, padding=4, dilation=2, bias=False), floats((12, 11))),
    row("Conv1d-groups", lambda: nn.Conv1d(24, 6, 4, groups=2, stride=3), floats((24, 13))),
    row("Conv1d-depthwise", lambda: nn.Conv1d(6, 12, 3, groups=6, padding=1), floats((6, 9))),
    row("Conv1d-few", lambda: nn.Conv1d(2, 5, 3), floats((2, 9))),
    row("Conv2d", lambda: nn.Conv2d(5, 6, (3, 4), stride=(2, 1), padding=(1, 2)), floats((5, 7, 8))),
    row("Conv2d-same", lambda: nn.Conv2d(5, 6, (3, 5), padding="same", dilation=(2, 1)), floats((5, 7, 8))),
    row("Conv2d-replicate", lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="replicate"), floats((4, 7, 6))),
    row("Conv2d-groups", lambda: nn.Conv2d(12, 6, 3, groups=3, bias=False), floats((12, 5, 6))),
    row("Conv2d-depthwise", lambda: nn.Conv2d(6, 6, 3, groups=6), floats((6, 5, 6))),
    row("Conv2d-1x1", lambda: nn.Conv2d(40, 6, 1), floats((40, 4, 3))),
    row("Embedding", lambda: nn.Embedding(23, 40), tokens(5, below=23)),
    row("Embedding-padding", lambda: nn.Embedding(9, 6, padding_idx=2), tokens(below=9)),
    row("Embedding-tied", TiedHead, tokens(4, below=19)),
    *_recurrent(nn.LSTM, "LSTM"),
    row("LSTM-projection", lambda: Sequence(nn.LSTM(5, 36, 2, proj_size=4, bidirectional=True)), floats((4, 5))),
    *_recurrent(nn.GRU, "GRU"),
    *_recurrent(nn.RNN, "RNN"),
    row("RNN-relu", lambda: Sequence(nn.RNN(5, 9, nonlinearity="relu", batch_first=True)), floats((4, 5))),
    row("LSTMCell", lambda: Cell(nn.LSTMCell(5, 40)), floats((3, 5))),
    row("GRUCell", lambda: Cell(nn.GRUCell(5, 40)), floats((3, 5))),
    row("RNNCell", lambda: Cell(nn.RNNCell(5, 40)), floats((3, 5))),
    row("RNNCell-relu-no-bias", lambda: Cell(nn.RNNCell(5, 9, bias=False, nonlinearity="relu")), floats((3, 5))),
    row("MultiheadAttention", lambda: Attention(_attention(batch_first=True)), SELF),
    row("MultiheadAttention-time-major", lambda: Attention(_attention(), need_weights=True), SELF),
    row("MultiheadAttention-causal", lambda: Attention(_attention(batch_first=True), causal=True), SELF),
    row("MultiheadAttention-padding", lambda: Attention(_attention(), causal=True), padded(SELF, 6)),
    row("MultiheadAttention-cross", lambda: Attention(_attention(batch_first=True), need_weights=True), CROSS),
    row(
        "MultiheadAttention-sizes",
        lambda: Attention(_attention(kdim=5, vdim=33, batch_first=True)),
        floats((5, 24), (7, 5), (7, 33)),
    ),
    row(
        "MultiheadAttention-extra-keys",
        lambda: Attention(_attention(bias=False, add_bias_kv=True, add_zero_attn=True), need_weights=True),
        padded(CROSS, 7),
    ),
    row("TransformerEncoderLayer", _encoder_layer, SELF),
    row("TransformerEncoderLayer-norm-first", lambda: _encoder_layer(norm_first=True, activation="gelu"), SELF),
    row("TransformerEncoder", lambda: nn.TransformerEncoder(_encoder_layer(), 2), SELF),
)
