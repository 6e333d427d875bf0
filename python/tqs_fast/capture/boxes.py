"""Boxes: a range of every axis of a tensor, and which box of its inputs an operation needs for a box of its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import numpy as np

from tqs_fast.capture.graph import Operation, Tensor

Box: TypeAlias = tuple[tuple[int, int], ...]  # per axis (start, stop)
Rule: TypeAlias = Callable[[Operation, Box], tuple[Box, list[Box | None]]]


def whole(sizes: Sequence[int]) -> Box:
    return tuple((0, size) for size in sizes)


def lengths(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def union(first: Box | None, second: Box) -> Box:
    """The smallest box that holds both."""
    if first is None:
        return second
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def requirements(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    """The box that is computed, which may be larger than the one wanted, and what it takes of each input.

    Inputs that are numbers or constants are not narrowed here: their entry is unused.
    """
    return RULES[operation.kind](operation, box)


def _aligned(box: Box, sizes: Sequence[int]) -> Box:
    """Of an operand that broadcasts to what `box` is a part of."""
    last = box[len(box) - len(sizes) :]
    return tuple((0, 1) if size == 1 else given for size, given in zip(sizes, last, strict=True))


def _elementwise(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    return box, [_aligned(box, x.sizes) if isinstance(x, Tensor) else None for x in operation.inputs]


def _linear(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    x = operation.tensors[0]
    return box, [(*box[:-1], (0, x.sizes[-1])), None, None]


def _packed_linear(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    """Whole rows: a packed weight is not cut."""
    x, out = operation.tensors[0], operation.outputs[0]
    return (*box[:-1], (0, out.sizes[-1])), [(*box[:-1], (0, x.sizes[-1])), None]


def _matmul(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    inner = (0, operation.tensors[0].sizes[-1])
    return box, [(*box[:-2], box[-2], inner), (*box[:-2], inner, box[-1])]


def _convolution(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    """A range that meets no padding; else the whole axis."""
    x, weight = operation.tensors[:2]
    given = operation.attributes
    made, seen = [(0, 1), (0, weight.sizes[0])], [(0, 1), (0, x.sizes[1])]
    for i, (start, stop) in enumerate(box[2:]):
        stride, padding, dilation = (given[name][i] for name in ("stride", "padding", "dilation"))
        first = start * stride - padding
        last = (stop - 1) * stride + (weight.sizes[2 + i] - 1) * dilation + 1 - padding
        inside = first >= 0 and last <= x.sizes[2 + i]
        made.append((start, stop) if inside else (0, operation.outputs[0].sizes[2 + i]))
        seen.append((first, last) if inside else (0, x.sizes[2 + i]))
    return tuple(made), [tuple(seen), None, None]


def _attention(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    q, k, v = operation.tensors[:3]
    box = (*box[:-1], (0, v.sizes[-1]))
    keys = k.sizes[-2]
    if operation.attributes["causal"]:
        keys = min(keys, max(1, box[-2][1] + operation.attributes["causal_offset"]))
    leading, seen = box[:-2], (0, keys)
    return box, [
        (*leading, box[-2], (0, q.sizes[-1])),
        (*leading, seen, (0, k.sizes[-1])),
        (*leading, seen, (0, v.sizes[-1])),
        (*leading, box[-2], seen),
    ]


def _reduce(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    sizes, axes = operation.tensors[0].sizes, operation.attributes["axes"]
    return box, [tuple((0, sizes[a]) if a in axes else given for a, given in enumerate(box))]


def _last(axes: int) -> Rule:
    def rule(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
        split = len(box) - axes
        leading = box[:split]
        made = (*leading, *whole(operation.outputs[0].sizes[split:]))
        return made, [(*leading, *whole(operation.tensors[0].sizes[split:]))]

    return rule


def _normalize(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    return _last(operation.attributes["axes"])(operation, box)


def _scan(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    axis = operation.attributes["axis"]
    made = tuple((0, given[1]) if a == axis else given for a, given in enumerate(box))
    return made, [made]


def _concatenate(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    axis, begin = operation.attributes["axis"], 0
    parts: list[Box | None] = []
    for piece in operation.tensors:
        start, stop = max(box[axis][0] - begin, 0), min(box[axis][1] - begin, piece.sizes[axis])
        part = tuple((start, stop) if a == axis else given for a, given in enumerate(box))
        parts.append(part if start < stop else None)
        begin += piece.sizes[axis]
    return box, parts


def _remap(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    source = operation.attributes["positions"].array[tuple(slice(*given) for given in box)]
    found = np.unravel_index(source[source >= 0], operation.tensors[0].sizes)
    seen = tuple((int(axis.min()), int(axis.max()) + 1) if axis.size else (0, 1) for axis in found)
    return box, [seen]


def _gather(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    axis = operation.attributes["axis"]
    size = operation.tensors[0].sizes[axis]
    return box, [tuple((0, size) if a == axis else given for a, given in enumerate(box)), box]


# ---------------------------------------------------------------- views


def _permute(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    order = operation.attributes["order"]
    return box, [tuple(box[order.index(axis)] for axis in range(len(box)))]


def _slice(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    given = operation.attributes
    start, stop = box[given["axis"]]
    begin = given["start"] + start * given["step"]
    seen = (begin, begin + (stop - 1 - start) * given["step"] + 1)
    return box, [tuple(seen if a == given["axis"] else own for a, own in enumerate(box))]


def _windows(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    given = operation.attributes
    start, stop = box[given["axis"]]
    seen = (start * given["step"], (stop - 1) * given["step"] + given["size"])
    made = (*box[:-1], (0, given["size"]))
    return made, [tuple(seen if a == given["axis"] else own for a, own in enumerate(box[:-1]))]


def _diagonal(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    return whole(operation.outputs[0].sizes), [whole(operation.tensors[0].sizes)]


def _reshape(operation: Operation, box: Box) -> tuple[Box, list[Box | None]]:
    """Axes fall into groups that stand for the same elements; in each, a stretch of elements is needed."""
    before, after = operation.tensors[0].sizes, operation.outputs[0].sizes
    made: list[tuple[int, int]] = [(0, 0)] * len(after)
    seen: list[tuple[int, int]] = [(0, 0)] * len(before)
    for inputs, outputs in shape_groups(before, after):
        own = [after[a] for a in outputs]
        other = [before[a] for a in inputs]
        first, last = _stretch([box[a] for a in outputs], own)
        while True:
            out_box = _cover(own, first, last)
            in_box = _cover(other, *_stretch(out_box, own))
            if _stretch(in_box, other) == _stretch(out_box, own):
                break
            first, last = _stretch(in_box, other)
        for axis, part in zip(outputs, out_box, strict=True):
            made[axis] = part
        for axis, part in zip(inputs, in_box, strict=True):
            seen[axis] = part
    return tuple(made), [tuple(seen)]


def shape_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest groups of axes of equal products, in order."""
    if 0 in before:  # products of zero say nothing of where they meet
        return [(list(range(len(before))), list(range(len(after))))]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        inputs, outputs = [], []
        left = right = 1
        if i < len(before):
            inputs, left, i = [i], before[i], i + 1
        if j < len(after):
            outputs, right, j = [j], after[j], j + 1
        while left != right:
            if left < right:
                inputs.append(i)
                left, i = left * before[i], i + 1
            else:
                outputs.append(j)
                right, j = right * after[j], j + 1
        groups.append((inputs, outputs))
    return groups


