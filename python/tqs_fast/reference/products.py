"""Float64 oracle of the products in native programs: linear, matmul, convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """`[..., K], [N, K], [N] -> [..., N]`."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + np.asarray(bias, np.float64)


def matmul(a: Array, b: Array) -> Array:
    """`[..., M, K], [..., K, N] -> [..., M, N]`."""
    result: Array = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    return result


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """`[B, C, spatial], [O, C / groups, taps], [O] -> [B, O, spatial']`, tap by tap over the zero-padded input."""
    weight = np.asarray(weight, np.float64)
    padded = np.pad(np.asarray(x, np.float64), [(0, 0), (0, 0), *((p, p) for p in padding)])
    taps = weight.shape[2:]
    lengths = [
        (size - (count - 1) * d - 1) // s + 1
        for size, count, d, s in zip(padded.shape[2:], taps, dilation, stride, strict=True)
    ]
    y = np.zeros((x.shape[0], weight.shape[0], *lengths))
    inputs, outputs = x.shape[1] // groups, weight.shape[0] // groups
    for group, tap in product(range(groups), product(*map(range, taps))):
        window = tuple(
            slice(i * d, i * d + (length - 1) * s + 1, s)
            for i, d, s, length in zip(tap, dilation, stride, lengths, strict=True)
        )
        channels = padded[(slice(None), slice(group * inputs, (group + 1) * inputs), *window)]
        own = slice(group * outputs, (group + 1) * outputs)
        here: Array = np.moveaxis(weight[own], (0, 1), (-2, -1))[tap]
        y[:, own] += np.einsum("bc...,oc->bo...", channels, here)
    if bias is not None:
        y += np.asarray(bias, np.float64).reshape(1, -1, *([1] * len(taps)))
    return y
