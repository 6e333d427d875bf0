"""The native kernels: packed integer weights and the products with them.

The layout of a packed weight is stated in csrc/quant/format.h. Kernels run on the best instruction set of the
processor; `use_isa` or the environment variable TQS_ISA choose another. Results do not depend on the number of threads.
Torch is never imported here: a caller who passes a tensor has it.
"""

from __future__ import annotations

import builtins
from typing import Any, TypedDict

import numpy as np

from tqs_fast._cuda import dequantize_cuda, prepack_cuda, qgemm_cuda
from tqs_fast._formats import FORMATS, GROUP_SIZES, effective_bits, packed_bytes
from tqs_fast._native import core
from tqs_fast._packing import SEARCHES, FloatArray, PackedWeight, PreparedWeight, pack, round_to_grid
from tqs_fast._product import ACTIVATIONS, qgemm
from tqs_fast.errors import ArgumentError

__all__ = [
    "ACTIVATIONS",
    "FORMATS",
    "GROUP_SIZES",
    "SEARCHES",
    "KernelRow",
    "PackedWeight",
    "PreparedWeight",
    "dequantize_cuda",
    "effective_bits",
    "info",
    "isa",
    "list",
    "normal",
    "pack",
    "packed_bytes",
    "prepack_cuda",
    "qgemm",
    "qgemm_cuda",
    "round_to_grid",
    "uniform",
    "use_isa",
]


class KernelRow(TypedDict):
    """One kernel of this build."""

    op: str
    format: str
    isa: str
    available: bool


def list() -> builtins.list[KernelRow]:
    """Every kernel of this build and whether it can run here."""
    return [
        KernelRow(op=op, format=format_, isa=isa_, available=available)
        for op, format_, isa_, available in core.kernels()
    ]


def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avx512" or "neon".

    Raises:
        ArgumentError: TQS_ISA names one that is unknown or cannot run here.
    """
    return core.isa()


def use_isa(name: str | None) -> None:
    """Use one instruction set for the whole process; None returns to TQS_ISA or the best of this processor.

    Raises:
        ArgumentError: the name is unknown or cannot run here; the message lists what can.
    """
    core.use_isa(name or "")


def info() -> dict[str, Any]:
    """What was built and what runs here, as JSON values."""
    return {
        "version": core.version,
        "compiler": core.compiler,
        "isa": isa(),
        "isas": dict(core.isas()),
        "cuda": {
            "built": core.cuda_built(),
            "architectures": [name for name in core.cuda_architectures().split(",") if name],
            "devices": core.cuda_device_count(),
            "cublas_lt": core.cuda_library() or None,
        },
        "threads": core.default_threads(),
        "kernels": list(),
    }


def normal(count: int, *, seed: int, stream: int = 0, offset: int = 0) -> FloatArray:
    """Standard normal numbers offset ... offset + count - 1 of a counter-based stream, float32 [count].

    Element i is a function of (seed, stream, i) alone; the generator is stated in csrc/core/rng.h.

    Raises:
        ArgumentError: a negative count, or seed, stream or offset outside 64 bits.
    """
    _check_stream("normal", count, seed, stream, offset)
    out = np.empty(count, np.float32)
    core.fill_normal(out=out.ctypes.data, count=count, seed=seed, stream=stream, offset=offset)
    return out


def uniform(count: int, *, seed: int, stream: int = 0, offset: int = 0) -> FloatArray:
    """As `normal`, uniform on the open interval (0, 1)."""
    _check_stream("uniform", count, seed, stream, offset)
    out = np.empty(count, np.float32)
    core.fill_uniform(out=out.ctypes.data, count=count, seed=seed, stream=stream, offset=offset)
    return out


def _check_stream(function: str, count: int, seed: int, stream: int, offset: int) -> None:
    if count < 0:
        raise ArgumentError(f"[{function}] count must not be negative, got {count}")
    for name, value in (("seed", seed), ("stream", stream), ("offset", offset)):
        if not 0 <= value < 2**64:
            raise ArgumentError(f"[{function}] {name} must lie in [0, 2^64), got {value}")
