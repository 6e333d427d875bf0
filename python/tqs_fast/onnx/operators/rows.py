"""Operators over rows: reductions, softmax, pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.products import paddings
from tqs_fast.onnx.operators.registry import OPERATORS, Call, Operator, Value, operator

REDUCTIONS: dict[str, Callable[[torch.Tensor, list[int]], torch.Tensor]] = {
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: (x * x).sum(axes, keepdim=True).sqrt(),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
    "ReduceMax": lambda x, axes: torch.amax(x, axes, keepdim=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "ReduceMin": lambda x, axes: torch.amin(x, axes, keepdim=True),
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes, keepdim=True),
}


def _reduction(function: Callable[[torch.Tensor, list[int]], torch.Tensor]) -> Operator:
    def run(call: Call, x: torch.Tensor, axes: Value | None = None) -> torch.Tensor:
        given = call.axes(axes)
        if not given and call.get("noop_with_empty_axes", 0):
            return x
        chosen = sorted({axis % x.dim() for axis in given or range(x.dim())})
        y = function(x, chosen)
        if call.get("keepdims", 1):
            return y
        return y.reshape([size for axis, size in enumerate(x.shape) if axis not in chosen])

    return run


OPERATORS.update({("", name): _reduction(function) for name, function in REDUCTIONS.items()})


@operator("ArgMax", "ArgMin")
def extreme(call: Call, x: torch.Tensor) -> torch.Tensor:
    call.supports_only(select_last_index=0)
    function = torch.argmax if call.name == "ArgMax" else torch.argmin
    return function(x, dim=call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    function = F.softmax if call.name == "Softmax" else F.log_softmax
    if call.opset >= 13:
        return function(x, dim=call.get("axis", -1))
    axis = call.get("axis", 1) % x.dim()  # before opset 13: over all axes from this one on
    return function(x.flatten(axis), dim=axis).reshape(x.shape)


@operator("GlobalAveragePool")
def global_average(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_maximum(call: Call, x: torch.Tensor) -> torch.Tensor:
    return torch.amax(x, list(range(2, x.dim())), keepdim=True)


@operator("AveragePool")
def average_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    call.supports_only(ceil_mode=0, dilations=[1] * (x.dim() - 2))
    size = call.get("kernel_shape")
    stride = call.get("strides", [1] * len(size))
    x, even = paddings(call, x, size, stride, [1] * len(size))
    if any(even) and not call.get("count_include_pad", 0):
        raise call.refused("an average that leaves padding out is not supported")
    function: Callable[..., torch.Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d}.get(len(size), F.avg_pool3d)
    return function(x, size, stride, even)


@operator("MaxPool")
def maximum_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    call.supports_only(ceil_mode=0)
    if call.outputs > 1:
        raise call.refused("positions of maxima are not supported")
    size = call.get("kernel_shape")
    stride, apart = call.get("strides", [1] * len(size)), call.get("dilations", [1] * len(size))
    x, even = paddings(call, x, size, stride, apart, value=-torch.inf)
    function: Callable[..., torch.Tensor] = {1: F.max_pool1d, 2: F.max_pool2d}.get(len(size), F.max_pool3d)
    return function(x, size, stride, even, apart)
