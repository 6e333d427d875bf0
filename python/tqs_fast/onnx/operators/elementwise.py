"""Operators on elements, broadcast."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn import functional as F

from tqs_fast.onnx.extra import require
from tqs_fast.onnx.operators.registry import OPERATORS, Call, Operator, Value, operator

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsInf": torch.isinf,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": lambda x: x / (1 + x.abs()),
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
VARIADIC: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Max": torch.maximum,
    "Mean": torch.add,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda call, x: function(x)


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    return lambda call, x, y: function(call.tensor(x), call.tensor(y))


def _variadic(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def run(call: Call, *inputs: Value) -> torch.Tensor:
        total = functools.reduce(function, [call.tensor(x) for x in inputs])
        return total / len(inputs) if call.name == "Mean" else total

    return run


OPERATORS.update({("", name): _unary(function) for name, function in UNARY.items()})
OPERATORS.update({("", name): _binary(function) for name, function in BINARY.items()})
OPERATORS.update({("", name): _variadic(function) for name, function in VARIADIC.items()})


@operator("Div")
def divide(call: Call, x: Value, y: Value) -> torch.Tensor:
    a, b = call.tensor(x), call.tensor(y)
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def power(call: Call, x: Value, exponent: Value) -> torch.Tensor:
    base = call.tensor(x)
    if not isinstance(exponent, torch.Tensor) and exponent.size == 1:
        return torch.pow(base, float(exponent.reshape(-1)[0])).to(base.dtype)
    return torch.pow(base, call.tensor(exponent)).to(base.dtype)


@operator("Mod")
def modulo(call: Call, x: Value, y: Value) -> torch.Tensor:
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return function(call.tensor(x), call.tensor(y))


@operator("Where")
def where(call: Call, condition: Value, x: Value, y: Value) -> torch.Tensor:
    return torch.where(call.tensor(condition), call.tensor(x), call.tensor(y))


@operator("Cast", "CastLike")
def cast(call: Call, x: torch.Tensor, like: Value | None = None) -> torch.Tensor:
    if like is not None:
        return x.to(call.tensor(like).dtype)
    kind = require("onnx").helper.tensor_dtype_to_np_dtype(call.get("to"))
    dtype = getattr(torch, str(kind), None)
    if not isinstance(dtype, torch.dtype):
        raise call.refused(f"a cast to {kind} is not supported")
    return x.to(call.precision(dtype))


@operator("Identity", "Dropout")
def identity(call: Call, x: torch.Tensor, *_: Value | None) -> torch.Tensor:
    if call.outputs > 1:
        raise call.refused("a mask is not supported")
    return x


@operator("Clip")
def clip(call: Call, x: torch.Tensor, low: Value | None = None, high: Value | None = None) -> torch.Tensor:
    if low is not None:
        x = torch.maximum(x, call.tensor(low))
    return x if high is None else torch.minimum(x, call.tensor(high))


@operator("LeakyRelu")
def leaky_relu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("PRelu")
def prelu(call: Call, x: Value, slope: Value) -> torch.Tensor:
    y = call.tensor(x)
    return torch.where(y > 0, y, y * call.tensor(slope))


@operator("Elu")
def elu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.elu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: torch.Tensor) -> torch.Tensor:
    alpha, gamma = call.get("alpha", 1.6732632423543772), call.get("gamma", 1.0507009873554805)
    return torch.mul(F.elu(x, alpha), gamma)


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


@operator("Swish")
def swish(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@operator("QuickGelu", domain="com.microsoft")
def quick_gelu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("Gelu")
def gelu(call: Call, x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("Gelu", "BiasGelu", domain="com.microsoft")
def gelu_with_bias(call: Call, x: Value, bias: Value | None = None) -> torch.Tensor:
    return F.gelu(call.tensor(x) if bias is None else call.tensor(x) + call.tensor(bias))


@operator("FastGelu", domain="com.microsoft")
def fast_gelu(call: Call, x: Value, bias: Value | None = None) -> torch.Tensor:
    return F.gelu(call.tensor(x) if bias is None else call.tensor(x) + call.tensor(bias), approximate="tanh")
