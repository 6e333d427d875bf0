"""The elimination that all rows share: in which order columns are rounded, and who takes over how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Elimination:
    """H[order][:, order] = U diag(D) Uᵀ (csrc/quant/eliminate.h).

    Attributes:
        order: int64 [K], columns as they are rounded.
        factor: float64 [K, K]: U read from its last row and column back, below the diagonal; the rest is undefined.
        diagonal: float64 [K]: D in rounding order, the curvature of a column that later ones cannot take over.
    """

    order: npt.NDArray[np.int64]
    factor: FloatArray
    diagonal: FloatArray

    @property
    def upper(self) -> FloatArray:
        """U [K, K]."""
        reversed_factor = self.factor[::-1, ::-1]
        return np.triu(reversed_factor, 1) + np.eye(len(self.order))


def conditioned(hessian: npt.NDArray[Any], damping: float) -> FloatArray:
    """A copy of `hessian` [K, K] that can be eliminated.

    `damping` times the mean of its diagonal is added to the diagonal. A dead column (no input was ever other than zero)
    is given the mean of the diagonal: nothing couples it to others, so that it is rounded to the nearest code.

    Raises:
        ArgumentError: not a square matrix, NaN or infinity, or a negative diagonal.
    """
    matrix = np.array(hessian, np.float64, order="C")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ArgumentError(f"[compensate] expected a Hessian of shape [K, K], got {list(matrix.shape)}")
    diagonal = np.einsum("ii->i", matrix)
    if not np.isfinite(matrix).all() or (diagonal < 0).any():
        raise ArgumentError(
            "[compensate] expected a finite Hessian with a diagonal >= 0, got NaN, infinity or less; it is a sum of "
            "outer products of inputs, check those"
        )
    mean = float(diagonal.mean()) or 1.0
    dead = diagonal == 0.0
    diagonal += damping * mean
    diagonal[dead] = mean
    return matrix


def eliminate(
    hessian: FloatArray, *, order: npt.NDArray[np.int64] | None, cost: FloatArray | None, threads: int = 0
) -> Elimination:
    """Eliminate the columns of `hessian` [K, K] from the last one rounded to the first.

    Args:
        hessian: symmetric; only read.
        order: [K] columns as they are rounded.
        cost: [K], instead of `order`: the mean squared error of rounding each column alone. From the last to the first,
            the column of least cost times what is left of its curvature is taken.
        threads: at most so many; 0 is the default. The result does not depend on it.
    """
    size = len(hessian)
    # Of equal columns the first in storage order is to be rounded first.
    sequence = np.ascontiguousarray((np.arange(size) if order is None else order)[::-1], np.int64)
    permuted = hessian[::-1, ::-1] if order is None else hessian[np.ix_(sequence, sequence)]
    matrix = np.ascontiguousarray(permuted, np.float64)
    given = None if cost is None else np.ascontiguousarray(cost[sequence], np.float64)
    diagonal = np.empty(size)
    core.eliminate(
        matrix=matrix.ctypes.data,
        size=size,
        cost=0 if given is None else given.ctypes.data,
        sequence=sequence.ctypes.data,
        diagonal=diagonal.ctypes.data,
        threads=threads,
    )
    return Elimination(sequence[::-1].copy(), matrix, diagonal[::-1].copy())
