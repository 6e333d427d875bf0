"""tf32: float32 products of a GPU whose operands keep 11 bits. They are there for whoever has asked torch for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from tqs_fast.capture import Program


def tf32_asked() -> bool:
    """Whether torch's switch allows it: `torch.set_float32_matmul_precision("high")`, or an equal of it."""
    matmul = torch.backends.cuda.matmul
    # from torch 2.9 on; there the older name raises once the newer was set
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else precision == "tf32"


def allowing_tf32(program: Program) -> Program:
    """`program`, whose linear layers may be computed so where they go to a library and their values are float32."""
    nodes = (replace(n, ints={**n.ints, "tf32": (1,)}) if n.kind == "linear" else n for n in program.nodes)
    return replace(program, nodes=tuple(nodes))
