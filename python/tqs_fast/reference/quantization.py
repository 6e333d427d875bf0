"""Oracle of csrc/quant: the packed format, the scale search, dequantization and the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FLOAT_MAX = float(np.finfo(np.float32).max)

# In 64ths, by bits; csrc/quant/search.cpp says how they were chosen.
SYMMETRIC_RATIOS = {
    2: (64, 128, 112, 98, 86, 76, 70, 58, 52, 46, 40, 34, 28, 23, 18, 13),
    3: (64, 86, 81, 76, 72, 68, 60, 56, 52, 48, 44, 40, 35, 30, 25, 20),
    4: (64, 74, 71, 68, 66, 62, 60, 58, 55, 52, 49, 46, 42, 38, 33, 28),
    8: (64, 65, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 52, 50, 48, 46),
}
RANGE_RATIOS = {
    2: (64, 61, 58, 55, 52, 49, 46, 43, 40, 37, 34, 31, 27, 23, 19, 15),
    3: (64, 62, 60, 58, 56, 53, 50, 47, 44, 41, 38, 35, 32, 28, 24, 20),
    4: (64, 63, 62, 61, 60, 58, 56, 54, 52, 50, 47, 44, 41, 38, 34, 30),
    8: (64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 48),
}


def to_bfloat16(values: Array) -> npt.NDArray[np.uint16]:
    """Nearest bfloat16 bit patterns, ties to even, of finite float32 values."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: Array) -> npt.NDArray[np.float64]:
    """float64 values of bfloat16 bit patterns."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def pack_codes(codes: Array, bits: int) -> npt.NDArray[np.uint8]:
    """[N, K] codes to the bitstream uint8 [N, ceil(K bits / 8)]."""
    planes = (np.asarray(codes, np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(codes.shape[0], -1), axis=1, bitorder="little")


def unpack_codes(packed: Array, bits: int, columns: int) -> npt.NDArray[np.uint8]:
    """The bitstream back to codes uint8 [N, K]."""
    planes = np.unpackbits(packed, axis=1, bitorder="little")[:, : columns * bits].reshape(-1, columns, bits)
    codes: npt.NDArray[np.uint8] = (planes << np.arange(bits, dtype=np.uint8)).sum(axis=2).astype(np.uint8)
    return codes


def dequantize(
    codes: Array, scales: Array, zeros: Array | None, bits: int, group_size: int, columns: int
) -> npt.NDArray[np.float64]:
    """float64 [N, K] from packed arrays."""
    group = np.zeros(columns, int) if group_size == 0 else np.arange(columns) // group_size
    u = unpack_codes(codes, bits, columns).astype(np.float64)
    zero = np.full(scales.shape, 2.0 ** (bits - 1)) if zeros is None else zeros.astype(np.float64)
    return from_bfloat16(scales)[:, group] * (u - zero[:, group])


def qgemm(x: Array, weight: Array, bias: Array | None) -> npt.NDArray[np.float64]:
    """x [M, K] times weight [N, K] transposed, plus bias [N], in float64."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + np.asarray(bias, np.float64)


