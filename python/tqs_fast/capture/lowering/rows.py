"""Reductions, softmax, scans, order statistics and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.lowering.registry import LOWERINGS, Context, Lowering, lowers
from tqs_fast.capture.program import computed_in

Axes = Sequence[int] | int | None


def reduce(context: Context, x: Tensor, kind: str, axes: Axes, keepdim: bool, precision: str | None = None) -> Tensor:
    """One reduction; no axes means all of them. By default the result has the precision that it is computed in."""
    precision = precision or computed_in(x.precision)
    if axes is None or axes == [] or axes == ():
        chosen = tuple(range(x.rank))
    else:
        chosen = tuple(sorted({axis % max(x.rank, 1) for axis in ([axes] if isinstance(axes, int) else axes)}))
    if x.rank == 0:
        return x if kind not in ("argmax", "argmin") else context.full((), 0.0, precision)
    kept = tuple(1 if axis in chosen else size for axis, size in enumerate(x.sizes))
    y = context.graph.add("reduce", [x], kept, precision=precision, reduction=kind, axes=chosen)[0]
    return y if keepdim else context.graph.reshape(y, [size for axis, size in enumerate(kept) if axis not in chosen])


def _reduction(kind: str) -> Lowering:
    def lower(context: Context, x: Tensor, axes: Axes = None, keepdim: bool = False, **_: Any) -> Tensor:
        dtype: torch.dtype = context.returned.dtype
        if not dtype.is_floating_point:
            return reduce(context, x, kind, axes, keepdim)
        precision = context.precision_of(dtype)
        if computed_in(precision) != computed_in(x.precision):
            x = context.convert(x, precision)
        return reduce(context, x, kind, axes, keepdim, precision)

    return lower


for _kind, _names in {
    "sum": ("sum.default", "sum.dim_IntList"),
    "mean": ("mean.default", "mean.dim"),
    "maximum": ("amax.default", "max.default"),
    "minimum": ("amin.default", "min.default"),
    "product": ("prod.default", "prod.dim_int"),
    "any": ("any.default", "any.dim", "any.dims"),
    "all": ("all.default", "all.dim", "all.dims"),
    "argmax": ("argmax.default",),
    "argmin": ("argmin.default",),
}.items():
    for _name in _names:
        LOWERINGS[f"aten.{_name}"] = _reduction(_kind)


@lowers("aten.max.dim", "aten.min.dim")
def extreme(context: Context, x: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    kinds = ("maximum", "argmax") if "max" in str(context.node.target) else ("minimum", "argmin")
    return reduce(context, x, kinds[0], axis, keepdim, x.precision), reduce(context, x, kinds[1], axis, keepdim)


@lowers("aten.var.correction", "aten.std.correction", "aten.var.dim", "aten.std.dim")
def variance(
    context: Context, x: Tensor, axes: Axes = None, correction: float | bool | None = 1, keepdim: bool = False
) -> Tensor:
    y, _ = _variance(context, x, axes, correction, keepdim)
    return context.elementwise("square_root", y) if ".std." in f".{context.node.target}" else y


@lowers("aten.var_mean.correction", "aten.std_mean.correction")
def variance_and_mean(
    context: Context, x: Tensor, axes: Axes = None, correction: float | None = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    y, mean = _variance(context, x, axes, correction, keepdim)
    return (context.elementwise("square_root", y) if "std_mean" in str(context.node.target) else y), mean


def _variance(
    context: Context, x: Tensor, axes: Axes, correction: float | bool | None, keepdim: bool
) -> tuple[Tensor, Tensor]:
    mean = reduce(context, x, "mean", axes, True)
    centred = context.elementwise("subtract", x, mean)
    y = reduce(context, context.elementwise("multiply", centred, centred), "mean", axes, keepdim)
    count = x.elements // max(mean.elements, 1)
    lost = 1.0 if correction is None else float(correction)
    if lost:
        y = context.elementwise("multiply", y, count / (count - lost) if count > lost else float("nan"))
    return y, mean if keepdim else context.graph.reshape(mean, y.sizes)


@lowers("aten.linalg_vector_norm.default")
def vector_norm(
    context: Context, x: Tensor, order: float = 2, axes: Axes = None, keepdim: bool = False, **_: Any
) -> Tensor:
    size = context.elementwise("absolute", x)
    if order in (float("inf"), -float("inf")):
        return reduce(context, size, "maximum" if order > 0 else "minimum", axes, keepdim)
    if order == 1:
        return reduce(context, size, "sum", axes, keepdim)
    if order == 2:
        return context.elementwise(
            "square_root", reduce(context, context.elementwise("multiply", x, x), "sum", axes, keepdim)
        )
    total = reduce(context, context.elementwise("power", size, float(order)), "sum", axes, keepdim)
    return context.elementwise("power", total, 1 / order)


@lowers("aten.logsumexp.default")
def logsumexp(context: Context, x: Tensor, axes: Axes, keepdim: bool = False) -> Tensor:
    top = reduce(context, x, "maximum", axes, True)
    # a row of -inf stays -inf
    shift = context.elementwise("where", context.elementwise("is_finite", top), top, 0.0)
    total = reduce(context, context.elementwise("exp", context.elementwise("subtract", x, shift)), "sum", axes, True)
    y = context.elementwise("add", context.elementwise("log", total), shift)
    return y if keepdim else context.graph.reshape(y, context.sizes)


@lowers("aten._softmax.default", "aten.softmax.int", "aten._safe_softmax.default")
def softmax(context: Context, x: Tensor, axis: int, *_: Any, **__: Any) -> Tensor:
    y = _softmax(context, x, axis, False)
    if "_safe_softmax" not in str(context.node.target):
        return y
    hidden = context.elementwise("equal", reduce(context, x, "maximum", axis, True), -torch.inf)
    return context.elementwise("where", hidden, 0.0, y)


@lowers("aten._log_softmax.default", "aten.log_softmax.int")
def log_softmax(context: Context, x: Tensor, axis: int, *_: Any, **__: Any) -> Tensor:
    return _softmax(context, x, axis, True)


def _softmax(context: Context, x: Tensor, axis: int, logarithm: bool) -> Tensor:
    x = context.convert(x, context.precision_of(context.returned.dtype))
    order, back = to_last(x.rank, axis)
    x = context.graph.permute(x, order)
    return context.graph.permute(context.graph.add("softmax", [x], x.sizes, logarithm=logarithm)[0], back)


def to_last(rank: int, axis: int) -> tuple[list[int], list[int]]:
    """The order of axes that puts `axis` last, and the one that undoes it."""
    axis %= max(rank, 1)
    order = [i for i in range(rank) if i != axis] + [axis] * (rank > 0)
    return order, [order.index(i) for i in range(rank)]


@lowers("aten.cumsum.default", "aten.cumprod.default")
def scan(context: Context, x: Tensor, axis: int, **_: Any) -> Tensor:
    if x.rank == 0:
        return x
    dtype: torch.dtype = context.returned.dtype
    x = context.convert(x, context.precision_of(dtype)) if dtype.is_floating_point else x
    return context.graph.add("scan", [x], x.sizes, axis=axis % x.rank, product="cumprod" in str(context.node.target))[0]


@lowers("aten.logcumsumexp.default")
def log_scan(context: Context, x: Tensor, axis: int) -> Tensor:
    top = reduce(context, x, "maximum", axis, True)
    powers = context.elementwise("exp", context.elementwise("subtract", x, top))
    total = context.graph.add("scan", [powers], x.sizes, axis=axis % x.rank, product=False)[0]
    return context.elementwise("add", context.elementwise("log", total), top)


@lowers("aten.cummax.default", "aten.cummin.default")
def running_extreme(context: Context, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    if x.rank == 0:
        return x, context.full((), 0.0, computed_in(x.precision))
    largest = "cummax" in str(context.node.target)
    values, positions = context.graph.add(
        "running_extreme",
        [x],
        x.sizes,
        outputs=2,
        precision=computed_in(x.precision),
        axis=axis % x.rank,
        largest=largest,
    )
    return values, positions


@lowers("aten.topk.default")
def top_k(context: Context, x: Tensor, count: int, axis: int = -1, largest: bool = True, _: bool = True) -> Any:
    order, back = to_last(x.rank, axis)
    rows = context.graph.permute(x, order)
    sizes = (*rows.sizes[:-1], count)
    precision = computed_in(x.precision)  # of the positions, which need it
    found = context.graph.add("top_k", [rows], sizes, outputs=2, precision=precision, count=count, largest=largest)
    return tuple(context.graph.permute(part, back) for part in found)


@lowers("aten.sort.default", "aten.sort.stable")
def sort(context: Context, x: Tensor, axis: int = -1, descending: bool = False, **keywords: Any) -> Any:
    return top_k(context, x, x.sizes[axis], keywords.get("dim", axis), keywords.get("descending", descending))


@lowers("aten.median.dim")
def median(context: Context, x: Tensor, axis: int, keepdim: bool = False) -> Any:
    """torch's median: the lower of the two middle values."""
    middle = (x.sizes[axis] - 1) // 2
    values, positions = top_k(context, x, middle + 1, axis, False)
    parts = (context.graph.slice(part, axis, middle, 1) for part in (values, positions))
    return tuple(context.graph.reshape(part, context.returned[0].shape) for part in parts)


