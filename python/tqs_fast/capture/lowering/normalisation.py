"""Normalisation by layer, root mean square, group and (in evaluation) batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.lowering.registry import Context, lowers
from tqs_fast.capture.program import computed_in


@lowers("aten.native_layer_norm.default", "aten.layer_norm.default")
def layer_norm(
    context: Context,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-5,
    *_: Any,
) -> Any:
    y = _affine(context, normalize(context, x, len(shape), epsilon, True), weight, bias)
    # the saved mean and rstd are there for the backward pass only
    return (y, None, None) if "native" in str(context.node.target) else y


@lowers("aten.rms_norm.default", "aten._fused_rms_norm.default")
def rms_norm(
    context: Context, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, epsilon: float | None = None
) -> Any:
    meta = context.returned
    dtype = (meta[0] if isinstance(meta, (tuple, list)) else meta).dtype
    epsilon = torch.finfo(torch.promote_types(dtype, torch.float32)).eps if epsilon is None else epsilon
    y = _affine(context, normalize(context, x, len(shape), epsilon, False), weight, None)
    return (y, None) if isinstance(meta, (tuple, list)) else y


def normalize(context: Context, x: Tensor, axes: int, epsilon: float, center: bool) -> Tensor:
    return context.graph.add("normalize", [x], x.sizes, axes=axes, epsilon=float(epsilon), center=center)[0]


def _affine(context: Context, y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = context.elementwise("multiply", y, weight)
    return y if bias is None else context.elementwise("add", y, bias)


@lowers("aten.native_group_norm.default")
def group_norm(
    context: Context,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    spatial: int,
    groups: int,
    epsilon: float,
) -> tuple[Tensor, None, None]:
    graph = context.graph
    y = normalize(context, graph.reshape(x, (count, groups, channels // groups * spatial)), 1, epsilon, True)
    y = graph.reshape(y, x.sizes)
    return _affine(context, y, _per_channel(context, x, weight), _per_channel(context, x, bias)), None, None


def _per_channel(context: Context, x: Tensor, part: Tensor | None) -> Tensor | None:
    return None if part is None else context.graph.reshape(part, (x.sizes[1], *(1,) * (x.rank - 2)))


@lowers("aten._native_batch_norm_legit_no_training.default")
def batch_norm(
    context: Context,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, None, None]:
    """(x - mean) / sqrt(var + epsilon) * weight + bias as x * scale + shift."""
    precision = computed_in(x.precision)
    scale = context.graph.fold(_batch_scale, var, weight, float(epsilon), precision=precision)
    shift = context.graph.fold(_batch_shift, scale, mean, bias, precision=precision)
    return _affine(context, x, _per_channel(context, x, scale), _per_channel(context, x, shift)), None, None


def _batch_scale(var: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    scale = torch.rsqrt(var.to(torch.promote_types(var.dtype, torch.float32)) + epsilon)
    return scale if weight is None else scale * weight


def _batch_shift(scale: torch.Tensor, mean: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return -mean * scale if bias is None else bias - mean * scale
