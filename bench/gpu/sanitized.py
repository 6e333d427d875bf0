"""One small product through every kind of kernel, for compute-sanitizer (bench/gpu.sh)."""

from __future__ import annotations

import numpy as np
import torch

from tqs_fast import kernels

for bits, group_size in ((4, 128), (4, 32), (8, 0)):
    packed = kernels.pack(np.random.default_rng(0).standard_normal((72, 1032)).astype(np.float32), bits=bits,
                          group_size=group_size, symmetric=False)  # fmt: skip
    for m in (3, 20, 70, 300):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for activation in kernels.ACTIVATIONS:
                x = torch.randn(m, 1032, device="cuda").to(dtype)
                kernels.qgemm(x, packed, torch.zeros(72, device="cuda"), activation=activation)
torch.cuda.synchronize()