@lowers("aten.avg_pool1d.default", "aten.avg_pool2d.default")
def average_pool(
    context: Context,
    x: Tensor,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    padded = any(padding)
    if ceil_mode or divisor is not None or (padded and not count_include_pad):
        raise context.error(
            "average pooling with ceil_mode, divisor_override or count_include_pad=False is not supported"
        )
    return _pool(context, x, "mean", size, stride, padding, (1,), 0.0)


@lowers("aten.max_pool2d_with_indices.default", "aten.max_pool1d.default", "aten.max_pool2d.default")
def max_pool(
    context: Context,
    x: Tensor,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Any:
    if ceil_mode:
        raise context.error("max pooling with ceil_mode is not supported")
    y = _pool(context, x, "maximum", size, stride, padding, dilation, -torch.inf)
    return (y, None) if "indices" in str(context.node.target) else y


def _pool(
    context: Context,
    x: Tensor,
    kind: str,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: float,
) -> Tensor:
    graph = context.graph
    spatial = 2 if "2d" in str(context.node.target) else 1
    rank = x.rank
    for i in range(spatial):
        axis = rank - spatial + i
        window, pad, apart = (given[i % len(given)] for given in (size, padding, dilation))
        step = stride[i % len(stride)] if stride else window
        if pad:
            edge = context.full([pad if a == axis else n for a, n in enumerate(x.sizes)], fill, x.precision)
            x = graph.concatenate([edge, x, edge], axis)
        x = graph.windows(x, axis, (window - 1) * apart + 1, step)
        x = graph.slice(x, -1, 0, window, apart) if apart > 1 else x
    return reduce(context, x, kind, range(rank, rank + spatial), False)
