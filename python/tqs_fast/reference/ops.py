"""Oracle of the ops of native programs: one plain function per kind of node, for one sample, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.reference.quantization import quantize_rows

Array = npt.NDArray[Any]

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "maximum": np.max,
    "minimum": np.min,
    "product": np.prod,
    "any": np.any,
    "all": np.all,
    "argmax": np.argmax,
    "argmin": np.argmin,
}


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x [..., K], weight [N, K], bias [N] -> [..., N]."""
    y = x @ weight.T
    return y if bias is None else y + bias


def rounded_rows(x: Array) -> Array:
    """x [..., K] as int8 activations hold it; a row with NaN or infinity is NaN."""
    rows = x.reshape(-1, x.shape[-1])
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    codes, scales = quantize_rows(np.where(finite, rows, 0.0))
    return np.where(finite, codes * scales[:, None], np.nan).reshape(x.shape)


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """x [1, C, spatial], weight [O, C / groups, taps] -> [1, O, spatial'], one or two spatial axes, zero padding."""
    spatial = x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    taps = weight.shape[2:]
    extents = [(t - 1) * d + 1 for t, d in zip(taps, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, extents, tuple(range(2, 2 + spatial)))
    pick = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    )
    windows = windows[pick]  # [1, C, spatial', taps]
    per_group = x.shape[1] // groups
    filters = weight.shape[0] // groups
    parts = []
    for group in range(groups):
        seen = windows[:, group * per_group : (group + 1) * per_group]
        own = weight[group * filters : (group + 1) * filters]
        over = [1, *range(2 + spatial, 2 + 2 * spatial)]
        parts.append(np.moveaxis(np.tensordot(seen, own, (over, range(1, 2 + spatial))), -1, 1))
    y = np.concatenate(parts, axis=1)
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


def matmul(a: Array, b: Array) -> Array:
    """[..., M, K] and [..., K, N] of equal leading sizes."""
    return a @ b


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, scale: float, causal: bool, causal_offset: int
) -> Array:
    """softmax(scale q k^T + mask) v; causal: query s sees keys t <= s + causal_offset; a row that sees none is 0."""
    scores = scale * (q @ np.swapaxes(k, -1, -2))
    if mask is not None:
        scores = scores + mask
    if causal:
        queries, keys = scores.shape[-2:]
        hidden = np.arange(keys)[None] > np.arange(queries)[:, None] + causal_offset
        scores = np.where(hidden, -np.inf, scores)
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return (powers / np.where(total == 0, 1, total)) @ v


def reduce(x: Array, kind: str, axes: Sequence[int]) -> Array:
    """Reduced axes keep size 1; positions (argmax, argmin) are along one axis; ties go to the first."""
    over = axes[0] if kind.startswith("arg") else tuple(axes)
    return np.asarray(REDUCTIONS[kind](x, axis=over, keepdims=True), np.float64)


def softmax(x: Array, logarithm: bool) -> Array:
    """Over the last axis."""
    shifted = x - x.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(total) if logarithm else np.exp(shifted) / total)


def normalize(x: Array, axes: int, epsilon: float, center: bool) -> Array:
    """Over the last `axes` axes: zero mean where `center`, and unit mean square of the rest."""
    over = tuple(range(x.ndim - axes, x.ndim))
    if center:
        x = x - x.mean(axis=over, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(axis=over, keepdims=True) + epsilon))


def scan(x: Array, axis: int, product: bool) -> Array:
    """Running sum or product."""
    return np.cumprod(x, axis=axis) if product else np.cumsum(x, axis=axis)


def running_extreme(x: Array, axis: int, largest: bool) -> tuple[Array, Array]:
    """Running maximum or minimum and its positions; ties: the later. NaN replaces every number and earlier NaNs."""
    rows = np.moveaxis(x, axis, 0)
    values, positions = rows.copy(), np.zeros(rows.shape)
    for i in range(1, len(rows)):
        taken = np.isnan(rows[i]) | (rows[i] >= values[i - 1] if largest else rows[i] <= values[i - 1])
        values[i] = np.where(taken, rows[i], values[i - 1])
        positions[i] = np.where(taken, i, positions[i - 1])
    return np.moveaxis(values, 0, axis), np.moveaxis(positions, 0, axis)


def top_k(x: Array, count: int, largest: bool) -> tuple[Array, Array]:
    """The largest or smallest of the last axis, in order, and their positions; ties: the lower position first."""
    order = np.argsort(-x if largest else x, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(x, order, axis=-1), order.astype(np.float64)


def remap(memory: Array, elements: int, runs: Sequence[int], fill: float) -> Array:
    """Runs (to, from, count, step) into a flat result from `memory`, which starts at the input's first element."""
    out = np.full(elements, np.nan)
    for to, source, count, step in np.reshape(runs, (-1, 4)).tolist():
        out[to : to + count] = fill if source < 0 else memory[source + step * np.arange(count)]
    return out


def gather(x: Array, index: Array, axis: int) -> Array:
    """torch.gather; NaN where the index is out of range."""
    inside = (index >= 0) & (index < x.shape[axis])
    positions = np.where(inside, index, 0).astype(np.int64)
    seen = tuple(slice(0, n) if a != axis else slice(None) for a, n in enumerate(index.shape))
    return np.where(inside, np.take_along_axis(x[seen], positions, axis=axis), np.nan)
