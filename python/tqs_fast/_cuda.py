"""Products with packed weights on CUDA devices: CUDA tensors brought to the native call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tqs_fast._formats import check_format, group_count, row_bytes, shape_text
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    import torch

_DTYPES = {"torch.float32": 0, "torch.bfloat16": 1, "torch.float16": 2}  # DType in csrc/core/dtype.h

_COUNTERS = 4 * 4096  # bytes: kCounters in csrc/cuda/plan.h

# By thread, device and stream: a thread's products on one stream follow one another, so one workspace serves them all;
# those of two threads come between each other's kernels. It grows to the largest that was asked for, and torch's
# allocator gives a smaller one back in the order of the stream.
_workspaces: dict[tuple[int, int, int], torch.Tensor] = {}


def qgemm_cuda(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bits: int,
    group_size: int,
    bias: torch.Tensor | None = None,
    *,
    panels: torch.Tensor | None = None,
    activation: str = "float",
) -> torch.Tensor:
    """`qgemm` on one CUDA device, enqueued on torch's current stream of that device.

    Args:
        x: float32, bfloat16 or float16 [..., K] on the device.
        codes: uint8 [N, row_bytes].
        scales: int16 or uint16 [N, G], bfloat16 bit patterns.
        zeros: uint8 [N, G] or None.
        bias: [N] or None.
        panels: what `prepack_cuda` made of the weight. Without it (and for float32) a simple kernel multiplies.
        activation: "float", or "int8", which needs `panels`.

    Raises:
        ArgumentError: a tensor on another device, or of a wrong shape or dtype; "int8" without panels, or for a shape
            that it does not take (one scale per channel and more than 32768 inputs).
        TqsError: the build has no CUDA.
    """
    import torch

    dtype = _DTYPES.get(str(x.dtype))
    if dtype is None:
        raise ArgumentError(
            f"[qgemm] x must be float32, bfloat16 or float16 on CUDA, got {x.dtype}; convert it with x.float()"
        )
    rows, columns = codes.shape[0], x.shape[-1]
    # Named, so that the memory behind every address lives until the call returns.
    codes, scales, zeros = _checked("qgemm", codes, scales, zeros, bits, group_size, columns, x.device)
    if panels is not None and (panels.device != x.device or panels.dtype != torch.uint8 or not panels.is_contiguous()):
        raise ArgumentError(
            f"[qgemm] panels must be what prepack_cuda made on {x.device}, got {panels.dtype} on {panels.device}"
        )
    flat = x.detach().reshape(-1, columns)
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    y = flat.new_empty(flat.shape[0], rows)
    wide_bias = None if bias is None else bias.detach().to(x.device, torch.float32).contiguous()
    view = _view(codes, scales, zeros, bits, group_size, columns)
    if panels is not None and panels.numel() != core.cuda_prepacked_bytes(view):
        raise ArgumentError(
            f"[qgemm] expected panels of {core.cuda_prepacked_bytes(view)} bytes, got {panels.numel()}; call "
            "prepack_cuda with the tensors of this weight"
        )
    at, int8 = 0 if panels is None else panels.data_ptr(), activation == "int8"
    bias_at = 0 if wide_bias is None else wide_bias.data_ptr()
    product = (flat.data_ptr(), flat.stride(0), flat.shape[0], bias_at, y.data_ptr(), rows)
    with torch.cuda.device(x.device):
        stream, work, wanted = torch.cuda.current_stream(x.device).cuda_stream, None, 0
        while wanted or work is None:
            work = _workspace(x.device, stream, wanted)
            where = (work.data_ptr(), work.numel(), x.get_device(), stream)
            wanted = core.qgemm_cuda(view, at, dtype, int8, *where, *product)
    return y.reshape(*x.shape[:-1], rows)


def dequantize_cuda(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bits: int,
    group_size: int,
    columns: int,
) -> torch.Tensor:
    """The float32 matrix [N, columns] that the weight stands for, on the device of `codes`, enqueued on torch's current
    stream of it; the bits of the CPU. Arguments and errors as for `qgemm_cuda`."""
    import torch

    codes, scales, zeros = _checked("dequantize", codes, scales, zeros, bits, group_size, columns, codes.device)
    values = torch.empty((codes.shape[0], columns), device=codes.device)
    if values.numel():
        view = _view(codes, scales, zeros, bits, group_size, columns)
        with torch.cuda.device(codes.device):
            stream = torch.cuda.current_stream(codes.device).cuda_stream
            core.dequantize_cuda(view, values.data_ptr(), codes.get_device(), stream)
    return values


def prepack_cuda(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bits: int,
    group_size: int,
    columns: int,
) -> torch.Tensor:
    """The weight [N, columns] as the kernels of the GPU read it: uint8, opaque, on the device of `codes`.

    It is as large as the packed weight (2 and 3 bits: as one of 4), padded to 16 rows and 128 inputs, belongs to this
    version of the library and is never stored. Arguments and errors as for `qgemm_cuda`.
    """
    import torch

    codes, scales, zeros = _checked("prepack", codes, scales, zeros, bits, group_size, columns, codes.device)
    view = _view(codes, scales, zeros, bits, group_size, columns)
    panels = torch.empty(core.cuda_prepacked_bytes(view), dtype=torch.uint8, device=codes.device)
    with torch.cuda.device(codes.device):
        stream = torch.cuda.current_stream(codes.device)
        core.prepack_cuda(view, panels.data_ptr(), codes.get_device(), stream.cuda_stream)
        if not torch.cuda.is_current_stream_capturing():
            stream.synchronize()  # other streams may use it at once
    return panels


def _workspace(device: torch.device, stream: int, size: int) -> torch.Tensor:
    """At least `size` bytes, those of the counters zero."""
    import torch

    if torch.cuda.is_current_stream_capturing():
        # Of the graph, which may be replayed on any stream: each replay zeroes the counters.
        own = torch.empty(size, dtype=torch.uint8, device=device)
        own[:_COUNTERS].zero_()
        return own
    key = (threading.get_ident(), device.index, stream)
    found = _workspaces.get(key)
    if found is None or found.numel() < size:
        found = _workspaces[key] = torch.zeros(size, dtype=torch.uint8, device=device)
    return found


def _checked(
    function: str,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bits: int,
    group_size: int,
    columns: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The parts of a weight, contiguous."""
    check_format(function, bits, group_size)
    rows, groups = codes.shape[0], group_count(columns, group_size)
    expected = {"codes": (codes, (rows, row_bytes(columns, bits)), 1), "scales": (scales, (rows, groups), 2)}
    if zeros is not None:
        expected["zeros"] = (zeros, (rows, groups), 1)
    for name, (tensor, shape, itemsize) in expected.items():
        if tuple(tensor.shape) != shape or tensor.element_size() != itemsize or tensor.device != device:
            raise ArgumentError(
                f"[{function}] expected {name} of {itemsize}-byte elements and shape {shape_text(shape)} on {device}, "
                f"got {tensor.dtype} {shape_text(tensor.shape)} on {tensor.device}"
            )
    return codes.contiguous(), scales.contiguous(), None if zeros is None else zeros.contiguous()


def _view(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int, group_size: int, columns: int
) -> core.PackedView:
    return core.PackedView(
        codes=codes.data_ptr(),
        scales=scales.data_ptr(),
        zeros=0 if zeros is None else zeros.data_ptr(),
        rows=codes.shape[0],
        columns=columns,
        group_size=group_size,
        bits=bits,
    )
