"""Operators that move elements: views, concatenation, padding."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.registry import Call, Value, operator
from tqs_fast.onnx.read import Array


@operator("Reshape")
def reshape(call: Call, x: torch.Tensor, shape: Value) -> torch.Tensor:
    sizes = call.numbers(shape, "shape") or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(call: Call, x: torch.Tensor) -> torch.Tensor:
    axis = call.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Transpose")
def transpose(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x.permute(call.get("perm", list(reversed(range(x.dim())))))


@operator("Squeeze")
def squeeze(call: Call, x: torch.Tensor, axes: Value | None = None) -> torch.Tensor:
    given = call.axes(axes)
    chosen = {axis % x.dim() for axis in given} if given is not None else {a for a, n in enumerate(x.shape) if n == 1}
    if any(x.shape[axis] != 1 for axis in chosen):
        raise call.refused(f"it drops an axis of {list(x.shape)} that is not 1")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in chosen])


@operator("Unsqueeze")
def unsqueeze(call: Call, x: torch.Tensor, axes: Value | None = None) -> torch.Tensor:
    given = call.axes(axes) or []
    rank = x.dim() + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call, x: torch.Tensor, shape: Value) -> torch.Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(call.numbers(shape, "shape") or ())))


@operator("Tile")
def tile(call: Call, x: torch.Tensor, repeats: Value) -> torch.Tensor:
    return x.repeat(call.numbers(repeats, "repeats") or [])


@operator("Concat")
def concatenate(call: Call, *pieces: Value) -> torch.Tensor:
    return torch.cat([call.tensor(piece) for piece in pieces], dim=call.get("axis", 0))


@operator("Split")
def split(call: Call, x: torch.Tensor, sizes: Value | None = None) -> tuple[torch.Tensor, ...]:
    axis = call.get("axis", 0)
    given = call.numbers(sizes, "sizes") or call.get("split")
    if given is None:
        count = call.get("num_outputs", call.outputs)
        given = [n.size for n in np.array_split(np.arange(x.shape[axis]), count)]
        if call.get("num_outputs"):  # the last is the smaller one, not the first the larger ones
            each = -(-x.shape[axis] // count)
            given = [min(each, x.shape[axis] - each * i) for i in range(count)]
    ends = [0, *np.cumsum(given).tolist()]
    return tuple(x.narrow(axis, begin, end - begin) for begin, end in pairwise(ends))


@operator("Slice")
def cut(
    call: Call, x: torch.Tensor, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> torch.Tensor:
    first, last = call.numbers(starts, "starts") or [], call.numbers(ends, "ends") or []
    along = call.numbers(axes, "axes") or list(range(len(first)))
    apart = call.numbers(steps, "steps") or [1] * len(first)
    for axis, start, end, step in zip(along, first, last, apart, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if step > 0:
            index = [slice(None)] * x.dim()
            index[axis] = slice(chosen.start, chosen.stop, step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, call.constant(np.asarray(chosen, np.int64)))
    return x


@operator("Pad")
def pad(
    call: Call, x: torch.Tensor, pads: Value, value: Value | None = None, axes: Value | None = None
) -> torch.Tensor:
    mode = call.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    given = call.numbers(pads, "pads") or []
    along = [axis % x.dim() for axis in call.numbers(axes, "axes") or range(len(given) // 2)]
    around = {a: (b, e) for a, b, e in zip(along, given[: len(along)], given[len(along) :], strict=True)}
    if mode == "constant":
        flat = [n for axis in reversed(range(x.dim())) for n in around.get(axis, (0, 0))]
        return F.pad(x, flat, value=call.number(value, 0.0, "value"))
    for axis, (before, after) in around.items():
        if before or after:
            rows = _padded(np.arange(x.shape[axis]), (before, after), mode)
            x = x.index_select(axis, call.constant(rows))
    return x


def _padded(rows: Array, around: tuple[int, int], mode: str) -> Array:
    """The row at every place along an axis; negative pads drop rows."""
    kept = rows[max(-around[0], 0) : len(rows) - max(-around[1], 0)]
    how = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
    return np.pad(kept, tuple(max(n, 0) for n in around), mode=how)  # type: ignore[call-overload, no-any-return]


@operator("Trilu")
def triangle(call: Call, x: torch.Tensor, diagonal: Value | None = None) -> torch.Tensor:
    offset = int(call.number(diagonal, 0, "diagonal"))
    mask = np.tri(x.shape[-2], x.shape[-1], offset - 1 if call.get("upper", 1) else offset, dtype=bool)
    kept = call.constant(~mask if call.get("upper", 1) else mask)
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))
