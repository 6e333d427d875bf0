"""Drop-ins for Conv1d and Conv2d: qgemm over unfolded patches.

With C input and O output channels, g groups and a kernel of S taps, a group is the product of patches [B*L, K] and its
O/g rows of the packed weight, K = (C/g)*S. Rows shorter than `SHORT_ROW` weights (depthwise, or a few channels with a
small kernel) hold too little work for a packed product: such a weight is dequantized and given to torch's convolution.
That is the only exception, and its storage is packed all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import direct
from tqs_fast.rewriting.packed import QuantModule

SHORT_ROW = 32  # one vector register of 4-bit codes and the smallest group size of the format
PATCH_LIMIT = 1 << 23  # elements of unfolded input held at once (32 MiB of float32); one sample is never split


class _QuantConv(QuantModule):
    CONFIG = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "_reversed_padding_repeated_twice",
    )
    DIMENSIONS = 0
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        name, dimensions = type(self).__name__, self.DIMENSIONS
        channels = input.dim() - dimensions - 1
        if channels not in (0, 1) or input.shape[channels] != self.in_channels:
            wanted = f"[{self.in_channels}, {'L' if dimensions == 1 else 'H, W'}]"
            raise ArgumentError(
                f"[{name}] expected input {wanted} with or without a batch dimension, got {list(input.shape)}"
            )
        x = input if channels == 1 else input.unsqueeze(0)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        if any(self._reversed_padding_repeated_twice):
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        for size, taps, dilation in zip(x.shape[2:], self.kernel_size, self.dilation, strict=True):
            if size < dilation * (taps - 1) + 1:
                raise ArgumentError(
                    f"[{name}] the padded input {list(x.shape[2:])} is smaller than the kernel; pass more steps"
                )
        # A weight that is only observed (observed.py) wants to see its patches.
        dequantized = self._row_length() < SHORT_ROW and direct.packed_weight(self, "weight") is not None
        y = self._short_rows(x) if dequantized else self._patches(x)
        return y if channels == 1 else y.squeeze(0)

    def _row_length(self) -> int:
        length = int(self.in_channels // self.groups)
        for taps in self.kernel_size:
            length *= taps
        return length

    def _short_rows(self, x: Tensor) -> Tensor:
        convolve = F.conv1d if self.DIMENSIONS == 1 else F.conv2d
        return convolve(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _patches(self, x: Tensor) -> Tensor:
        """x [B, C, padded size...] -> [B, O, output size...], over chunks of the batch."""
        for axis, (taps, stride, dilation) in enumerate(zip(self.kernel_size, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + axis, dilation * (taps - 1) + 1, stride)
            x = x if dilation == 1 else x[..., ::dilation]
        # Now [B, C, output size..., taps...], a view: each chunk copies its own patches only.
        if torch.compiler.is_compiling():  # a loop over chunks would fix the batch size in the graph
            return self._chunk(x)
        batch = x.shape[0]
        per_sample = x.numel() // max(1, batch)
        chunk = max(1, PATCH_LIMIT // max(1, per_sample))
        if batch <= chunk:
            return self._chunk(x)
        return torch.cat([self._chunk(x[start : start + chunk]) for start in range(0, batch, chunk)])

    def _chunk(self, x: Tensor) -> Tensor:
        d, batch = self.DIMENSIONS, x.shape[0]
        size = x.shape[2 : 2 + d]
        x = x.movedim(1, 1 + d)  # [B, output size..., C, taps...]
        y = self._whole(x.flatten(1 + d)) if self.groups == 1 else self._grouped(x)
        return y.reshape(batch, *size, self.out_channels).movedim(-1, 1).contiguous()

    def _whole(self, patches: Tensor) -> Tensor:
        y = direct.linear(self, "weight", patches, self.bias)
        return self.project(patches, "weight", self.bias) if y is None else y

    def _grouped(self, x: Tensor) -> Tensor:
        d, per_group, rows = self.DIMENSIONS, self.in_channels // self.groups, self.out_channels // self.groups
        outputs = []
        for group in range(self.groups):
            patches = x.narrow(1 + d, group * per_group, per_group).flatten(1 + d)
            chosen = slice(group * rows, (group + 1) * rows)
            bias = None if self.bias is None else self.bias[chosen]
            outputs.append(self.project(patches, "weight", bias, chosen))
        return torch.cat(outputs, -1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, padding_mode={self.padding_mode}"
        )


class QuantConv1d(_QuantConv):
    """`nn.Conv1d` with a packed weight: [B, C, L] or [C, L] -> [B, O, L'] or [O, L']."""

    DIMENSIONS = 1


class QuantConv2d(_QuantConv):
    """`nn.Conv2d` with a packed weight: [B, C, H, W] or [C, H, W] -> [B, O, H', W'] or [O, H', W']."""

    DIMENSIONS = 2
