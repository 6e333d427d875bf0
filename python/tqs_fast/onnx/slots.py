"""Which inputs of which operators are weights, and which way round their rows lie.

Everything above sees a weight as the quantizer does: `[outputs, ...]`, groups of a scale along the inputs. Graphs keep
some of them transposed or with a leading direction, so every kind has a pair of views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

ROWS = "rows"  # [out, ...] as it is: Conv, Gather (a row per entry), Gemm with transB
COLUMNS = "columns"  # [..., in, out]: MatMul, Gemm
GATES = "gates"  # [directions, gates * hidden, in]: LSTM, GRU, RNN

# operator -> positions of weights among its inputs
SLOTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "MatMul"): (0, 1),
    ("", "Gemm"): (0, 1),
    ("", "Conv"): (1,),
    ("", "LSTM"): (1, 2),
    ("", "GRU"): (1, 2),
    ("", "RNN"): (1, 2),
    ("", "Gather"): (0,),
    ("com.microsoft", "FusedMatMul"): (1,),
    ("com.microsoft", "FusedGemm"): (1,),
    ("com.microsoft", "FusedConv"): (1,),
    ("com.microsoft", "Attention"): (1,),
    ("com.microsoft", "NhwcConv"): (1,),
    ("com.microsoft", "DecoderMaskedSelfAttention"): (1,),
    ("com.microsoft", "EmbedLayerNormalization"): (2, 3, 4),
}


@dataclass(frozen=True)
class Layout:
    """How a graph keeps a weight.

    Attributes:
        order: ROWS, COLUMNS or GATES.
        shape: in the graph.
    """

    order: str
    shape: tuple[int, ...]

    def rows_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """The graph's tensor as `[out, ...]`, a view."""
        if self.order == COLUMNS:
            return tensor.movedim(-1, 0)
        return tensor.flatten(0, 1) if self.order == GATES else tensor

    def as_in_graph(self, tensor: torch.Tensor) -> torch.Tensor:
        """`[out, ...]` as the graph keeps it, a view."""
        if self.order == COLUMNS:
            return tensor.movedim(0, -1)
        return tensor.reshape(self.shape) if self.order == GATES else tensor

    def in_graph(self, tensor: torch.Tensor) -> torch.Tensor:
        """`[out, ...]` as the graph keeps it, contiguous."""
        return self.as_in_graph(tensor).contiguous()


def order_of(node: Any, position: int) -> str | None:
    """How input `position` of `node` keeps its rows; None where it is no weight slot."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if position not in SLOTS.get((domain, node.op_type), ()):
        return None
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return GATES
    transposed = {attribute.name: attribute.i for attribute in node.attribute if attribute.name in ("transA", "transB")}
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention", "DecoderMaskedSelfAttention"):
        # a constant left operand multiplies columns: its own rows are the outputs
        if position == 0:
            return COLUMNS if transposed.get("transA") else ROWS
        return ROWS if transposed.get("transB") else COLUMNS
    return ROWS
