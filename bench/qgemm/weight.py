"""One packed weight: the same codes and scales for every contestant, so that all multiply by the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qgemm.contestant import UnsupportedError
from tqs_fast import kernels

Bytes = npt.NDArray[np.uint8]
BLOCKS = (256, 128, 64, 32)


@dataclass(frozen=True, eq=False)
class Weight:
    """W[n, k] = scales[n, k / group] (codes[n, k] - zeros[n, k / group]).

    Attributes:
        codes: uint8 [N, K].
        scales: float32 [N, G], values that bfloat16 holds.
        zeros: uint8 [N, G].
    """

    packed: kernels.PackedWeight
    codes: Bytes
    scales: npt.NDArray[np.float32]
    zeros: Bytes

    @property
    def per_channel(self) -> bool:
        return bool(self.scales.shape[1] == 1)

    def block(self) -> int:
        """The group size, for peers who know BLOCKS only: a scale of a whole row serves as that of several groups, as
        large ones as there are (which they multiply by fastest).
        """
        if not self.per_channel:
            return self.packed.group_size
        columns = self.codes.shape[1]
        return next((size for size in BLOCKS if columns % size == 0), BLOCKS[-1])

    def by_block(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Scales or zeros [N, K / block]."""
        return np.repeat(values, -(-self.codes.shape[1] // self.block()), axis=1) if self.per_channel else values

    def signed(self) -> npt.NDArray[np.int8]:
        """Codes of a symmetric 8-bit weight as int8.

        Raises:
            UnsupportedError: the weight has zero points.
        """
        if not self.packed.symmetric:
            raise UnsupportedError("knows symmetric weights only")
        return (self.codes.astype(np.int16) - 128).astype(np.int8)


def unpack(packed: kernels.PackedWeight) -> Weight:
    """Of 4 or 8 bits."""
    codes = packed.codes
    if packed.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)[:, : packed.shape[1]]
    scales = (packed.scales.astype(np.uint32) << 16).view(np.float32)
    zeros = np.full(scales.shape, 1 << (packed.bits - 1), np.uint8) if packed.zeros is None else packed.zeros
    return Weight(packed, np.ascontiguousarray(codes), scales, zeros)


def nibbles(codes: Bytes) -> Bytes:
    """Two 4-bit codes a byte, the first in the low half."""
    return np.ascontiguousarray(codes[..., ::2] | codes[..., 1::2] << 4)


def turned(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Rows of a weight in another order: the same work and other numbers, as libraries that look for equal weights
    need."""
    return np.roll(array, rows, axis=0)


@dataclass(frozen=True, eq=False)
class Problem:
    """Activations [M, K] and what comes out.

    Attributes:
        x: float32, values that bfloat16 holds: one truth for contestants of either type.
        truth: float64 [M, N].
        scale: [M, N], root mean square of a row of x times the norm of a row of W: the size of a product of
            random signs.
    """

    x: torch.Tensor
    truth: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def first(self, rows: int) -> Problem:
        return Problem(self.x[:rows], self.truth[:rows], self.scale[:rows])

    def error(self, product: npt.NDArray[np.float32], rows: int = 0) -> float:
        """Largest error of an element over its scale, of the copy `turned` by `rows`; infinite where it is no number.

        Elements one by one, and next to what they are made of: a tile of zeros would be off by about 1 in most of them.
        """
        if product.shape != self.truth.shape:
            raise ValueError(f"[bench_qgemm] expected a product of shape {self.truth.shape}, got {product.shape}")
        errors = np.abs(np.roll(product, -rows, axis=1) - self.truth) / self.scale
        return float(errors.max()) if np.isfinite(errors).all() else float("inf")

    def tolerance(self, activations: str) -> float:
        """The largest error that a right product has.

        float32: roundings of random sign add up to some 2^-24 sqrt(K); the most extreme of millions of elements is five
        or six times as far out, and a sum in halves or in blocks is nearer.
        bfloat16: the output is rounded once, which costs 2^-9 of an element as large as that; some round weights to
        bfloat16, too, which costs less than as much again.
        int8: activations are off by at most half a step, sqrt(1/12) of one in the mean. At the coarsest a step is the
        range of all activations over 127 (torch keeps a bit back for processors without VNNI).
        """
        extreme = 6.0
        if activations == "float32":
            return extreme * 2.0**-24 * max(4.0, math.sqrt(self.x.shape[1]))
        if activations == "bfloat16":
            return extreme * 2.0**-8
        step = float(self.x.max() - self.x.min()) / 127
        return extreme * step / math.sqrt(12) / float(self.x.square().mean(dim=1).sqrt().min())


def problem(weight: Weight, rows: int, seed: int = 1) -> Problem:
    """Normal activations."""
    w = weight.packed.dequantize().astype(np.float64)
    x = torch.randn(rows, w.shape[1], generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    wide = x.double().numpy()
    scale = np.sqrt(np.mean(wide**2, axis=1))[:, None] * np.linalg.norm(w, axis=1)[None]
    return Problem(x, wide @ w.T, np.maximum(scale, np.finfo(np.float64).tiny))