def quantize_rows(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Integers [M, K] in [-127, 127] and scales [M] of int8 activations of finite float32 x (csrc/backend)."""
    values = np.asarray(x, np.float32)
    most = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    quiet = most < 2.0**-100
    inverse = np.float32(127.0) / np.where(quiet, np.float32(1.0), most)
    codes = np.where(quiet, 0.0, np.rint(values * inverse))
    return codes.astype(np.float64), np.where(quiet, np.float32(0.0), most / np.float32(127.0))[:, 0].astype(np.float64)


def quantize(
    weight: Array, bits: int, group_size: int, symmetric: bool, search: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8] | None]:
    """Packed codes, scales and zeros (None when symmetric) of float32 weights [N, K]."""
    values = np.asarray(weight, np.float64)
    columns = values.shape[1]
    width = columns if group_size == 0 else group_size
    codes, scales, zeros = [], [], []
    for first in range(0, columns, width):
        block = values[:, first : first + width]
        scale, zero = search_scales(block, bits, symmetric, search)
        quotient = block * (1.0 / from_bfloat16(scale))[:, None]
        u = np.clip(np.rint(quotient), -zero[:, None], 2**bits - 1 - zero[:, None]) + zero[:, None]
        codes.append(u.astype(np.uint8))
        scales.append(scale)
        zeros.append(zero.astype(np.uint8))
    return (
        pack_codes(np.concatenate(codes, axis=1), bits),
        np.stack(scales, axis=1),
        None if symmetric else np.stack(zeros, axis=1),
    )


def search_scales(
    block: Array, bits: int, symmetric: bool, search: str
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64]]:
    """bfloat16 scales and zero points [N] of groups [N, count]."""
    rows = np.arange(block.shape[0])
    extreme = block[rows, np.abs(block).argmax(axis=1)]
    low, high = np.minimum(block.min(axis=1), 0.0), np.maximum(block.max(axis=1), 0.0)
    scales, zeros = (_symmetric if symmetric else _asymmetric)(extreme, low, high, bits)  # [N, 32]
    if search == "minmax":
        scale, zero = scales[:, 0], zeros[:, 0]
    else:
        scale, zero = _least_error(block, scales, zeros, bits)
    nothing = extreme == 0.0
    return (
        np.where(nothing, np.uint16(0x3F80), scale),
        np.where(nothing, 2.0 ** (bits - 1) if symmetric else 0.0, zero),
    )


def _storable(ideal: Array, reach: Array) -> npt.NDArray[np.uint16]:
    limit = FLOAT_MAX / reach
    bits = to_bfloat16(np.clip(ideal, -limit, limit))
    bits = np.where((bits & 0x7FFF) == 0, bits | 1, bits)
    return np.where(np.abs(from_bfloat16(bits)) * reach > FLOAT_MAX, bits - 1, bits).astype(np.uint16)


def _symmetric(extreme: Array, low: Array, high: Array, bits: int) -> tuple[Array, Array]:
    half = 2 ** (bits - 1)
    scaled = (extreme / -half)[:, None] * (np.array(SYMMETRIC_RATIOS[bits]) / 64.0)
    reach = np.full((1, 32), float(half))
    scales = _storable(np.concatenate([scaled, -scaled], axis=1), reach)
    return scales, np.full(scales.shape, float(half))


def _asymmetric(extreme: Array, low: Array, high: Array, bits: int) -> tuple[Array, Array]:
    most = 2**bits - 1
    ratios = np.array(RANGE_RATIOS[bits]) / 64.0
    one = np.ones(8)
    low = low[:, None] * np.concatenate([ratios, one, ratios[1::2]])
    high = high[:, None] * np.concatenate([ratios, ratios[1::2], one])
    ideal = (high - low) / most
    scale = from_bfloat16(_storable(ideal, np.full((1, 32), float(most))))
    zeros = np.rint(np.clip(-low / scale, 0.0, most))
    return _storable(ideal, np.maximum(zeros, most - zeros)), zeros


def _measure(block: Array, scales: Array, zeros: Array, bits: int) -> tuple[Array, Array, Array]:
    """error, sum w q and sum q^2, [N, candidates], each summed in index order."""
    scale = from_bfloat16(scales)
    inverse = 1.0 / scale
    error, product, square = np.zeros(scale.shape), np.zeros(scale.shape), np.zeros(scale.shape)
    for w in block.T[:, :, None]:
        q = np.rint(np.clip(w * inverse, -zeros, 2**bits - 1 - zeros))
        residual = w - scale * q
        error += residual * residual
        product += w * q
        square += q * q
    return error, product, square


def _refined(scales: Array, zeros: Array, product: Array, square: Array, bits: int) -> Array:
    stuck = (product == 0.0) | (square == 0.0)
    ideal = product / np.where(square == 0.0, 1.0, square)
    return np.where(stuck, scales, _storable(ideal, np.maximum(zeros, 2**bits - 1 - zeros)))


def _least_error(block: Array, scales: Array, zeros: Array, bits: int) -> tuple[Array, Array]:
    error, product, square = _measure(block, scales, zeros, bits)
    steps = _refined(scales, zeros, product, square, bits)
    after = _measure(block, steps, zeros, bits)
    fell = after[0] < error
    scales = np.where(fell, steps, scales)
    error, product, square = (
        np.where(fell, new, old) for new, old in zip(after, (error, product, square), strict=True)
    )
    rows = np.arange(block.shape[0])
    best = error.argmin(axis=1)  # the first among equals
    scale, zero = scales[rows, best][:, None], zeros[rows, best][:, None]
    error, product, square = (array[rows, best][:, None] for array in (error, product, square))
    going = np.ones(scale.shape, bool)
    for _ in range(8):
        step = _refined(scale, zero, product, square, bits)
        found = _measure(block, step, zero, bits)
        going &= (step != scale) & (found[0] < error)
        scale = np.where(going, step, scale)
        error, product, square = (
            np.where(going, new, old) for new, old in zip(found, (error, product, square), strict=True)
        )
    return scale[:, 0], zero[:, 0]
