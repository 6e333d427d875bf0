"""Drop-ins for Linear and Embedding."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import direct
from tqs_fast.rewriting.packed import PackedTensor, QuantModule


class QuantLinear(QuantModule):
    """`nn.Linear` with a packed weight: x [..., in_features] -> [..., out_features]."""

    CONFIG = ("in_features", "out_features")

    def forward(self, input: Tensor) -> Tensor:
        bias = self._parameters["bias"]
        y = direct.linear(self, "weight", input, bias)
        return self.project(input, "weight", bias) if y is None else y

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class QuantEmbedding(QuantModule):
    """`nn.Embedding` with a packed table: only the rows asked for are dequantized.

    `padding_idx` is a row like any other when looking up, as in PyTorch; a row of zeros stays exactly zero.
    """

    CONFIG = ("num_embeddings", "embedding_dim", "padding_idx")

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype.is_floating_point or input.dtype.is_complex:
            raise ArgumentError(f"[QuantEmbedding] expected integer indices, got {input.dtype}")
        table = cast(PackedTensor, self.packed["weight"])
        return table.rows(input.reshape(-1)).reshape(*input.shape, table.shape[1])

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}"
