"""Oracle of elementwise chains: what each operation computes, and a chain run instruction by instruction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special  # type: ignore[import-untyped]

Array = npt.NDArray[Any]

_erf = scipy.special.erf


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


# In the order of enum Opcode (csrc/backend/elementwise_code.h), after `constant`.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "negate": np.negative,
    "absolute": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "square_root": np.sqrt,
    "reciprocal_square_root": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "error_function": _erf,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _softplus,
    "relu": lambda x: np.maximum(x, 0),
    "logical_not": lambda x: x == 0,
    "is_nan": np.isnan,
    "is_finite": np.isfinite,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "remainder": np.mod,
    "floor_divide": np.floor_divide,
    "atan2": np.arctan2,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "where": lambda a, b, c: np.where(a != 0, b, c),
}
OPCODES = ("constant", *FUNCTIONS)


def elementwise(
    inputs: Sequence[Array], code: Sequence[int], values: Sequence[float], output_registers: Sequence[int]
) -> list[Array]:
    """Registers 0 ... are the inputs, of equal sizes; each instruction (opcode, out, a, b, c) writes another."""
    registers = dict(enumerate(inputs))
    sizes = inputs[0].shape if inputs else ()
    for number, (opcode, out, *arguments) in enumerate(np.reshape(code, (-1, 5)).tolist()):
        name = OPCODES[opcode]
        if name == "constant":
            registers[out] = np.full(sizes, values[number])
        else:
            function = FUNCTIONS[name]
            arity = 3 if name == "where" else 1 if opcode <= OPCODES.index("is_finite") else 2
            registers[out] = np.asarray(function(*(registers[a] for a in arguments[:arity])), np.float64)
    return [registers[number] for number in output_registers]
