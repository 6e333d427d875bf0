"""What torch has: weights packed for it, and dense ones. Intra-op threads are those of `torch.set_num_threads`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch

from qgemm.contestant import Bind, Bound, UnsupportedError, rotating
from qgemm.weight import BLOCKS, Weight, turned


def _binding(prepared: list[Callable[[torch.Tensor], torch.Tensor]], dtype: torch.dtype) -> Bind:
    def bind(x: torch.Tensor) -> Bound:
        given = x.to(dtype)
        return rotating([partial(multiply, given) for multiply in prepared])

    return bind


def int4pack(weight: Weight, copies: int, threads: int) -> Bind:
    """`_weight_int4pack_mm_for_cpu`, bfloat16; in float32 it would fall back to scalar code."""
    block = weight.block()
    if block not in BLOCKS or weight.codes.shape[1] % block:
        raise UnsupportedError(f"K must be a multiple of a group size among {BLOCKS}")
    scales = torch.from_numpy(weight.by_block(weight.scales))
    zeros = torch.from_numpy(weight.by_block(weight.zeros)).float()
    middle = torch.stack([scales, (8 - zeros) * scales], dim=-1)  # the op's zero is what code 8 stands for
    codes = torch.from_numpy(weight.codes).int()

    def prepare(rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.roll(rows, 0), 1)
        scale = middle.roll(rows, 0).transpose(0, 1).to(torch.bfloat16).contiguous()
        return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, block, scale)

    return _binding([prepare(rows) for rows in range(copies)], torch.bfloat16)


def int8pack(weight: Weight, copies: int, threads: int) -> Bind:
    """`_weight_int8pack_mm`, bfloat16."""
    if weight.codes.shape[1] % 16:
        raise UnsupportedError("K must be a multiple of 16: it reads beyond the end of other rows")
    codes, scales = weight.signed(), weight.scales[:, 0]

    def prepare(rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
        w, scale = torch.from_numpy(turned(codes, rows)), torch.from_numpy(turned(scales, rows)).bfloat16()
        return lambda x: torch.ops.aten._weight_int8pack_mm(x, w, scale)

    return _binding([prepare(rows) for rows in range(copies)], torch.bfloat16)


def linear_dynamic(weight: Weight, copies: int, threads: int, engine: str) -> Bind:
    """`quantized::linear_dynamic` as `torch.ao.nn.quantized.dynamic.Linear` calls it, without the module."""
    codes, scales = weight.signed(), weight.scales[:, 0].astype("float64")
    zeros = torch.zeros(len(codes), dtype=torch.int64)

    def prepare(rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
        parts = torch.from_numpy(turned(codes, rows)), torch.from_numpy(turned(scales, rows))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors are deprecated, and still torch's fastest int8
            quantized = torch._make_per_channel_quantized_tensor(*parts, zeros, 0)
            packed = torch.ops.quantized.linear_prepack(quantized, None)
        return lambda x: torch.ops.quantized.linear_dynamic(x, packed, True)

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine  # of the packed weight; calls follow it
    try:
        return _binding([prepare(rows) for rows in range(copies)], torch.float32)
    finally:
        torch.backends.quantized.engine = before


def dense(weight: Weight, copies: int, threads: int, dtype: torch.dtype) -> Bind:
    """`torch.mm` by the dequantized weight into an output that exists."""
    w = torch.from_numpy(weight.packed.dequantize()).to(dtype)
    turned_weights = [w.roll(rows, 0).T for rows in range(copies)]

    def bind(x: torch.Tensor) -> Bound:
        given, y = x.to(dtype), torch.empty(len(x), len(w), dtype=dtype)
        return rotating([partial(torch.mm, given, transposed, out=y) for transposed in turned_weights])

    return bind
