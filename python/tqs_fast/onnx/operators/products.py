"""Products of matrices and convolutions, also as ONNX Runtime fuses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.registry import Call, Value, operator

# what ONNX Runtime fuses into a product: name -> function of (y, further numbers)
ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Clip": lambda y, low, high: torch.clamp(y, low, high),
    "HardSigmoid": lambda y, alpha, beta: torch.clamp(alpha * y + beta, 0.0, 1.0),
    "LeakyRelu": F.leaky_relu,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}


@operator("MatMul")
def matmul(call: Call, a: Value, b: Value) -> torch.Tensor:
    return torch.matmul(call.tensor(a), call.tensor(b))


@operator("FusedMatMul", domain="com.microsoft")
def fused_matmul(call: Call, a: Value, b: Value) -> torch.Tensor:
    call.supports_only(transBatchA=0, transBatchB=0)
    left, right = call.tensor(a), call.tensor(b)
    y = torch.matmul(left.mT if call.get("transA", 0) else left, right.mT if call.get("transB", 0) else right)
    alpha = call.get("alpha", 1.0)
    return y if alpha == 1 else y * alpha


@operator("Gemm")
def gemm(call: Call, a: Value, b: Value, c: Value | None = None) -> torch.Tensor:
    left, right = call.tensor(a), call.tensor(b)
    y = torch.matmul(left.mT if call.get("transA", 0) else left, right.mT if call.get("transB", 0) else right)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    y = y if alpha == 1 else y * alpha
    if c is None or beta == 0:
        return y
    bias = call.tensor(c)
    return y + (bias if beta == 1 else bias * beta)


@operator("FusedGemm", domain="com.microsoft")
def fused_gemm(call: Call, a: Value, b: Value, c: Value | None = None) -> torch.Tensor:
    name = call.get("activation", "")
    numbers = [call.get(f"activation_{part}") for part in ("alpha", "beta") if call.get(f"activation_{part}")]
    return _activated(call, gemm(call, a, b, c), name, numbers)


@operator("Conv")
def convolution(call: Call, x: Value, weight: Value, bias: Value | None = None) -> torch.Tensor:
    signal, kernel = call.tensor(x), call.tensor(weight)
    spatial = signal.dim() - 2
    stride, apart = call.get("strides", [1] * spatial), call.get("dilations", [1] * spatial)
    signal, even = paddings(call, signal, list(kernel.shape[2:]), stride, apart)
    function: Callable[..., torch.Tensor] = {1: F.conv1d, 2: F.conv2d}.get(spatial, F.conv3d)
    own = None if bias is None else call.tensor(bias)
    return function(signal, kernel, own, stride, even, apart, call.get("group", 1))


@operator("FusedConv", domain="com.microsoft")
def fused_convolution(
    call: Call, x: Value, weight: Value, bias: Value | None = None, added: Value | None = None
) -> torch.Tensor:
    y = convolution(call, x, weight, bias)
    y = y if added is None else y + call.tensor(added)
    return _activated(call, y, call.get("activation", ""), call.get("activation_params", []))


@operator("Einsum")
def einsum(call: Call, *inputs: Value) -> torch.Tensor:
    return torch.einsum(call.get("equation"), *(call.tensor(x) for x in inputs))


def paddings(
    call: Call,
    x: torch.Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    apart: Sequence[int],
    *,
    value: float = 0.0,
) -> tuple[torch.Tensor, list[int]]:
    """x `[N, C, ...]`, padded already where the two ends of an axis differ, and the padding per axis that is left."""
    spatial, automatic = x.dim() - 2, call.get("auto_pad", "NOTSET")
    pads = list(call.get("pads", [0] * (2 * spatial)))
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        reach = [(n - 1) * d + 1 for n, d in zip(size, apart, strict=True)]
        outputs = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
        missing = [max(0, (m - 1) * s + r - n) for m, s, r, n in zip(outputs, stride, reach, x.shape[2:], strict=True)]
        short, long = [n // 2 for n in missing], [n - n // 2 for n in missing]
        pads = short + long if automatic == "SAME_UPPER" else long + short
    elif automatic == "VALID":
        pads = [0] * (2 * spatial)
    begin, end = pads[:spatial], pads[spatial:]
    if begin == end:
        return x, begin
    flat = [n for axis in reversed(range(spatial)) for n in (begin[axis], end[axis])]
    return F.pad(x, flat, value=value), [0] * spatial


def _activated(call: Call, y: torch.Tensor, name: str, numbers: Sequence[float]) -> torch.Tensor:
    if not name:
        return y
    if name not in ACTIVATIONS:
        raise call.refused(f"the activation {name} is not supported")
    return ACTIVATIONS[name](y, *numbers)
