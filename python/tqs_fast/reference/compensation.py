"""Oracle of csrc/quant/eliminate.h, compensate.h and spans.h: the formulas as they are there, in float64, plainly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tqs_fast.reference.quantization import Array, from_bfloat16, pack_codes, search_scales

Floats = npt.NDArray[np.float64]


def eliminate(hessian: Array, order: Array | None, cost: Array | None) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """(order, U, D) with H[order][:, order] = U diag(D) U^T, U unit upper triangular.

    Args:
        hessian: [K, K], symmetric positive semidefinite.
        order: [K] columns as they are rounded; ignored where `cost` is given.
        cost: [K]: columns are chosen from the last to the first, each of least cost times Schur complement.
    """
    size = len(hessian)
    left = np.asarray(hessian, np.float64).copy()
    floor = size * 2.0**-52 * np.diag(left)
    remaining = list(range(size))[::-1] if order is None else list(order)[::-1]
    chosen, columns, pivots = [], [], []
    for _ in range(size):
        if cost is not None:
            remaining.sort(key=lambda j: cost[j] * left[j, j])
        j = remaining.pop(0)
        pivot = left[j, j] if left[j, j] > floor[j] else 0.0
        column = np.zeros(size)
        if pivot > 0.0:
            column[remaining] = left[remaining, j] / pivot
        left -= pivot * np.outer(column, column)
        column[j] = 1.0
        chosen.append(j)
        columns.append(column)
        pivots.append(pivot)
    found = np.array(chosen[::-1])
    return found, np.stack(columns[::-1], axis=1)[found], np.array(pivots[::-1])


BLOCK = 64  # columns rounded before any of them is looked at again


def compensate(
    weight: Array,
    scales: Array,
    zeros: Array | None,
    bits: int,
    group_size: int,
    order: Array,
    upper: Array,
    *,
    search: str | None = None,
    diagonal: Array | None = None,
    sweeps: int = 0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8] | None]:
    """Packed codes, scales and zeros of float32 weights [N, K], columns rounded in `order` with U from `eliminate`.

    With `search`, the scales of a group are chosen anew when its first column is reached (columns in storage order).
    With `sweeps` the columns of every span are rounded again, each given the others, with D from `eliminate`.
    """
    values = np.asarray(weight, np.float64)
    rows, columns = values.shape
    width = columns if group_size == 0 else group_size
    block = max(BLOCK, width) if search is not None else BLOCK
    scales, zeros = scales.copy(), None if zeros is None else zeros.copy()
    errors, codes = np.zeros((rows, columns)), np.zeros((rows, columns), np.uint8)

    def choose(place: int, target: Floats) -> None:
        column = order[place]
        group = column // width
        code, value = _nearest(target, scales[:, group], None if zeros is None else zeros[:, group], bits)
        codes[:, column] = code
        errors[:, place] = values[:, column] - value

    for place, column in enumerate(order):
        group = column // width
        if search is not None and column % width == 0:
            end = min(columns, column + width)
            now = (values[:, column:end] + errors[:, :place] @ upper[:place, column:end]).astype(np.float32)
            scale, zero = search_scales(now.astype(np.float64), bits, zeros is None, search)
            scales[:, group] = scale
            if zeros is not None:
                zeros[:, group] = zero
        choose(place, values[:, column] + errors[:, :place] @ upper[:place, place])
        for begin, end in spans(place + 1, columns, block) if sweeps else []:
            assert diagonal is not None
            curvature = upper[:end, begin:end] * diagonal[begin:end] @ upper[begin:end, begin:end].T
            for again in [*range(begin, end)] * sweeps:
                own = curvature[again, again - begin]
                gradient = errors[:, :end] @ curvature[:, again - begin]
                if own > 0.0:
                    choose(again, values[:, order[again]] - errors[:, again] + gradient / own)
    return pack_codes(codes, bits), scales, zeros


def spans(done: int, columns: int, block: int) -> list[tuple[int, int]]:
    """What is gone over again when `done` of `columns` are rounded: (begin, end), smallest first."""
    if done % block and done != columns:
        return []
    blocks = -(-done // block)
    lowest = blocks & -blocks  # as many blocks as the largest full span that ends here has
    widths = [1 << i for i in range(lowest.bit_length())]
    if done == columns:
        left = blocks - lowest
        while left:  # the rest joins from right to left, in powers of two
            widths.append(widths[-1] + (left & -left))
            left &= left - 1
    return [((blocks - width) * block, done) for width in widths]


def compensate_greedily(
    weight: Array, scales: Array, zeros: Array | None, bits: int, group_size: int, inverse: Array
) -> npt.NDArray[np.uint8]:
    """Packed codes of float32 weights [N, K], each row in an order of its own; `inverse` [K, K] is H^-1."""
    values = np.asarray(weight, np.float64)
    rows, columns = values.shape
    group = np.zeros(columns, int) if group_size == 0 else np.arange(columns) // group_size
    codes = np.zeros((rows, columns), np.uint8)
    for r in range(rows):
        scale, zero = scales[r, group], None if zeros is None else zeros[r, group]
        step = from_bfloat16(scale)
        row, matrix, left = values[r].copy(), np.array(inverse, np.float64), np.ones(columns, bool)
        for _ in range(columns):
            code, value = _nearest(row, scale, zero, bits)
            error = row - value
            outside = np.where(left, np.abs(error / step), 0.0)
            loss = np.where(left, error**2 / np.where(left, np.diag(matrix), 1.0), np.inf)
            p = int(outside.argmax() if outside.max() > 0.5 + 1e-9 else loss.argmin())
            codes[r, p], left[p] = code[p], False
            row -= error[p] / matrix[p, p] * matrix[p]
            matrix -= np.outer(matrix[p], matrix[p]) / matrix[p, p]
    return pack_codes(codes, bits)


def _nearest(values: Array, scales: Array, zeros: Array | None, bits: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Codes and their values, elementwise."""
    scale = from_bfloat16(scales)
    zero = np.full(scale.shape, 2.0 ** (bits - 1)) if zeros is None else zeros.astype(np.float64)
    q = np.rint(np.clip(values * (1.0 / scale), -zero, 2**bits - 1 - zero))
    return (q + zero).astype(np.uint8), scale * q
