"""Normalisation, by the operators of the standard and as ONNX Runtime fuses them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.registry import Call, Value, operator


def _affine(call: Call, y: torch.Tensor, scale: Value | None, bias: Value | None) -> torch.Tensor:
    y = y if scale is None else y * call.tensor(scale)
    return y if bias is None else y + call.tensor(bias)


@operator("LayerNormalization")
def layer_norm(call: Call, x: Value, scale: Value | None, bias: Value | None = None) -> torch.Tensor:
    if call.outputs > 1:
        raise call.refused("the mean and deviation as outputs are not supported")
    y = call.tensor(x)
    shape = list(y.shape[call.get("axis", -1) :])
    return _affine(call, F.layer_norm(y, shape, eps=call.get("epsilon", 1e-5)), scale, bias)


@operator("RMSNormalization")
def rms_norm(call: Call, x: Value, scale: Value) -> torch.Tensor:
    if call.outputs > 1:
        raise call.refused("the deviation as an output is not supported")
    y = call.tensor(x)
    return F.rms_norm(y, list(y.shape[call.get("axis", -1) :]), eps=call.get("epsilon", 1e-5)) * call.tensor(scale)


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_norm(call: Call, x: Value, skip: Value, gamma: Value, *rest: Value | None) -> tuple[torch.Tensor, ...]:
    """layer norm of x + skip + bias, and that sum as the fourth output."""
    simple = call.name == "SkipSimplifiedLayerNormalization"
    beta, bias = (None, *rest, None)[:2] if simple else (*rest, None, None)[:2]
    total = call.tensor(x) + call.tensor(skip)
    total = total if bias is None else total + call.tensor(bias)
    shape, epsilon = [total.shape[-1]], call.get("epsilon", 1e-5)
    y = F.rms_norm(total, shape, eps=epsilon) if simple else F.layer_norm(total, shape, eps=epsilon)
    y = _affine(call, y, gamma, beta)
    return (y, y, y, total)[: max(call.outputs, 1)]


@operator("BatchNormalization")
def batch_norm(call: Call, x: torch.Tensor, scale: Value, bias: Value, mean: Value, var: Value) -> torch.Tensor:
    call.supports_only(training_mode=0)
    average, variance, factor, shift = (call.tensor(part) for part in (mean, var, scale, bias))
    return F.batch_norm(x, average, variance, factor, shift, eps=call.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(call: Call, x: torch.Tensor, scale: Value, bias: Value) -> torch.Tensor:
    return F.group_norm(x, x.shape[1], call.tensor(scale), call.tensor(bias), call.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(call: Call, x: torch.Tensor, scale: Value, bias: Value) -> torch.Tensor:
    groups = call.get("num_groups")
    factor, shift = call.tensor(scale), call.tensor(bias)
    if call.opset < 21:  # one number per group
        each = x.shape[1] // groups
        factor, shift = factor.repeat_interleave(each), shift.repeat_interleave(each)
    return F.group_norm(x, groups, factor, shift, call.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(call: Call, x: torch.Tensor) -> torch.Tensor:
    axis = call.get("axis", -1)
    size = x.abs().sum(axis, keepdim=True) if call.get("p", 2) == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return x / size
