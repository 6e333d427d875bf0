"""Activation functions that are more than one opcode, or have options."""

from __future__ import annotations

from typing import Any

import torch

from tqs_fast.capture.graph import Operand, Tensor
from tqs_fast.capture.lowering.elementwise import result
from tqs_fast.capture.lowering.registry import Context, lowers


@lowers("aten.gelu.default")
def gelu(context: Context, x: Tensor, approximate: str = "none") -> Tensor:
    return result(context, "gelu_tanh" if approximate == "tanh" else "gelu", x)


@lowers("aten.softplus.default")
def softplus(context: Context, x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """torch returns x itself above the threshold, where the difference is below exp(-threshold)."""
    scaled = x if beta == 1 else result(context, "multiply", x, float(beta))
    soft = result(context, "softplus", scaled)
    soft = soft if beta == 1 else result(context, "divide", soft, float(beta))
    if threshold >= 20 and context.returned.dtype != torch.float64:
        return soft
    return result(context, "where", result(context, "greater", scaled, float(threshold)), x, soft)


@lowers("aten.log_sigmoid.default", "aten.log_sigmoid_forward.default")
def log_sigmoid(context: Context, x: Tensor) -> Any:
    meta = context.returned
    precision = context.precision_of((meta[0] if isinstance(meta, (tuple, list)) else meta).dtype)
    soft = context.elementwise("softplus", context.elementwise("negate", x, precision=precision))
    y = context.elementwise("negate", soft)
    return (y, None) if isinstance(meta, (tuple, list)) else y


@lowers("aten.leaky_relu.default")
def leaky_relu(context: Context, x: Tensor, slope: float = 0.01) -> Tensor:
    return _where_positive(context, x, x, result(context, "multiply", x, float(slope)))


@lowers("aten._prelu_kernel.default")
def prelu(context: Context, x: Tensor, weight: Tensor) -> Tensor:
    return _where_positive(context, x, x, result(context, "multiply", x, weight))


@lowers("aten.elu.default")
def elu(context: Context, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    scaled = x if input_scale == 1 else result(context, "multiply", x, float(input_scale))
    negative = result(context, "multiply", result(context, "expm1", scaled), float(alpha * scale))
    positive = x if scale == 1 else result(context, "multiply", x, float(scale))
    return _where_positive(context, x, positive, negative)


def _where_positive(context: Context, x: Tensor, positive: Operand, negative: Operand) -> Tensor:
    return result(context, "where", result(context, "greater", x, 0.0), positive, negative)


@lowers("aten.hardsigmoid.default")
def hard_sigmoid(context: Context, x: Tensor) -> Tensor:
    shifted = result(context, "minimum", result(context, "maximum", result(context, "add", x, 3.0), 0.0), 6.0)
    return result(context, "divide", shifted, 6.0)


@lowers("aten.hardswish.default")
def hard_swish(context: Context, x: Tensor) -> Tensor:
    return result(context, "multiply", x, hard_sigmoid(context, x))


@lowers("aten.mish.default")
def mish(context: Context, x: Tensor) -> Tensor:
    return result(context, "multiply", x, result(context, "tanh", result(context, "softplus", x)))
