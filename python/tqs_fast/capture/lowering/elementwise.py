"""Elementwise ops: one opcode, or a few."""

from __future__ import annotations

import math
from typing import Any

import torch

from tqs_fast.capture.graph import Operand, Tensor
from tqs_fast.capture.lowering.registry import LOWERINGS, Context, Lowering, lowers

# aten op -> opcode of the same arguments
SIMPLE = {
    "neg.default": "negate",
    "abs.default": "absolute",
    "sign.default": "sign",
    "sgn.default": "sign",
    "floor.default": "floor",
    "ceil.default": "ceil",
    "round.default": "round",
    "trunc.default": "trunc",
    "fix.default": "trunc",
    "sqrt.default": "square_root",
    "rsqrt.default": "reciprocal_square_root",
    "reciprocal.default": "reciprocal",
    "exp.default": "exp",
    "expm1.default": "expm1",
    "log.default": "log",
    "log1p.default": "log1p",
    "sin.default": "sin",
    "cos.default": "cos",
    "tan.default": "tan",
    "atan.default": "atan",
    "sinh.default": "sinh",
    "cosh.default": "cosh",
    "tanh.default": "tanh",
    "sigmoid.default": "sigmoid",
    "erf.default": "error_function",
    "silu.default": "silu",
    "relu.default": "relu",
    "logical_not.default": "logical_not",
    "isnan.default": "is_nan",
    "mul.Tensor": "multiply",
    "mul.Scalar": "multiply",
    "true_divide.Tensor": "divide",
    "div.Tensor": "divide",
    "div.Scalar": "divide",
    "maximum.default": "maximum",
    "minimum.default": "minimum",
    "remainder.Tensor": "remainder",
    "remainder.Scalar": "remainder",
    "floor_divide.default": "floor_divide",
    "floor_divide.Scalar": "floor_divide",
    "atan2.default": "atan2",
    "eq.Tensor": "equal",
    "eq.Scalar": "equal",
    "ne.Tensor": "not_equal",
    "ne.Scalar": "not_equal",
    "lt.Tensor": "less",
    "lt.Scalar": "less",
    "le.Tensor": "less_equal",
    "le.Scalar": "less_equal",
    "gt.Tensor": "greater",
    "gt.Scalar": "greater",
    "ge.Tensor": "greater_equal",
    "ge.Scalar": "greater_equal",
    "logical_and.default": "logical_and",
    "logical_or.default": "logical_or",
    "logical_xor.default": "logical_xor",
}


def _simple(opcode: str) -> Lowering:
    def lower(context: Context, *operands: Operand) -> Tensor:
        return result(context, opcode, *operands)

    return lower


for _name, _opcode in SIMPLE.items():
    LOWERINGS[f"aten.{_name}"] = _simple(_opcode)


def result(context: Context, opcode: str, *operands: Operand) -> Tensor:
    """In the precision of the torch result; that of the operands where it is a boolean or an integer."""
    dtype: torch.dtype = context.returned.dtype
    precision = context.precision_of(dtype) if dtype.is_floating_point else None
    return context.elementwise(opcode, *operands, precision=precision)


@lowers("aten.add.Tensor", "aten.add.Scalar")
def add(context: Context, x: Operand, y: Operand, alpha: float = 1) -> Tensor:
    if context.returned.dtype == torch.bool:
        return context.elementwise("logical_or", x, y)
    return result(context, "add", x, _scaled(context, y, alpha))


@lowers("aten.sub.Tensor", "aten.sub.Scalar")
def subtract(context: Context, x: Operand, y: Operand, alpha: float = 1) -> Tensor:
    return result(context, "subtract", x, _scaled(context, y, alpha))


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def subtract_reversed(context: Context, x: Operand, y: Operand, alpha: float = 1) -> Tensor:
    return result(context, "subtract", y, _scaled(context, x, alpha))


