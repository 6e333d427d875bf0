"""A small product, attention and rollout through every kind of kernel, for compute-sanitizer (bench/gpu.sh)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tqs_fast as tqs
from gpu.forecasters import forecaster
from tqs_fast import kernels, ops


def products() -> None:
    generator = np.random.default_rng(0)
    for bits, group_size in ((4, 128), (4, 32), (8, 0)):
        values = generator.standard_normal((72, 1032)).astype(np.float32)
        packed = kernels.pack(values, bits=bits, group_size=group_size, symmetric=False)
        for m in (3, 20, 70, 300):
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                for activation in kernels.ACTIVATIONS:
                    x = torch.randn(m, 1032, device="cuda").to(dtype)
                    kernels.qgemm(x, packed, torch.zeros(72, device="cuda"), activation=activation)
        scales, zeros = torch.from_numpy(packed.scales.view(np.int16)), torch.from_numpy(packed.zeros)
        ops.dequantize(torch.from_numpy(packed.codes).cuda(), scales.cuda(), zeros.cuda(), bits, group_size, 1032)


def attention() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for queries, depth in ((3, 64), (150, 64), (150, 128)):
            shapes = ((queries, depth), (700, depth), (700, depth))
            primal = [torch.randn(2, *shape, device="cuda").to(dtype) for shape in shapes]
            tangents = [torch.randn(3, 2, *shape, device="cuda").to(dtype) for shape in shapes]
            torch.ops.tqs_fast.attention_tangents(*primal, None, *tangents, None, depth**-0.5, True, 700 - queries)


def rollouts() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        system = forecaster(width=128, layers=1, context=64, device="cuda", dtype=dtype)
        state, tangents = torch.randn(2, 64, 1).to(dtype), torch.randn(3, 2, 64, 1).to(dtype)
        tqs.rollout(system, state, horizon=3, tangents=tangents, engine="native")
    system = forecaster(width=128, layers=1, context=64, device="cuda")
    tqs.score(system, horizon=2, initial=tqs.Contexts(torch.randn(2, 64, 1)), method=tqs.Residual(bits=(4,)))


products()
attention()
rollouts()
torch.cuda.synchronize()
