"""The native kernels as PyTorch operators: `attention` (attention.py), `qgemm` and `dequantize`.

qgemm and dequantize have fake kernels, and qgemm has derivatives of both modes in x and bias and a rule for vmap, so
they work under autograd, `torch.func.jvp`, `torch.compile` and `torch.export`. A packed weight [N, K] is three tensors
(layout: csrc/quant/format.h), all on the device of x, the CPU or (in a build with CUDA) a GPU:

    codes   uint8 [N, ceil(K*bits/8)]
    scales  int16 [N, G], bit patterns of bfloat16, G = ceil(K/group_size), or 1 when group_size is 0
    zeros   uint8 [N, G], or None for symmetric weights
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tqs_fast import _prepared, kernels
from tqs_fast._native import core
from tqs_fast.attention import attention
from tqs_fast.errors import ArgumentError

__all__ = ["attention", "dequantize", "qgemm"]

_KERNEL_DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # as csrc/bindings numbers them
_WEIGHT = "Tensor codes, Tensor scales, Tensor? zeros, int bits, int group_size, SymInt in_features"
torch.library.define(
    "tqs_fast::qgemm",
    f"(Tensor x, {_WEIGHT}, Tensor? bias, bool int8=False) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define("tqs_fast::dequantize", f"({_WEIGHT}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)

# The overloads, not the packets: resolving one costs a third of a small product.
_QGEMM, _DEQUANTIZE = torch.ops.tqs_fast.qgemm.default, torch.ops.tqs_fast.dequantize.default


def qgemm(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
    bias: Tensor | None = None,
    activation: str = "float",
) -> Tensor:
    """y = x @ W.T + bias with W the packed weight.

    Args:
        x: [..., K] of any float dtype and any strides. float32 and bfloat16 (on CUDA also float16) go to the kernel as
            they are; float16 is computed in float32 and cast back, float64 in float64 with the dequantized weight
            ("int8": in float32).
        codes, scales, zeros, bits, group_size, in_features: the weight [N, K] (see the module), K = in_features.
        bias: [N] of any float dtype, or None.
        activation: "float" multiplies x as it is; "int8" first rounds every row of x to 8 bits by its largest
            magnitude, as `kernels.qgemm` does.

    Returns:
        [..., N] in the dtype of x. The derivative is dx = dy @ W, dbias = sum of dy; the weight has none. It is the
        same for "int8": the derivative of the rounding, zero almost everywhere, is taken to be one (straight through).

    Raises:
        ArgumentError: shapes or dtypes that do not fit, tensors on different devices, or an unknown activation.
    """
    int8 = activation == "int8"
    if not int8 and activation != "float":
        raise ArgumentError(f"[qgemm] activation must be one of {kernels.ACTIVATIONS}, got {activation!r}")
    if x.dtype == torch.float64 and not int8:
        _check_x(x, in_features, codes.shape[0], bias)
        weight = dequantize(codes, scales, zeros, bits, group_size, in_features).double()
        return torch.nn.functional.linear(x, weight, None if bias is None else bias.double())
    # An operator of torch.library has no rule for forward mode, and would lose the tangent without a word.
    if forward_ad._current_level >= 0 and not torch.compiler.is_compiling():
        return _product(x, codes, scales, zeros, bits, group_size, in_features, bias, int8)
    return _QGEMM(x, codes, scales, zeros, bits, group_size, in_features, bias, int8)  # type: ignore[no-any-return]


def dequantize(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int
) -> Tensor:
    """The float32 matrix [N, K] that the packed weight stands for (see the module). Rows are independent."""
    return _DEQUANTIZE(codes, scales, zeros, bits, group_size, in_features)  # type: ignore[no-any-return]


def _view(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int
) -> core.PackedView:
    return core.PackedView(
        codes=codes.data_ptr(),
        scales=scales.data_ptr(),
        zeros=0 if zeros is None else zeros.data_ptr(),
        rows=codes.shape[0],
        columns=in_features,
        group_size=group_size,
        bits=bits,
    )


def _check(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int, name: str
) -> None:
    if bits not in (2, 3, 4, 8):
        raise ArgumentError(f"[{name}] bits must be 2, 3, 4 or 8, got {bits}")
    if group_size not in (0, 32, 64, 128):
        raise ArgumentError(f"[{name}] group_size must be 32, 64, 128 or 0 (per channel), got {group_size}")
    if codes.dtype != torch.uint8 or scales.dtype != torch.int16 or (zeros is not None and zeros.dtype != torch.uint8):
        raise ArgumentError(
            f"[{name}] expected codes uint8, scales int16 (bfloat16 bit patterns) and zeros uint8 or None"
        )
    row_bytes = (in_features * bits + 7) // 8
    groups = (in_features + group_size - 1) // group_size if group_size else 1
    if codes.ndim != 2 or codes.shape[1] != row_bytes:
        raise ArgumentError(f"[{name}] expected codes of shape [N, {row_bytes}], got {list(codes.shape)}")
    rows = codes.shape[0]
    for part, tensor in (("scales", scales), ("zeros", zeros)):
        if tensor is not None and tuple(tensor.shape) != (rows, groups):
            raise ArgumentError(f"[{name}] expected {part} of shape [{rows}, {groups}], got {list(tensor.shape)}")


def _check_x(x: Tensor, in_features: int, rows: int, bias: Tensor | None) -> None:
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"[qgemm] expected x of a float dtype, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != in_features:
        raise ArgumentError(f"[qgemm] expected x of shape [..., {in_features}], got {list(x.shape)}")
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ArgumentError(f"[qgemm] expected bias of shape [{rows}], got {list(bias.shape)}")


def _qgemm_cpu(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
    bias: Tensor | None,
    int8: bool = False,
) -> Tensor:
    form = (bits, group_size, in_features)
    kept = _prepared.find(codes, scales, zeros, form)  # of tensors that were checked before
    if kept is None:
        _check(codes, scales, zeros, *form, "qgemm")
        # Named, so that the memory behind every address lives until the kernel returns.
        codes, scales, zeros = codes.contiguous(), scales.contiguous(), None if zeros is None else zeros.contiguous()
        kept = _prepared.keep(codes, scales, zeros, form, lambda: _view(codes, scales, zeros, *form))
    _check_x(x, in_features, codes.shape[0], bias)
    inputs = x if x.dtype in _KERNEL_DTYPES else x.float()
    inputs = inputs if x.ndim == 2 else inputs.reshape(-1, in_features)
    if inputs.stride(1) != 1:
        inputs = inputs.contiguous()
    wide_bias = None if bias is None else bias.float().contiguous()
    y = inputs.new_empty((inputs.shape[0], codes.shape[0]))
    if y.numel():
        arrays = (
            inputs.data_ptr(), inputs.stride(0), inputs.shape[0],
            0 if wide_bias is None else wide_bias.data_ptr(), y.data_ptr(), y.shape[1],
        )  # fmt: skip
        dtype = _KERNEL_DTYPES[inputs.dtype]
        if kept is None:
            core.qgemm(_view(codes, scales, zeros, *form), dtype, int8, 0, *arrays)
        else:
            core.qgemm_prepared(kept, dtype, int8, 0, *arrays)
    y = y if y.dtype == x.dtype else y.to(x.dtype)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], codes.shape[0])


def _qgemm_cuda(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
    bias: Tensor | None,
    int8: bool = False,
) -> Tensor:
    form = (bits, group_size, in_features)
    panels = _prepared.find_cuda(codes, scales, zeros, form)  # of tensors that were checked before
    if panels is None:
        _check(codes, scales, zeros, *form, "qgemm")
        panels = kernels.prepack_cuda(codes, scales, zeros, *form)
        if not torch.cuda.is_current_stream_capturing():  # there, it belongs to the graph
            _prepared.keep_cuda(codes, scales, zeros, form, panels)
    _check_x(x, in_features, codes.shape[0], bias)
    inputs = x.float() if x.dtype == torch.float64 else x
    activation = "int8" if int8 else "float"
    y = kernels.qgemm_cuda(inputs, codes, scales, zeros, bits, group_size, bias, panels=panels, activation=activation)
    return y.to(x.dtype)


def _dequantize_cpu(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int
) -> Tensor:
    _check(codes, scales, zeros, bits, group_size, in_features, "dequantize")
    codes, scales, zeros = codes.contiguous(), scales.contiguous(), None if zeros is None else zeros.contiguous()
    values = torch.empty((codes.shape[0], in_features))
    if values.numel():
        weight = _view(codes, scales, zeros, bits, group_size, in_features)
        core.dequantize(weight, out=values.data_ptr(), stride=in_features, threads=0)
    return values


def _dequantize_cuda(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int
) -> Tensor:
    return kernels.dequantize_cuda(codes, scales, zeros, bits, group_size, in_features)


def _qgemm_fake(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    in_features: int,
    bias: Tensor | None,
    int8: bool = False,
) -> Tensor:
    _check(codes, scales, zeros, bits, group_size, in_features, "qgemm")
    _check_x(x, in_features, codes.shape[0], bias)
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


def _dequantize_fake(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, in_features: int
) -> Tensor:
    _check(codes, scales, zeros, bits, group_size, in_features, "dequantize")
    return scales.new_empty((codes.shape[0], in_features), dtype=torch.float32)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, codes, scales, zeros, bits, group_size, in_features, bias = inputs[:8]
    ctx.save_for_backward(codes, scales, zeros)
    ctx.format = (bits, group_size, in_features)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.x_dtype, ctx.leading = inputs[0].dtype, inputs[0].shape[:-1]


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx = dbias = None
    dtype = torch.promote_types(dy.dtype, torch.float32)
    if ctx.needs_input_grad[0]:
        dx = (dy.to(dtype) @ dequantize(*ctx.saved_tensors, *ctx.format).to(dtype)).to(dy.dtype)
    if ctx.needs_input_grad[7]:
        dbias = dy.to(dtype).reshape(-1, dy.shape[-1]).sum(0).to(ctx.bias_dtype)
    return dx, None, None, None, None, None, None, dbias, None


class _Product(torch.autograd.Function):
    """The operator with its forward-mode rule."""

    generate_vmap_rule = True  # from that of the operator

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _QGEMM(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save_for_backward(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:4])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        dx, dbias, rows = tangents[0], tangents[7], ctx.saved_tensors[0].shape[0]
        if dx is None:
            return dbias.to(ctx.x_dtype).expand(*ctx.leading, rows)
        dy = _product(dx, *ctx.saved_tensors, *ctx.format, None, False)
        return dy if dbias is None else dy + dbias.to(dy.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (None,) * 9 if gradients[0] is None else _backward(ctx, gradients[0])


def _product(*arguments: Any) -> Tensor:
    return _Product.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]


def _qgemm_vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    """More rows of the same weight; a mapped bias is added to its rows afterwards."""
    x, *weight, bias = arguments[:8]
    int8 = arguments[8:]  # left out where it is False
    if any(dim is not None for dim in in_dims[1:4]):
        raise ArgumentError("[qgemm] a packed weight cannot be mapped by vmap; call it once for each weight")
    x = x.unsqueeze(0).expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    if bias is None or in_dims[7] is None:
        return _QGEMM(x, *weight, bias, *int8), 0
    own = bias.movedim(in_dims[7], 0).to(x.dtype)
    return _QGEMM(x, *weight, None, *int8) + own.reshape(len(own), *[1] * (x.ndim - 2), -1), 0


torch.library.impl("tqs_fast::qgemm", "cpu", _qgemm_cpu)
torch.library.impl("tqs_fast::dequantize", "cpu", _dequantize_cpu)
torch.library.impl("tqs_fast::qgemm", "cuda", _qgemm_cuda)
torch.library.impl("tqs_fast::dequantize", "cuda", _dequantize_cuda)
torch.library.register_fake("tqs_fast::qgemm", _qgemm_fake)
torch.library.register_fake("tqs_fast::dequantize", _dequantize_fake)
torch.library.register_autograd("tqs_fast::qgemm", _backward, setup_context=_save_for_backward)
torch.library.register_vmap("tqs_fast::qgemm", _qgemm_vmap)
