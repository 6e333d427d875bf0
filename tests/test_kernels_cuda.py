"""The CUDA products, on a machine that has a device and a build with CUDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cases.formats import FORMATS, SHAPES
from checking import check_product
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

pytestmark = pytest.mark.skipif(
    not core.cuda_built() or core.cuda_device_count() == 0 or not torch.cuda.is_available(),
    reason="needs a CUDA device and a build with CUDA",
)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_against_the_oracle(form, dtype):
    generator = np.random.default_rng(0)
    for m, n, k in SHAPES:
        weight = generator.standard_normal((n, k)).astype(np.float32)
        packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
        x = torch.from_numpy(generator.standard_normal((m, k + 3)).astype(np.float32)).to(dtype)[:, :k]
        bias = torch.from_numpy(generator.standard_normal(n).astype(np.float32))
        y = kernels.qgemm(x.cuda(), packed, bias.cuda())
        assert y.dtype == dtype
        assert y.is_cuda
        check_product(
            y.float().cpu().numpy(),
            x.float().numpy(),
            packed.dequantize(),
            bias.numpy(),
            bfloat16=dtype == torch.bfloat16,
        )


def test_weights_elsewhere_are_refused():
    packed = kernels.pack(np.ones((4, 8), np.float32), bits=4)
    x = torch.ones(1, 8, device="cuda")
    with pytest.raises(ArgumentError, match="expected codes"):
        kernels.qgemm_cuda(
            x, torch.from_numpy(packed.codes), torch.from_numpy(packed.scales.view(np.int16)), None, 4, 128
        )
