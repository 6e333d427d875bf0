"""The native kernels: packed integer weights and the products with them.

The layout of a packed weight is stated in csrc/quant/format.h. Kernels run on the best instruction set of the processor;
`use_isa` or the environment variable TQS_ISA choose another. Results do not depend on the number of threads.
Torch is never imported here: a caller who passes a tensor has it.
"""

from __future__ import annotations

import builtins
import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    import torch

FORMATS = (2, 3, 4, 8)
GROUP_SIZES = (0, 32, 64, 128)
SEARCHES = ("minmax", "mse")

_FLOAT32, _BFLOAT16 = 0, 1

FloatArray = npt.NDArray[np.float32]
Activations = TypeVar("Activations", npt.NDArray[np.float32], "torch.Tensor")


class KernelRow(TypedDict):
    """One kernel of this build."""

    op: str
    format: str
    isa: str
    available: bool


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight matrix [N, K] at `bits` per code.

    Attributes:
        codes: uint8 [N, ceil(K * bits / 8)], each row a little-endian bitstream.
        scales: uint16 [N, G], bfloat16 bit patterns; G = ceil(K / group_size), or 1 for group_size 0.
        zeros: uint8 [N, G], or None for the symmetric form (zero point 2^(bits-1)).
        bits: 2, 3, 4 or 8.
        group_size: 32, 64, 128, or 0 for one scale per row.
        shape: (N, K).

    Raises:
        ArgumentError: an array has another shape or dtype than the format wants.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint16]
    zeros: npt.NDArray[np.uint8] | None
    bits: int
    group_size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        _check_format("PackedWeight", self.bits, self.group_size)
        _check_shape("PackedWeight", self.shape)
        rows, columns = self.shape
        groups = _groups(columns, self.group_size)
        self._settle("codes", np.dtype(np.uint8), (rows, _row_bytes(columns, self.bits)))
        self._settle("scales", np.dtype(np.uint16), (rows, groups))
        if self.zeros is not None:
            self._settle("zeros", np.dtype(np.uint8), (rows, groups))

    def _settle(self, name: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
        array = getattr(self, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ArgumentError(
                f"[PackedWeight] expected {name} to be a {dtype} array of shape {list(shape)} for a {self.bits}-bit "
                f"weight {list(self.shape)} with group_size {self.group_size}, got {got}"
            )
        object.__setattr__(self, name, np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"]))

    @cached_property
    def _view(self) -> core.PackedView:
        return core.PackedView(
            codes=self.codes.ctypes.data,
            scales=self.scales.ctypes.data,
            zeros=0 if self.zeros is None else self.zeros.ctypes.data,
            rows=self.shape[0],
            columns=self.shape[1],
            group_size=self.group_size,
            bits=self.bits,
        )

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[object, ...]]:
        return PackedWeight, (self.codes, self.scales, self.zeros, self.bits, self.group_size, self.shape)

    @property
    def symmetric(self) -> bool:
        return self.zeros is None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    def dequantize(self) -> FloatArray:
        """The values the codes stand for, float32 [N, K]; exact."""
        values = np.empty(self.shape, np.float32)
        core.dequantize(self._view, out=values.ctypes.data, stride=self.shape[1], threads=0)
        return values

    def prepack(self) -> PreparedWeight:
        """This weight rewritten for the instruction set in use: faster products, the same results to rounding."""
        return PreparedWeight(self)


class PreparedWeight:
    """A `PackedWeight` in the layout of one instruction set; made by `PackedWeight.prepack`, kept in memory only.

    Pickling or copying it carries the portable form and prepacks again where it arrives.
    """

    def __init__(self, packed: PackedWeight) -> None:
        self.packed = packed
        self._prepared = core.prepack(packed._view)

    def __reduce__(self) -> tuple[type[PreparedWeight], tuple[PackedWeight]]:
        return PreparedWeight, (self.packed,)

    @property
    def isa(self) -> str:
        return self._prepared.isa

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape


def pack(
    weight: npt.NDArray[Any] | torch.Tensor,
    *,
    bits: int,
    group_size: int = 128,
    symmetric: bool = True,
    search: str = "mse",
) -> PackedWeight:
    """Round `weight` to `bits`-bit codes with one scale per group.

    Args:
        weight: [N, ...] of at least two dimensions, any float dtype and strides; the matrix is [N, product of the rest].
            It is read as float32.
        bits: 2, 3, 4 or 8.
        group_size: 32, 64, 128, or 0 for one scale per row.
        symmetric: False stores a zero point per group.
        search: "minmax" takes the extremes, "mse" the scale of least squared error among a grid of candidates refined by
            least squares (csrc/quant/search.h); never worse than "minmax".

    Returns:
        the packed weight; the same bytes on every machine.

    Raises:
        ArgumentError: a wrong argument, or NaN or infinity in `weight` (its first coordinate is named).
    """
    _check_format("pack", bits, group_size)
    if search not in SEARCHES:
        raise ArgumentError(f"[pack] search must be one of {SEARCHES}, got {search!r}")
    matrix = _matrix(weight)
    rows, columns = matrix.shape
    groups = _groups(columns, group_size)
    codes = np.empty((rows, _row_bytes(columns, bits)), np.uint8)
    scales = np.empty((rows, groups), np.uint16)
    zeros = None if symmetric else np.empty((rows, groups), np.uint8)
    core.quantize(
        weights=matrix.ctypes.data,
        rows=rows,
        columns=columns,
        stride=columns,
        bits=bits,
        group_size=group_size,
        mse=search == "mse",
        codes=codes.ctypes.data,
        scales=scales.ctypes.data,
        zeros=0 if zeros is None else zeros.ctypes.data,
        threads=0,
    )
    return PackedWeight(codes, scales, zeros, bits, group_size, (rows, columns))


def qgemm(
    x: Activations,
    packed: PackedWeight | PreparedWeight,
    bias: Activations | None = None,
    *,
    threads: int | None = None,
) -> Activations:
    """y = x W^T + bias for a packed weight W [N, K].

    Args:
        x: [..., K], float32 numpy, or a float32 or bfloat16 torch tensor (CPU, or CUDA in a build with it). Rows may be
            strided.
        packed: the weight, or its prepacked form.
        bias: [N] or None, numpy or torch like x; added in float32.
        threads: None for the default. The result does not depend on it.

    Returns:
        [..., N] of the type and dtype of x. Sums are float32; bfloat16 is rounded once at the end.

    Raises:
        ArgumentError: a wrong shape or dtype, or a weight prepacked for another instruction set than the one in use.
        TqsError: a CUDA tensor in a build without CUDA.
    """
    weight = packed.packed if isinstance(packed, PreparedWeight) else packed
    rows, columns = weight.shape
    if threads is not None and threads < 1:
        raise ArgumentError(f"[qgemm] threads must be at least 1 or None, got {threads}")
    if len(x.shape) == 0 or x.shape[-1] != columns:
        raise ArgumentError(f"[qgemm] expected x of shape [..., {columns}], got {list(x.shape)}")
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ArgumentError(f"[qgemm] expected bias of shape [{rows}], got {list(bias.shape)}")
    if isinstance(x, np.ndarray):
        return _qgemm_numpy(x, packed, bias, threads or 0)
    if not _is_tensor(x):
        raise ArgumentError(f"[qgemm] x must be a numpy array or a torch tensor, got {type(x).__name__}")
    if x.is_cuda:
        return qgemm_cuda(x, *_on_device(weight, x), weight.bits, weight.group_size, bias)
    return _qgemm_tensor(x, packed, bias, threads or 0)


def _qgemm_numpy(x: FloatArray, packed: PackedWeight | PreparedWeight, bias: Any, threads: int) -> FloatArray:
    if x.dtype != np.float32:
        raise ArgumentError(f"[qgemm] a numpy x must be float32, got {x.dtype}; convert it with x.astype(np.float32)")
    columns, itemsize = x.shape[-1], x.itemsize
    flat = x.reshape(-1, columns)
    if flat.strides[1] != itemsize or flat.strides[0] % itemsize:
        flat = np.ascontiguousarray(flat)
    y = np.empty((flat.shape[0], packed.shape[0]), np.float32)
    wide_bias = _bias_array(bias)
    task = core.Activations(
        x=flat.ctypes.data,
        x_stride=flat.strides[0] // itemsize,
        rows=flat.shape[0],
        bias=0 if wide_bias is None else wide_bias.ctypes.data,
        y=y.ctypes.data,
        y_stride=y.shape[1],
    )
    _run(task, packed, _FLOAT32, threads)
    return y.reshape(*x.shape[:-1], packed.shape[0])


def _qgemm_tensor(x: torch.Tensor, packed: PackedWeight | PreparedWeight, bias: Any, threads: int) -> torch.Tensor:
    dtype = _tensor_dtype(x)
    flat = x.detach().reshape(-1, x.shape[-1])
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    y = flat.new_empty(flat.shape[0], packed.shape[0])
    wide_bias = _bias_array(bias)
    task = core.Activations(
        x=flat.data_ptr(),
        x_stride=flat.stride(0),
        rows=flat.shape[0],
        bias=0 if wide_bias is None else wide_bias.ctypes.data,
        y=y.data_ptr(),
        y_stride=y.shape[1],
    )
    _run(task, packed, dtype, threads)
    return y.reshape(*x.shape[:-1], packed.shape[0])


def _run(task: core.Activations, packed: PackedWeight | PreparedWeight, dtype: int, threads: int) -> None:
    if isinstance(packed, PreparedWeight):
        core.qgemm_prepared(task, packed._prepared, dtype=dtype, threads=threads)
    else:
        core.qgemm(task, packed._view, dtype=dtype, threads=threads)


def qgemm_cuda(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bits: int,
    group_size: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`qgemm` on one CUDA device, enqueued on torch's current stream of that device.

    Args:
        x: float32 or bfloat16 [..., K] on the device.
        codes: uint8 [N, row_bytes]; scales: int16 or uint16 [N, G] (bfloat16 bit patterns); zeros: uint8 [N, G] or None.
        bias: [N] or None.

    Raises:
        ArgumentError: a tensor on another device, or of a wrong shape or dtype.
        TqsError: the build has no CUDA.
    """
    import torch

    _check_format("qgemm", bits, group_size)
    dtype = _tensor_dtype(x)
    rows, columns = codes.shape[0], x.shape[-1]
    groups = _groups(columns, group_size)
    expected = {"codes": (codes, (rows, _row_bytes(columns, bits)), 1), "scales": (scales, (rows, groups), 2)}
    if zeros is not None:
        expected["zeros"] = (zeros, (rows, groups), 1)
    for name, (tensor, shape, itemsize) in expected.items():
        if tuple(tensor.shape) != shape or tensor.element_size() != itemsize or tensor.device != x.device:
            raise ArgumentError(
                f"[qgemm] expected {name} of {itemsize}-byte elements and shape {list(shape)} on {x.device}, "
                f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )
    codes, scales = codes.contiguous(), scales.contiguous()
    zeros = None if zeros is None else zeros.contiguous()
    flat = x.detach().reshape(-1, columns)
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    y = flat.new_empty(flat.shape[0], rows)
    wide_bias = None if bias is None else bias.detach().to(x.device, torch.float32).contiguous()
    view = core.PackedView(
        codes=codes.data_ptr(),
        scales=scales.data_ptr(),
        zeros=0 if zeros is None else zeros.data_ptr(),
        rows=rows,
        columns=columns,
        group_size=group_size,
        bits=bits,
    )
    task = core.Activations(
        x=flat.data_ptr(),
        x_stride=flat.stride(0),
        rows=flat.shape[0],
        bias=0 if wide_bias is None else wide_bias.data_ptr(),
        y=y.data_ptr(),
        y_stride=rows,
    )
    stream = torch.cuda.current_stream(x.device).cuda_stream if core.cuda_built() else 0
    core.qgemm_cuda(task, view, dtype=dtype, device=x.get_device(), stream=stream)
    return y.reshape(*x.shape[:-1], rows)


def list() -> builtins.list[KernelRow]:
    """Every kernel of this build and whether it can run here."""
    return [
        KernelRow(op=op, format=format_, isa=isa_, available=available)
        for op, format_, isa_, available in core.kernels()
    ]


def isa() -> str:
    """The instruction set in use: "scalar", "avx2" or "avx512".

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
    """What was built and what runs here, as JSON values: version, compiler, instruction sets, CUDA, threads, kernels."""
    return {
        "version": core.version,
        "compiler": core.compiler,
        "isa": isa(),
        "isas": dict(core.isas()),
        "cuda": {
            "built": core.cuda_built(),
            "architectures": [name for name in core.cuda_architectures().split(";") if name],
            "devices": core.cuda_device_count(),
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


def packed_bytes(shape: tuple[int, int], bits: int, group_size: int = 128, symmetric: bool = True) -> int:
    """Stored bytes of a weight [N, K]: codes, scales, and zero points unless symmetric.

    Raises:
        ArgumentError: the format or the shape does not exist.
    """
    _check_format("packed_bytes", bits, group_size)
    _check_shape("packed_bytes", shape)
    rows, columns = shape
    return rows * (_row_bytes(columns, bits) + _groups(columns, group_size) * (2 if symmetric else 3))


def effective_bits(shape: tuple[int, int], bits: int, group_size: int = 128, symmetric: bool = True) -> float:
    """Stored bits per weight, scales, zero points and padding counted."""
    return 8 * packed_bytes(shape, bits, group_size, symmetric) / math.prod(shape)


def _row_bytes(columns: int, bits: int) -> int:
    return -(-columns * bits // 8)


def _groups(columns: int, group_size: int) -> int:
    return 1 if group_size == 0 else -(-columns // group_size)


def _check_format(function: str, bits: int, group_size: int) -> None:
    if bits not in FORMATS:
        raise ArgumentError(f"[{function}] bits must be one of {FORMATS}, got {bits}")
    if group_size not in GROUP_SIZES:
        raise ArgumentError(f"[{function}] group_size must be one of {GROUP_SIZES} (0: per channel), got {group_size}")


def _check_shape(function: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ArgumentError(f"[{function}] expected a matrix of shape (N, K) with N, K >= 1, got {tuple(shape)}")


def _check_stream(function: str, count: int, seed: int, stream: int, offset: int) -> None:
    if count < 0:
        raise ArgumentError(f"[{function}] count must not be negative, got {count}")
    for name, value in (("seed", seed), ("stream", stream), ("offset", offset)):
        if not 0 <= value < 2**64:
            raise ArgumentError(f"[{function}] {name} must lie in [0, 2^64), got {value}")


def _is_tensor(value: object) -> bool:
    torch_module = sys.modules.get("torch")
    return torch_module is not None and isinstance(value, torch_module.Tensor)


def _tensor_dtype(x: torch.Tensor) -> int:
    name = str(x.dtype)
    if name not in ("torch.float32", "torch.bfloat16"):
        raise ArgumentError(f"[qgemm] x must be float32 or bfloat16, got {name}; convert it with x.to(torch.float32)")
    return _FLOAT32 if name == "torch.float32" else _BFLOAT16


def _bias_array(bias: Any) -> FloatArray | None:
    if bias is None:
        return None
    values = bias.detach().float().cpu().numpy() if _is_tensor(bias) else bias
    return np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def _on_device(weight: PackedWeight, x: torch.Tensor) -> tuple[Any, Any, Any]:
    import torch

    zeros = None if weight.zeros is None else torch.from_numpy(weight.zeros).to(x.device)
    scales = torch.from_numpy(weight.scales.view(np.int16)).to(x.device)
    return torch.from_numpy(weight.codes).to(x.device), scales, zeros


def _matrix(weight: npt.NDArray[Any] | torch.Tensor) -> FloatArray:
    if isinstance(weight, np.ndarray):
        values, floating = weight, np.issubdtype(weight.dtype, np.floating)
    elif _is_tensor(weight):
        floating = weight.is_floating_point()
        values = weight.detach().float().cpu().numpy() if floating else np.empty(0)
    else:
        raise ArgumentError(f"[pack] weight must be a numpy array or a torch tensor, got {type(weight).__name__}")
    if not floating:
        raise ArgumentError(f"[pack] weight must be floating point, got {weight.dtype}")
    if len(weight.shape) < 2 or 0 in weight.shape:
        raise ArgumentError(
            f"[pack] expected a non-empty weight of at least two dimensions [N, ...], got shape {list(weight.shape)}"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, which the kernel reports by coordinate
        return np.require(values.reshape(values.shape[0], -1), np.float32, ["C_CONTIGUOUS", "ALIGNED"])