def _scaled(context: Context, x: Operand, alpha: float) -> Operand:
    if alpha == 1:
        return x
    return result(context, "multiply", x, float(alpha)) if isinstance(x, Tensor) else float(alpha) * x


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def divide_rounded(context: Context, x: Operand, y: Operand, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode == "floor":
        return result(context, "floor_divide", x, y)
    quotient = result(context, "divide", x, y)
    return result(context, "trunc", quotient) if rounding_mode == "trunc" else quotient


@lowers("aten.fmod.Tensor", "aten.fmod.Scalar")
def remainder_truncated(context: Context, x: Operand, y: Operand) -> Tensor:
    """x - y trunc(x / y), by way of the exact remainder of the absolute values."""
    size = result(context, "absolute", y) if isinstance(y, Tensor) else abs(y)
    rest = result(context, "remainder", result(context, "absolute", x), size)
    return result(context, "where", result(context, "less", x, 0.0), result(context, "negate", rest), rest)


@lowers("aten.pow.Tensor_Scalar")
def power(context: Context, x: Tensor, exponent: float) -> Tensor:
    known = {0.5: "square_root", -0.5: "reciprocal_square_root", -1: "reciprocal"}
    if exponent in known:
        return result(context, known[exponent], x)
    if exponent == 1:
        return x
    if exponent == 2:
        return result(context, "multiply", x, x)
    if exponent == 3:
        return result(context, "multiply", result(context, "multiply", x, x), x)
    if exponent == -2:
        return result(context, "reciprocal", result(context, "multiply", x, x))
    return result(context, "power", x, exponent)


@lowers("aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power_of(context: Context, x: Operand, exponent: Operand) -> Tensor:
    return result(context, "power", x, exponent)


@lowers("aten.square.default")
def square(context: Context, x: Tensor) -> Tensor:
    return result(context, "multiply", x, x)


@lowers("aten.exp2.default")
def exp2(context: Context, x: Tensor) -> Tensor:
    return result(context, "power", 2.0, x)


@lowers("aten.log2.default")
def log2(context: Context, x: Tensor) -> Tensor:
    return result(context, "multiply", result(context, "log", x), 1 / math.log(2))


@lowers("aten.log10.default")
def log10(context: Context, x: Tensor) -> Tensor:
    return result(context, "multiply", result(context, "log", x), 1 / math.log(10))


@lowers("aten.asin.default")
def asin(context: Context, x: Tensor) -> Tensor:
    return result(context, "atan2", x, _other_side(context, x))


@lowers("aten.acos.default")
def acos(context: Context, x: Tensor) -> Tensor:
    return result(context, "atan2", _other_side(context, x), x)


def _other_side(context: Context, x: Tensor) -> Tensor:
    """sqrt((1 - x) (1 + x)): no cancellation near 1."""
    product = result(context, "multiply", result(context, "subtract", 1.0, x), result(context, "add", 1.0, x))
    return result(context, "square_root", product)


@lowers("aten.clamp.default", "aten.clamp.Tensor", "aten.hardtanh.default")
def clamp(context: Context, x: Tensor, low: Operand | None = None, high: Operand | None = None) -> Tensor:
    if context.node.target is torch.ops.aten.hardtanh.default:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    if low is not None:
        x = result(context, "maximum", x, low)
    return x if high is None else result(context, "minimum", x, high)


@lowers("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(context: Context, x: Tensor, low: Operand) -> Tensor:
    return result(context, "maximum", x, low)


@lowers("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(context: Context, x: Tensor, high: Operand) -> Tensor:
    return result(context, "minimum", x, high)


@lowers("aten.fmax.default", "aten.fmin.default")
def extreme_number(context: Context, x: Tensor, y: Tensor) -> Tensor:
    """Of the two, as far as they are numbers."""
    opcode = "maximum" if "fmax" in str(context.node.target) else "minimum"
    chosen = result(context, "where", result(context, "is_nan", y), x, result(context, opcode, x, y))
    return result(context, "where", result(context, "is_nan", x), y, chosen)


@lowers("aten.isinf.default")
def is_infinite(context: Context, x: Tensor) -> Tensor:
    return context.elementwise("equal", context.elementwise("absolute", x), math.inf)


@lowers("aten.isfinite.default")
def is_finite(context: Context, x: Tensor) -> Tensor:
    return context.elementwise("is_finite", x)


@lowers("aten.nan_to_num.default")
def nan_to_num(
    context: Context, x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    limits = torch.finfo(context.returned.dtype)
    y = result(context, "where", result(context, "is_nan", x), 0.0 if nan is None else nan, x)
    y = result(context, "where", result(context, "equal", x, math.inf), limits.max if posinf is None else posinf, y)
    return result(context, "where", result(context, "equal", x, -math.inf), limits.min if neginf is None else neginf, y)


@lowers("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(context: Context, condition: Tensor, x: Operand, y: Operand) -> Tensor:
    return result(context, "where", condition, x, y)


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(context: Context, x: Tensor, mask: Tensor, value: Operand) -> Tensor:
    return result(context, "where", mask, value, x)


@lowers("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(context: Context, x: Tensor, y: Tensor, weight: Operand) -> Tensor:
    return result(context, "add", x, result(context, "multiply", weight, result(context, "subtract", y, x)))


@lowers("aten.addcmul.default")
def addcmul(context: Context, x: Tensor, y: Tensor, z: Tensor, value: float = 1) -> Tensor:
    return result(context, "add", x, _scaled(context, result(context, "multiply", y, z), value))


@lowers("aten.addcdiv.default")
def addcdiv(context: Context, x: Tensor, y: Tensor, z: Tensor, value: float = 1) -> Tensor:
    return result(context, "add", x, _scaled(context, result(context, "divide", y, z), value))


@lowers("aten.bitwise_and.Tensor", "aten.bitwise_and.Scalar")
def bitwise_and(context: Context, x: Tensor, y: Operand) -> Tensor:
    return _on_booleans(context, "logical_and", x, y)


@lowers("aten.bitwise_or.Tensor", "aten.bitwise_or.Scalar")
def bitwise_or(context: Context, x: Tensor, y: Operand) -> Tensor:
    return _on_booleans(context, "logical_or", x, y)


@lowers("aten.bitwise_xor.Tensor", "aten.bitwise_xor.Scalar")
def bitwise_xor(context: Context, x: Tensor, y: Operand) -> Tensor:
    return _on_booleans(context, "logical_xor", x, y)


@lowers("aten.bitwise_not.default")
def bitwise_not(context: Context, x: Tensor) -> Tensor:
    return _on_booleans(context, "logical_not", x)


def _on_booleans(context: Context, opcode: str, *operands: Operand) -> Tensor:
    if context.returned.dtype != torch.bool:
        raise context.error("bitwise operations on integers are not supported")
    return context.elementwise(opcode, *operands)


@lowers("aten._to_copy.default", "prims.convert_element_type.default")
def convert(context: Context, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return convert_between(context, x, context.dtype(0), context.returned.dtype)


def convert_between(context: Context, x: Tensor, before: torch.dtype, after: torch.dtype) -> Tensor:
    """Integers and booleans are numbers already; to an integer, a float is truncated."""
    if after == torch.bool:
        return x if before == torch.bool else context.elementwise("not_equal", x, 0.0)
    if before.is_floating_point and not after.is_floating_point:
        return context.elementwise("trunc", x)
    return context.convert(x, context.precision_of(after)) if after.is_floating_point else x
