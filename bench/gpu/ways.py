"""Products of rows with one weight [N, K] on a GPU: ours, and those of torch, gemlite and humming-kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpu.clock import CALLS
from tqs_fast import kernels

ROTATED = 256 * 2**20  # bytes of weights that calls go through in turn: several times any L2 cache

Call = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Weight:
    """A weight on the device, packed by us, and as bfloat16."""

    packed: kernels.PackedWeight
    dense: torch.Tensor

    @staticmethod
    def on_device(packed: kernels.PackedWeight) -> Weight:
        return Weight(packed, torch.from_numpy(packed.dequantize()).cuda().bfloat16())

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Codes, scales and zero points as they are stored."""
        zeros = None if self.packed.zeros is None else torch.from_numpy(self.packed.zeros).cuda()
        return torch.from_numpy(self.packed.codes).cuda(), self.scales().view(torch.int16), zeros

    def codes(self) -> torch.Tensor:
        """uint8 [N, K], one code each."""
        bits = self.packed.bits
        rows = torch.from_numpy(self.packed.codes).cuda()
        if bits == 8:
            return rows
        return torch.stack([rows & 15, rows >> 4], -1).reshape(rows.shape[0], -1)

    def scales(self) -> torch.Tensor:
        """bfloat16 [N, G]."""
        return torch.from_numpy(self.packed.scales.view(np.int16)).cuda().view(torch.bfloat16)

    def zeros(self) -> torch.Tensor:
        """bfloat16 [N, G]: the codes that stand for 0."""
        if self.packed.zeros is None:
            return torch.full_like(self.scales(), 2.0 ** (self.packed.bits - 1))
        return torch.from_numpy(self.packed.zeros).cuda().bfloat16()


def copies_of(nbytes: int) -> int:
    """As many as a replay goes through, or fewer that take `ROTATED` bytes."""
    return max(2, min(CALLS, -(-ROTATED // nbytes)))


def ours(weight: Weight, activation: str) -> Call:
    packed, parts = weight.packed, weight.parts()
    form = (packed.bits, packed.group_size)
    panels = [kernels.prepack_cuda(*parts, *form, packed.shape[1]) for _ in range(copies_of(packed.nbytes))]
    return lambda x, i: kernels.qgemm_cuda(x, *parts, *form, panels=panels[i % len(panels)], activation=activation)


def cublas_bfloat16(weight: Weight) -> Call:
    copies = [weight.dense.clone() for _ in range(copies_of(2 * weight.dense.numel()))]
    return lambda x, i: x @ copies[i % len(copies)].T


def torch_int4(weight: Weight) -> Call:
    """torch._weight_int4pack_mm; its values are (u - 8) * scale + zero."""
    codes, scales = weight.codes(), weight.scales()
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
    both = torch.stack([scales.T, ((8 - weight.zeros()) * scales).T], -1).contiguous()
    copies = [torch.ops.aten._convert_weight_to_int4pack(pairs, 8) for _ in range(copies_of(pairs.numel()))]
    group = weight.packed.group_size
    return lambda x, i: torch.ops.aten._weight_int4pack_mm(x, copies[i % len(copies)], group, both)


def torch_int8(weight: Weight) -> Call:
    """torch._int_mm between rounding the rows and scaling the sums, each compiled into one kernel."""
    torch._dynamo.config.recompile_limit = 64  # for every size of every weight; beyond 8 they would not be compiled
    codes = (weight.codes().int() - 128).to(torch.int8)
    scales = weight.scales().float().T  # [1, N]
    copies = [codes.clone() for _ in range(copies_of(codes.numel()))]

    @torch.compile(dynamic=False)
    def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        most = x.float().abs().amax(-1, keepdim=True)
        return (x.float() * (127 / most)).round().to(torch.int8), most / 127

    @torch.compile(dynamic=False)
    def scaled(sums: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        return (sums.float() * scales * most).bfloat16()

    def call(x: torch.Tensor, i: int) -> torch.Tensor:
        rows, most = rounded(x)
        return scaled(torch._int_mm(rows, copies[i % len(copies)].T), most)

    return call


def gemlite(weight: Weight) -> Call:
    from gemlite.helper import A16Wn

    packed = weight.packed
    group = packed.group_size or packed.shape[1]
    layers = [
        A16Wn(dtype=torch.bfloat16).from_weights(weight.codes(), weight.scales(), weight.zeros(), packed.bits, group)
        for _ in range(copies_of(packed.nbytes))
    ]
    return lambda x, i: layers[i % len(layers)](x)


def humming(weight: Weight) -> Call:
    """With its own rounding of the same weight: times compare, values do not."""
    from humming.layer import HummingLayer

    n, k = weight.packed.shape
    layers = []
    for _ in range(copies_of(weight.packed.nbytes)):
        config = {"dtype": f"int{weight.packed.bits}", "group_size": weight.packed.group_size}
        layer = HummingLayer(shape_n=n, shape_k=k, weight_config=config, torch_dtype=torch.bfloat16).cuda()
        layer.load_from_unquantized(weight.dense)
        layer.transform()
        layers.append(layer)
    return lambda x, i: layers[i % len(layers)](x)


def ways(weight: Weight, peers: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """(the contestants, why others are not among them)."""
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(weight, "float"),
        "ours, int8 rows": lambda: ours(weight, "int8"),
        "cuBLAS bf16": lambda: cublas_bfloat16(weight),
    }
    if weight.packed.bits == 4 and weight.packed.group_size:
        makers["torch int4"] = lambda: torch_int4(weight)
    if weight.packed.bits == 8 and weight.packed.group_size == 0 and weight.packed.symmetric:
        makers["torch int8"] = lambda: torch_int8(weight)
    if peers:
        makers |= {"gemlite": lambda: gemlite(weight), "humming": lambda: humming(weight)}
    found, failed = {}, {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except Exception as error:  # not installed, or not for this format
            if name.startswith("ours"):
                raise
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    return found, failed
