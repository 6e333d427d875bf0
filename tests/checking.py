"""Checkers shared by the kernel tests; tests/test_kernels_checking.py plants faults to see that they bite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.reference import quantization as reference

FLOAT_ROUNDOFF = 2.0**-24
BFLOAT_ROUNDOFF = 2.0**-8
HALF_ROUNDOFF = 2.0**-11
SMALLEST = 2.0**-149


def check_product(
    y: npt.NDArray[Any],
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    *,
    bfloat16: bool = False,
    float16: bool = False,
) -> None:
    """Assert that y [M, N] is x [M, K] W [N, K]^T + bias computed in float32.

    Element bound: K products, K sums and a bias are at most K + 2 roundings on the way of any term, each of relative
    size u = 2^-24, so |error| <= (K + 2) u S with S = sum |x||w| + |bias|; underflow adds at most 2^-149 a term.
    Aggregate bound: roundings are independent and a partial sum is at most S, so the error has standard deviation
    below u sqrt(K + 2) S; its norm stays below 4 u sqrt(K + 2) |S| (4 covers small samples).
    bfloat16 adds one rounding of the result, 2^-8 |y|, to both, float16 2^-11 |y| and 2^-25 below its normal range.
    """
    expected = reference.qgemm(x, weight, bias)
    assert y.shape == expected.shape, f"expected shape {expected.shape}, got {y.shape}"
    columns = x.shape[1]
    size = np.abs(np.asarray(x, np.float64)) @ np.abs(np.asarray(weight, np.float64)).T
    if bias is not None:
        size = size + np.abs(np.asarray(bias, np.float64))
    error = np.abs(np.asarray(y, np.float64) - expected)
    rounding = BFLOAT_ROUNDOFF * np.abs(expected) * 1.01 + 2.0**-134 if bfloat16 else np.zeros_like(expected)
    if float16:
        rounding = HALF_ROUNDOFF * np.abs(expected) * 1.01 + 2.0**-25
    bound = (columns + 2) * (FLOAT_ROUNDOFF * size * 1.01 + SMALLEST) + rounding
    within = error <= bound  # False for NaN
    if not within.all():
        worst = np.unravel_index(np.where(within, -1.0, np.nan_to_num(error / bound, nan=np.inf)).argmax(), error.shape)
        place = [int(index) for index in worst]
        raise AssertionError(
            f"{(~within).sum()} of {error.size} elements out of bound; worst at {place}: got {y[worst]!r}, "
            f"expected {expected[worst]!r}, error {error[worst]:.3e}, bound {bound[worst]:.3e}"
        )
    norm = np.linalg.norm(error)
    most = 4 * FLOAT_ROUNDOFF * np.sqrt(columns + 2) * np.linalg.norm(size) + np.linalg.norm(rounding)
    most += SMALLEST * (columns + 2) * np.sqrt(error.size)
    assert norm <= most, f"error norm {norm:.3e} above {most:.3e}"


def same_bits(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Assert equality bit for bit, naming the first difference."""
    assert got.dtype == expected.dtype, f"expected {expected.dtype}, got {got.dtype}"
    assert got.shape == expected.shape, f"expected shape {expected.shape}, got {got.shape}"
    integer = np.dtype(f"u{got.dtype.itemsize}")
    left, right = np.ascontiguousarray(got).view(integer), np.ascontiguousarray(expected).view(integer)
    differs = np.argwhere(left != right)
    if len(differs):
        place = tuple(int(index) for index in differs[0])
        raise AssertionError(
            f"{len(differs)} of {got.size} differ; first at {list(place)}: got {got[place]!r}, "
            f"expected {expected[place]!r}"
        )
