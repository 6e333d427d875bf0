"""Products with packed weights: numpy arrays, CPU tensors and CUDA tensors brought to the native call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tqs_fast._cuda import prepack_cuda, qgemm_cuda
from tqs_fast._formats import is_tensor, shape_text, thread_count
from tqs_fast._native import core
from tqs_fast._packing import FloatArray, PackedWeight, PreparedWeight
from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("float", "int8")

_FLOAT32, _BFLOAT16 = 0, 1  # DType in csrc/core/dtype.h

Activations = TypeVar("Activations", npt.NDArray[np.float32], "torch.Tensor")


def qgemm(
    x: Activations,
    packed: PackedWeight | PreparedWeight,
    bias: Activations | None = None,
    *,
    activation: str = "float",
    threads: int | None = None,
) -> Activations:
    """y = x W^T + bias for a packed weight W [N, K].

    Args:
        x: [..., K], float32 numpy, or a float32 or bfloat16 torch tensor (CPU, or CUDA in a build with it, where it may
            be float16, too, and the weight is copied there for each call: `qgemm_cuda` takes one that is there). Rows
            may be strided.
        packed: the weight, or its prepacked form.
        bias: [N] or None, numpy or torch like x; added in float32.
        activation: "float" multiplies x as it is; "int8" first rounds every row of x to 8 bits by its largest
            magnitude, which is several times faster and costs up to 1/254 of that magnitude in each element.
        threads: None for the default. The result does not depend on it.

    Returns:
        [..., N] of the type and dtype of x. Sums are float32 (of exact integers for "int8", where a row with NaN or
        infinity becomes NaN); bfloat16 is rounded once at the end.

    Raises:
        ArgumentError: a wrong shape or dtype, or a weight prepacked for another instruction set than the one in use.
        TqsError: a CUDA tensor in a build without CUDA.
    """
    weight = packed.packed if isinstance(packed, PreparedWeight) else packed
    rows, columns = weight.shape
    count = thread_count("qgemm", threads)
    if activation not in ACTIVATIONS:
        raise ArgumentError(f"[qgemm] activation must be one of {ACTIVATIONS}, got {activation!r}")
    int8 = activation == "int8"
    if not isinstance(x, np.ndarray) and not is_tensor(x):
        raise ArgumentError(f"[qgemm] x must be a numpy array or a torch tensor, got {type(x).__name__}")
    if len(x.shape) == 0 or x.shape[-1] != columns:
        raise ArgumentError(f"[qgemm] expected x of shape [..., {columns}], got {shape_text(x.shape)}")
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ArgumentError(f"[qgemm] expected bias of shape [{rows}], got {shape_text(bias.shape)}")
    if isinstance(x, np.ndarray):
        return _qgemm_numpy(x, packed, bias, int8, count)
    if x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"[qgemm] x must be on the CPU or a CUDA device, got {x.device}; move it with x.cpu()")
    if x.is_cuda:
        form, parts = (weight.bits, weight.group_size), _on_device(weight, x)
        return qgemm_cuda(x, *parts, *form, bias, panels=prepack_cuda(*parts, *form, columns), activation=activation)
    return _qgemm_tensor(x, packed, bias, int8, count)


def _qgemm_numpy(
    x: FloatArray, packed: PackedWeight | PreparedWeight, bias: Any, int8: bool, threads: int
) -> FloatArray:
    if x.dtype != np.float32:
        raise ArgumentError(f"[qgemm] a numpy x must be float32, got {x.dtype}; convert it with x.astype(np.float32)")
    columns, itemsize = x.shape[-1], x.itemsize
    flat = x.reshape(-1, columns)
    if flat.strides[1] != itemsize or flat.strides[0] % itemsize:
        flat = np.ascontiguousarray(flat)
    rows, outputs = flat.shape[0], packed.shape[0]
    y = np.empty((rows, outputs), np.float32)
    wide_bias = _bias_array(bias)
    bias_at = 0 if wide_bias is None else wide_bias.ctypes.data
    multiply, form = _kernel(packed)
    stride = flat.strides[0] // itemsize
    multiply(form, _FLOAT32, int8, threads, flat.ctypes.data, stride, rows, bias_at, y.ctypes.data, outputs)
    return y.reshape(*x.shape[:-1], packed.shape[0])


def _qgemm_tensor(
    x: torch.Tensor, packed: PackedWeight | PreparedWeight, bias: Any, int8: bool, threads: int
) -> torch.Tensor:
    dtype = _tensor_dtype(x)
    flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    rows, outputs = flat.shape[0], packed.shape[0]
    y = flat.new_empty((rows, outputs))
    wide_bias = _bias_array(bias)
    bias_at = 0 if wide_bias is None else wide_bias.ctypes.data
    multiply, form = _kernel(packed)
    multiply(form, dtype, int8, threads, flat.data_ptr(), flat.stride(0), rows, bias_at, y.data_ptr(), outputs)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], outputs)


def _kernel(packed: PackedWeight | PreparedWeight) -> tuple[Callable[..., None], core.PackedView | core.Prepared]:
    """The native call for this form of a weight, and the weight as it takes it."""
    if isinstance(packed, PreparedWeight):
        return core.qgemm_prepared, packed.native
    return core.qgemm, packed.view


def _tensor_dtype(x: torch.Tensor) -> int:
    name = str(x.dtype)
    if name not in ("torch.float32", "torch.bfloat16"):
        raise ArgumentError(f"[qgemm] x must be float32 or bfloat16, got {name}; convert it with x.to(torch.float32)")
    return _FLOAT32 if name == "torch.float32" else _BFLOAT16


def _bias_array(bias: Any) -> FloatArray | None:
    if bias is None:
        return None
    values = bias.detach().float().cpu().numpy() if is_tensor(bias) else bias
    return np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def _on_device(weight: PackedWeight, x: torch.Tensor) -> tuple[Any, Any, Any]:
    import torch

    zeros = None if weight.zeros is None else torch.from_numpy(weight.zeros).to(x.device)
    scales = torch.from_numpy(weight.scales.view(np.int16)).to(x.device)
    return torch.from_numpy(weight.codes).to(x.device), scales, zeros
