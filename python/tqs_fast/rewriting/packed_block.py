"""Packed rows as module state: the stored form that everything else in this package computes with.

All packed state is integer (the scales are bit patterns of bfloat16), so `.to(dtype)` and `.half()` change
the dtype a module computes in and never the stored values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tqs_fast import kernels, ops


class PackedBlock(nn.Module):
    """Some rows of a weight, or all of them, packed at one bit-width.

    Attributes:
        codes, scales, zeros: the matrix [N, K] as in `tqs_fast.ops`; zeros is None for symmetric weights.
        bits, group_size: the format.
        shape: of the float rows, N = shape[0] and K = product of the rest.
        activation: how `linear` takes its rows, "float" or "int8" (`ops.qgemm`). Fixed like the format: a program
            captured before would not see a change.
        anchor: empty tensor of the dtype in which the weight is handed out; it follows `.to(dtype)` and is not saved.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    anchor: Tensor

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        *,
        bits: int,
        group_size: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        activation: str = "float",
    ) -> None:
        super().__init__()
        self.bits, self.group_size, self.shape, self.activation = bits, group_size, shape, activation
        self.in_features = int(np.prod(shape[1:]))
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)
        self.register_buffer("anchor", torch.empty(0, dtype=dtype, device=codes.device), persistent=False)

    @classmethod
    def of(cls, packed: kernels.PackedWeight, like: Tensor, activation: str = "float") -> PackedBlock:
        """`packed` with the shape, dtype and device of the float rows it came from."""
        return cls(
            torch.from_numpy(packed.codes).to(like.device),
            torch.from_numpy(packed.scales.view(np.int16)).to(like.device),
            None if packed.zeros is None else torch.from_numpy(packed.zeros).to(like.device),
            bits=packed.bits,
            group_size=packed.group_size,
            shape=tuple(like.shape),
            dtype=like.dtype,
            activation=activation,
        )

    def packed(self) -> kernels.PackedWeight:
        """The stored arrays, as `of` took them."""
        return kernels.PackedWeight(
            self.codes.cpu().numpy(),
            self.scales.cpu().numpy().view(np.uint16),
            None if self.zeros is None else self.zeros.cpu().numpy(),
            self.bits,
            self.group_size,
            (self.shape[0], self.in_features),
        )

    @property
    def nbytes(self) -> int:
        """Stored bytes: codes, scales and zero points."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scales, self.zeros) if t is not None)

    def linear(self, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        """x [..., K] @ W[rows].T + bias, in the dtype of x; rows None is all of them."""
        codes, scales, zeros = self.codes, self.scales, self.zeros
        if rows is not None:
            codes, scales, zeros = codes[rows], scales[rows], None if zeros is None else zeros[rows]
        return ops.qgemm(x, codes, scales, zeros, self.bits, self.group_size, self.in_features, bias, self.activation)

    def rows(self, indices: Tensor) -> Tensor:
        """W[indices] [count, K] for a 1-D integer tensor, dequantizing those rows only."""
        zeros = None if self.zeros is None else self.zeros.index_select(0, indices)
        codes, scales = self.codes.index_select(0, indices), self.scales.index_select(0, indices)
        return ops.dequantize(codes, scales, zeros, self.bits, self.group_size, self.in_features).to(self.anchor.dtype)

    def dequantized(self) -> Tensor:
        """The rows in their float shape and in the dtype of `anchor`."""
        matrix = ops.dequantize(self.codes, self.scales, self.zeros, self.bits, self.group_size, self.in_features)
        return matrix.reshape(self.shape).to(self.anchor.dtype)

    def get_extra_state(self) -> Tensor:
        """int64 [bits, group_size, activation, *shape], activation by its place in `kernels.ACTIVATIONS`.

        A tensor, so that any file format for state dicts can hold it.
        """
        return torch.tensor([self.bits, self.group_size, kernels.ACTIVATIONS.index(self.activation), *self.shape])

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: `_load_from_state_dict` has refused any other format."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Checked before any copy: codes of another bit-width may have the same number of bytes.
        theirs, ours = state_dict.get(prefix + "_extra_state"), self.get_extra_state()
        if theirs is not None and theirs.tolist() != ours.tolist():
            error_msgs.append(
                f"[load_state_dict] {prefix}: expected [bits, group_size, activation, *shape] {ours.tolist()}, "
                f"got {theirs.tolist()}; quantize with the plan of the state dict first, or use tqs_fast.load"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        kind = "symmetric" if self.zeros is None else "asymmetric"
        rounded = ", int8 activations" if self.activation == "int8" else ""
        return f"{list(self.shape)}, bits={self.bits}, group_size={self.group_size}, {kind}{rounded}"
