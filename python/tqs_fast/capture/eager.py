"""Operations as torch functions: what becomes of those on constants alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tqs_fast.capture.program import PRECISIONS, computed_in

OPCODES: dict[str, Callable[..., torch.Tensor]] = {
    "cast": lambda x: x,
    "negate": torch.neg,
    "absolute": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "square_root": torch.sqrt,
    "reciprocal_square_root": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "error_function": torch.erf,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": F.relu,
    "logical_not": torch.logical_not,
    "is_nan": torch.isnan,
    "is_finite": torch.isfinite,
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.true_divide,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "remainder": torch.remainder,
    "floor_divide": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "atan2": torch.atan2,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "where": lambda a, b, c: torch.where(a != 0, b, c),
}


def elementwise(opcode: str, sizes: tuple[int, ...], precision: str, *operands: Any) -> torch.Tensor:
    """One opcode over constants and numbers, broadcast to `sizes`; rounded once."""
    dtype = PRECISIONS[computed_in(precision)]
    given = [torch.as_tensor(operand, dtype=dtype) for operand in operands]
    return OPCODES[opcode](*given).to(PRECISIONS[precision]).expand(sizes)


def permute(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    return tensor.permute(order)


def reshape(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    return tensor.reshape(sizes)


def expand(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    return tensor.expand(sizes)


def cut(tensor: torch.Tensor, axis: int, start: int, length: int, step: int) -> torch.Tensor:
    index = [slice(None)] * tensor.dim()
    index[axis] = slice(start, start + (length - 1) * step + 1 if length else start, step)
    return tensor[tuple(index)]


def windows(tensor: torch.Tensor, axis: int, size: int, step: int) -> torch.Tensor:
    return tensor.unfold(axis, size, step)


def concatenate(axis: int, *tensors: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensors, dim=axis)
