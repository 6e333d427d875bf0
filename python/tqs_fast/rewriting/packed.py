"""A packed weight, and the base of every module that computes with packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tqs_fast.rewriting.packed_block import PackedBlock

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class PackedTensor(nn.Module):
    """One packed weight: blocks of its rows, in order, each at its own bits. Tied layers hold the same `PackedTensor`.

    Attributes:
        blocks: at least one `PackedBlock`; together they cover the rows of the weight. All have the same `activation`.
        shape: shape of the float weight, [rows, ...].
    """

    blocks: nn.ModuleList

    def __init__(self, blocks: Sequence[PackedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.shape = (sum(block.shape[0] for block in blocks), *blocks[0].shape[1:])

    def spans(self) -> list[tuple[int, int, PackedBlock]]:
        """(first row, end row, block) of every block."""
        spans, first = [], 0
        for block in self.blocks:
            assert isinstance(block, PackedBlock)
            spans.append((first, first + block.shape[0], block))
            first += block.shape[0]
        return spans

    @property
    def dtype(self) -> torch.dtype:
        """In which the weight is handed out; follows `.to(dtype)`."""
        return self.spans()[0][2].anchor.dtype

    @property
    def activation(self) -> str:
        """How `linear` takes its rows: "float" or "int8"; `rows` and `dequantized` have none to take."""
        return self.spans()[0][2].activation

    @property
    def nbytes(self) -> int:
        """Stored bytes: codes, scales and zero points."""
        return sum(block.nbytes for _, _, block in self.spans())

    def linear(self, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        """x [..., K] @ W[rows].T + bias, in the dtype of x; `rows` has no step, None is all of them."""
        spans = self.spans()
        if rows is None and len(spans) == 1:
            return spans[0][2].linear(x, bias)
        start, stop, _ = (rows or slice(None)).indices(self.shape[0])
        parts = []
        for first, end, block in spans:
            low, high = max(start, first), min(stop, end)
            if low < high:
                part = None if bias is None else bias[low - start : high - start]
                parts.append(block.linear(x, part, slice(low - first, high - first)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def rows(self, indices: Tensor) -> Tensor:
        """W[indices] [count, K] for a 1-D integer tensor, dequantizing those rows only (once per block)."""
        spans = self.spans()
        if len(spans) == 1:
            return spans[0][2].rows(indices)
        count = self.shape[0]
        if indices.numel() and not torch.compiler.is_compiling() and bool(((indices < 0) | (indices >= count)).any()):
            raise IndexError(f"[PackedTensor] expected row indices from 0 to {count - 1}")
        found = [block.rows((indices - first).clamp(0, end - first - 1)) for first, end, block in spans]
        values = found[0]
        for (first, _, _), part in zip(spans[1:], found[1:], strict=True):
            values = torch.where((indices >= first).unsqueeze(1), part, values)
        return values

    def dequantized(self) -> Tensor:
        """The whole weight in its float shape."""
        parts = [block.dequantized() for _, _, block in self.spans()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class QuantModule(nn.Module):
    """Base of the drop-ins: takes the place of a float module, some or all of whose weights are packed.

    A packed weight is not a parameter any more; reading it by its name (`linear.weight`, `lstm.weight_hh_l0`) gives its
    dequantized values, without gradient. Biases and weights that the plan leaves float stay the parameters they were.
    Forward hooks move along. Methods that a subclass of the float module adds are not taken over.

    Args:
        module: the float module to replace.
        packed: weight attribute -> its packed form.
    """

    CONFIG: ClassVar[tuple[str, ...]] = ()
    packed: nn.ModuleDict

    def __init__(self, module: nn.Module, packed: Mapping[str, PackedTensor]) -> None:
        super().__init__()
        self.training = module.training
        for name in self.CONFIG:
            setattr(self, name, getattr(module, name))
        for name in _HOOKS:
            setattr(self, name, getattr(module, name))
        for name, parameter in module._parameters.items():
            if name not in packed:
                self.register_parameter(name, parameter)
        self.packed = nn.ModuleDict(packed)

    @property
    def packed_names(self) -> tuple[str, ...]:
        """Attributes of the weights that are packed."""
        return tuple(self.packed)

    def project(self, x: Tensor, name: str, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        """x [..., K] @ W[rows].T + bias with the weight called `name`, packed or float; rows None is all of them."""
        packed = cast(nn.ModuleDict, self._modules["packed"])._modules.get(name)
        if packed is not None:
            return cast(PackedTensor, packed).linear(x, bias, rows)
        weight = self._parameters[name]
        assert weight is not None
        return F.linear(x, weight if rows is None else weight[rows], bias)

    def __getattr__(self, name: str) -> Any:
        packed = self.__dict__.get("_modules", {}).get("packed")
        if packed is not None and name in packed:
            return packed[name].dequantized()
        return super().__getattr__(name)
