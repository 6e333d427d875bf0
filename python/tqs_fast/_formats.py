"""Arithmetic of the packed weight format (csrc/quant/format.h): sizes and checks, no native call."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from tqs_fast.errors import ArgumentError

FORMATS = (2, 3, 4, 8)
GROUP_SIZES = (0, 32, 64, 128)


def row_bytes(columns: int, bits: int) -> int:
    return -(-columns * bits // 8)


def group_count(columns: int, group_size: int) -> int:
    return 1 if group_size == 0 else -(-columns // group_size)


def check_format(function: str, bits: int, group_size: int) -> None:
    if bits not in FORMATS:
        raise ArgumentError(f"[{function}] bits must be one of {FORMATS}, got {bits}")
    if group_size not in GROUP_SIZES:
        raise ArgumentError(f"[{function}] group_size must be one of {GROUP_SIZES} (0: per channel), got {group_size}")


def check_shape(function: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ArgumentError(f"[{function}] expected a matrix of shape (N, K) with N, K >= 1, got {tuple(shape)}")


def thread_count(function: str, threads: int | None) -> int:
    """`threads` as the native calls take it: 0 is the default."""
    if threads is not None and threads < 1:
        raise ArgumentError(f"[{function}] threads must be at least 1 or None, got {threads}")
    return threads or 0


def packed_bytes(shape: tuple[int, int], bits: int, group_size: int = 128, symmetric: bool = True) -> int:
    """Stored bytes of a weight [N, K]: codes, scales, and zero points unless symmetric.

    Raises:
        ArgumentError: the format or the shape does not exist.
    """
    check_format("packed_bytes", bits, group_size)
    check_shape("packed_bytes", shape)
    rows, columns = shape
    return rows * (row_bytes(columns, bits) + group_count(columns, group_size) * (2 if symmetric else 3))


def effective_bits(shape: tuple[int, int], bits: int, group_size: int = 128, symmetric: bool = True) -> float:
    """Stored bits per weight, scales, zero points and padding counted."""
    return 8 * packed_bytes(shape, bits, group_size, symmetric) / math.prod(shape)


def shape_text(shape: Iterable[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch: whoever has a tensor has imported it."""
    torch_module = sys.modules.get("torch")
    return torch_module is not None and isinstance(value, torch_module.Tensor)