def _stretch(box: Sequence[tuple[int, int]], sizes: Sequence[int]) -> tuple[int, int]:
    """Row-major positions of the first element of a box, and after the last."""
    first = last = 0
    for (start, stop), size in zip(box, sizes, strict=True):
        first, last = first * size + start, last * size + stop - 1
    return first, last + 1


def _cover(sizes: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """The smallest box of adjacent elements that holds the stretch: single positions, a range, whole axes."""
    box: list[tuple[int, int]] = []
    for axis, size in enumerate(sizes):
        inner = prod(sizes[axis + 1 :])
        start, stop = first // inner, (last - 1) // inner
        box.append((start, stop + 1))
        if start != stop:
            return [*box, *whole(sizes[axis + 1 :])]
        first, last = first - start * inner, last - start * inner
        assert size > start
    return box


RULES: dict[str, Rule] = {
    "elementwise": _elementwise,
    "linear": _linear,
    "packed_linear": _packed_linear,
    "matmul": _matmul,
    "convolution": _convolution,
    "attention": _attention,
    "reduce": _reduce,
    "softmax": _last(1),
    "normalize": _normalize,
    "scan": _scan,
    "running_extreme": _scan,
    "top_k": _last(1),
    "concatenate": _concatenate,
    "remap": _remap,
    "gather": _gather,
    "permute": _permute,
    "slice": _slice,
    "expand": _elementwise,
    "windows": _windows,
    "diagonal": _diagonal,
    "reshape": _reshape,
}
