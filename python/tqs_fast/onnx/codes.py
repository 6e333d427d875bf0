"""Packed weights as ONNX stores them: one unsigned code width per weight, a scale per group, zero points.

ONNX Runtime's MatMulNBits and DequantizeLinear both mean value = scale * (code - zero), as our format does
(csrc/quant/format.h), in codes of 2, 4 or 8 bits, lowest bits first. Row blocks of fewer bits go into the width of the
widest: codes and zero points move together, so no value changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tqs_fast.kernels import PackedWeight

LONG_GROUP = 128  # a scale per row is written as equal scales of groups this long
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Codes:
    """A matrix [N, K].

    Attributes:
        codes: uint8 [N, K], below 2^bits.
        scales: float32 [N, G], G = ceil(K / group_size).
        zeros: uint8 [N, G]; 2^(bits - 1) everywhere for a symmetric weight.
        bits: 2, 4 or 8.
        group_size: inputs per scale.
    """

    codes: Bytes
    scales: npt.NDArray[np.float32]
    zeros: Bytes
    bits: int
    group_size: int

    @property
    def symmetric(self) -> bool:
        return bool((self.zeros == 2 ** (self.bits - 1)).all())


def codes_of(blocks: Sequence[PackedWeight], *, narrowest: int) -> Codes:
    """Row blocks of one weight, in order, as one matrix.

    Args:
        narrowest: fewest bits that the target can hold.
    """
    widest = max(narrowest, *(block.bits for block in blocks))
    bits = next(width for width in (2, 4, 8) if width >= widest)
    parts = [_widened(block, bits) for block in blocks]
    codes, scales, zeros = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Codes(codes, scales, zeros, bits, blocks[0].group_size or LONG_GROUP)


def packed_bytes(values: Bytes, bits: int) -> Bytes:
    """Codes [..., n] as bytes [..., ceil(n * bits / 8)], the first in the lowest bits."""
    per_byte = 8 // bits
    short = -values.shape[-1] % per_byte
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)])
    grouped = padded.reshape(*values.shape[:-1], -1, per_byte).astype(np.uint16)
    shifts = (np.arange(per_byte) * bits).astype(np.uint16)
    return np.asarray(np.bitwise_or.reduce(grouped << shifts, axis=-1), np.uint8)


def _widened(block: PackedWeight, bits: int) -> tuple[Bytes, npt.NDArray[np.float32], Bytes]:
    rows, columns = block.shape
    stream = np.unpackbits(block.codes, axis=1, bitorder="little")[:, : columns * block.bits]
    weights = (1 << np.arange(block.bits)).astype(np.uint8)
    codes = (stream.reshape(rows, columns, block.bits) * weights).sum(axis=-1, dtype=np.uint8)
    scales = (block.scales.astype(np.uint32) << 16).view(np.float32)
    zeros = block.zeros
    if zeros is None:
        zeros = np.full(scales.shape, 2 ** (bits - 1), np.uint8)
        codes = codes + np.uint8(2 ** (bits - 1) - 2 ** (block.bits - 1))
    if block.group_size == 0:
        groups = -(-columns // LONG_GROUP)
        scales, zeros = np.repeat(scales, groups, axis=1), np.repeat(zeros, groups, axis=1)
    return codes, scales, zeros
