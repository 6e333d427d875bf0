"""Weight matrix and Hessian -> packed weight, by one of the methods that compensate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast._native import core
from tqs_fast.compensation.elimination import FloatArray, conditioned, eliminate
from tqs_fast.compensation.settings import Compensation
from tqs_fast.errors import ArgumentError
from tqs_fast.kernels import PackedWeight, pack
from tqs_fast.quantization import Quantizer

Matrix = npt.NDArray[np.float32]


def compensate(
    blocks: Sequence[tuple[npt.NDArray[Any], int]],
    hessian: npt.NDArray[Any],
    *,
    quantizer: Quantizer,
    settings: Compensation,
    threads: int | None = None,
) -> list[PackedWeight]:
    """Round rows that see the same inputs.

    Args:
        blocks: float rows [N_i, K] and their bits. All share one elimination, and so one order of columns.
        hessian: [K, K], the sum of x xᵀ over the inputs of these rows; any positive factor, see `conditioned`.
        quantizer: scales and zero points are chosen as it says, from the weights as they are given; or, where
            `settings.regroups`, group by group from the weights as they have become.
        settings: the method.
        threads: at most so many; None for the default. The result does not depend on it.

    Returns:
        Per block the packed rows: exactly the codes that the loop chose.

    Raises:
        ArgumentError: shapes that do not fit, a Hessian that is not one, or (for "obq") one that is singular.
    """
    matrix = conditioned(hessian, settings.damping)
    rows = [np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"]) for values, _ in blocks]
    for values in rows:
        if values.ndim != 2 or values.shape[1] != len(matrix):
            raise ArgumentError(
                f"[compensate] expected rows of {len(matrix)} weights, as many as the Hessian has columns, got "
                f"{list(values.shape)}"
            )
    nearest = [
        pack(
            values,
            bits=bits,
            group_size=quantizer.group_size,
            symmetric=quantizer.symmetric,
            search=quantizer.search,
            threads=threads,
        )
        for values, (_, bits) in zip(rows, blocks, strict=True)
    ]
    count = threads or 0
    if settings.method == "obq":
        inverse = _inverse(matrix)
        for values, packed in zip(rows, nearest, strict=True):
            core.compensate_greedily(_native(values, packed), inverse=inverse.ctypes.data, threads=count)
        return nearest
    shared = eliminate(matrix, **_order(matrix, rows, nearest, settings), threads=count)
    regroup = settings.regroups and quantizer.group_size > 0
    ordered = np.ascontiguousarray(matrix[np.ix_(shared.order, shared.order)]) if settings.sweeps else None
    for values, packed in zip(rows, nearest, strict=True):
        core.compensate(
            _native(values, packed),
            factor=shared.factor.ctypes.data,
            order=shared.order.ctypes.data,
            regroup=regroup,
            mse=quantizer.search == "mse",
            diagonal=shared.diagonal.ctypes.data,
            hessian=0 if ordered is None else ordered.ctypes.data,
            sweeps=settings.sweeps,
            threads=count,
        )
    # What `packed` has derived from its arrays, if anything, was of the nearest codes.
    return [replace(packed) for packed in nearest]


def output_error(weight: npt.NDArray[Any], rounded: npt.NDArray[Any], hessian: npt.NDArray[Any]) -> float:
    """Squared error of the outputs over the squared outputs, for weights [N, K] and the Hessian [K, K] of their inputs.

    NaN where the outputs are all zero.
    """
    exact = np.asarray(weight, np.float64)
    error = np.asarray(rounded, np.float64) - exact
    whole = float(((exact @ hessian) * exact).sum())
    return float(((error @ hessian) * error).sum()) / whole if whole > 0 else float("nan")


def _order(
    hessian: FloatArray, rows: list[Matrix], nearest: list[PackedWeight], settings: Compensation
) -> dict[str, Any]:
    """Keywords of `eliminate`: the order, or what it is chosen by."""
    if settings.method == "sensitivity":
        total = sum(_squared_errors(values, packed) for values, packed in zip(rows, nearest, strict=True))
        return {"order": None, "cost": total / sum(len(values) for values in rows)}
    by_input = np.argsort(-np.diag(hessian), kind="stable") if settings.act_order else np.arange(len(hessian))
    return {"order": by_input, "cost": None}


def _squared_errors(values: Matrix, packed: PackedWeight) -> FloatArray:
    """[K]: squared errors of `packed`, added up over its rows; a few at a time, which stay in the cache."""
    rounded = packed.dequantize(threads=1)
    total = np.zeros(values.shape[1])
    errors = np.empty((32, values.shape[1]))
    for first in range(0, len(values), len(errors)):
        part = values[first : first + len(errors)]
        error = np.subtract(part, rounded[first : first + len(errors)], out=errors[: len(part)])
        total += np.square(error, out=error).sum(axis=0)
    return total


def _inverse(hessian: FloatArray) -> FloatArray:
    try:
        lower = np.linalg.inv(np.linalg.cholesky(hessian))
    except np.linalg.LinAlgError as error:
        raise ArgumentError(
            "[compensate] obq needs a Hessian that can be inverted, and this one is singular: fewer inputs than "
            "columns, or inputs that depend on each other; give damping > 0 (0.01 is usual)"
        ) from error
    return np.ascontiguousarray(lower.T @ lower)


def _native(weights: Matrix, packed: PackedWeight) -> core.CompensatedWeight:
    """`packed`, whose codes (and, regrouping, scales and zero points) the native loops write in place."""
    return core.CompensatedWeight(
        weights=weights.ctypes.data,
        rows=weights.shape[0],
        columns=weights.shape[1],
        bits=packed.bits,
        group_size=packed.group_size,
        codes=packed.codes.ctypes.data,
        scales=packed.scales.ctypes.data,
        zeros=0 if packed.zeros is None else packed.zeros.ctypes.data,
    )
