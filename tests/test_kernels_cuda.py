"""The CUDA products, on a machine that has a device and a build with CUDA. (tests/test_cuda_emulated.py needs neither.)

No GPU has run these yet.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from cases.formats import FORMATS, SHAPES, Format
from checking import check_product, same_bits
from packing import plan_for
from tqs_fast import kernels, ops
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

pytestmark = pytest.mark.skipif(
    not core.cuda_built() or core.cuda_device_count() == 0 or not torch.cuda.is_available(),
    reason="needs a CUDA device and a build with CUDA",
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# [M, N, K] beyond what the emulator is given: K split among blocks, many blocks, rows of x in several blocks; the last
# has more tiles than any device has multiprocessors, which is when float32 rows take them.
LARGE = ((1, 1024, 4096), (7, 300, 8192), (16, 528, 4096), (130, 1040, 2056), (300, 256, 1024), (1040, 1000, 302))
# Tensor cores cut sums where float32 rounds them (csrc/backend/kernel_table.h).
CUT = 3


def drawn(seed, m, n, k, form, dtype):
    """(x, the packed weight, bias)."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
    x = torch.from_numpy(generator.standard_normal((m, k)).astype(np.float32)).to(dtype)
    return x, packed, torch.from_numpy(generator.standard_normal(n).astype(np.float32))


def parts_of(packed):
    zeros = None if packed.zeros is None else torch.from_numpy(packed.zeros).cuda()
    return torch.from_numpy(packed.codes).cuda(), torch.from_numpy(packed.scales.view(np.int16)).cuda(), zeros


def poison():
    """Fill what torch's allocator hands out next with NaN."""
    blocks = [torch.full((2**22,), float("nan"), device="cuda") for _ in range(4)]
    del blocks


def multiply(x, packed, bias, activation="float"):
    """On the device rows of x lie in a wider tensor, with NaN between them: a part of one on the host would arrive
    without what is between."""
    wide = nn.functional.pad(x, (0, 8), value=float("nan")).cuda()
    parts, form = parts_of(packed), (packed.bits, packed.group_size)
    panels = kernels.prepack_cuda(*parts, *form, packed.shape[1])
    poison()
    return kernels.qgemm_cuda(wide[:, : x.shape[1]], *parts, *form, bias.cuda(), panels=panels, activation=activation)


def check(y, x, packed, bias):
    """As `check_product`, with the bound of the tensor cores: a third of the distance is what float32 would have."""
    exact = x.double().numpy() @ packed.dequantize().astype(np.float64).T + bias.double().numpy()
    got = y.double().cpu().numpy()
    own = exact + (got - exact) / CUT if y.dtype == torch.float32 else got
    check_product(
        own, x.float().numpy(), packed.dequantize(), bias.numpy(), bfloat16=y.dtype == torch.bfloat16,
        float16=y.dtype == torch.float16,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_against_float64(form, dtype):
    for m, n, k in SHAPES + LARGE:
        x, packed, bias = drawn(m, m, n, k, form, dtype)
        y = multiply(x, packed, bias)
        assert y.dtype == dtype
        check(y, x, packed, bias)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_dequantized_weights_have_the_bits_of_the_cpu(form):
    for _, n, k in SHAPES + LARGE:
        _, packed, _ = drawn(n, 1, n, k, form, torch.float32)
        poison()
        y = ops.dequantize(*parts_of(packed), form.bits, form.group_size, k)
        same_bits(y.cpu().numpy(), packed.dequantize())


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_rows_have_the_bits_of_the_cpu(form, dtype):
    for m, n, k in SHAPES + LARGE:
        x, packed, bias = drawn(m, m, n, k, form, dtype)
        expected = kernels.qgemm(x.float().numpy(), packed, bias.numpy(), activation="int8")
        y = multiply(x, packed, bias, "int8")
        same_bits(y.float().cpu().numpy(), torch.from_numpy(expected).to(dtype).float().numpy())


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize("form", [Format(4, 128, True), Format(8, 0, False)], ids=str)
def test_every_number_of_rows(form, activation):
    for m in range(1, 65):
        x, packed, bias = drawn(m, m, 272, 1544, form, torch.bfloat16)
        y = multiply(x, packed, bias, activation)
        if activation == "float":
            check(y, x, packed, bias)
        else:
            expected = kernels.qgemm(x.float().numpy(), packed, bias.numpy(), activation="int8")
            same_bits(y.float().cpu().numpy(), torch.from_numpy(expected).bfloat16().float().numpy())


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_float32_rows_have_the_same_bits_whatever_their_number(form):
    x, packed, bias = drawn(2, 1040, 1000, 300, form, torch.float32)
    many = multiply(x, packed, bias)
    for rows in (slice(1), slice(3, 12), slice(200, 264)):
        assert torch.equal(multiply(x[rows], packed, bias), many[rows])


@pytest.mark.parametrize("m", [1, 8, 33, 300])
def test_the_same_bits_from_run_to_run(m):
    x, packed, bias = drawn(0, m, 96, 8192, Format(4, 32, False), torch.float16)  # few outputs: K is split
    first = multiply(x, packed, bias)
    for _ in range(20):
        assert torch.equal(multiply(x, packed, bias), first)


def test_a_module_moves_to_the_device_and_into_a_graph():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 192), nn.ReLU(), nn.Linear(192, 64)).eval()
    small = tqs.quantize(module, plan_for(module, [4], tqs.Quantizer(64))).cuda().bfloat16()
    x = torch.randn(5, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        eager = small(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = small(x)
        captured.zero_()
        graph.replay()
    assert torch.equal(captured, eager)


def test_the_operator_follows_changed_tensors():
    x, packed, _ = drawn(1, 4, 32, 256, Format(4, 128, True), torch.bfloat16)
    codes, scales, zeros = parts_of(packed)
    first = ops.qgemm(x.cuda(), codes, scales, zeros, 4, 128, 256)
    codes.zero_()
    assert not torch.equal(ops.qgemm(x.cuda(), codes, scales, zeros, 4, 128, 256), first)


def test_what_is_refused():
    packed = kernels.pack(np.ones((4, 8), np.float32), bits=4)
    x, parts = torch.ones(1, 8, device="cuda"), parts_of(packed)
    with pytest.raises(ArgumentError, match="expected codes"):
        kernels.qgemm_cuda(
            x, torch.from_numpy(packed.codes), torch.from_numpy(packed.scales.view(np.int16)), None, 4, 128
        )
    with pytest.raises(ArgumentError, match="expected panels of"):
        kernels.qgemm_cuda(x, *parts, 4, 128, panels=torch.zeros(8, dtype=torch.uint8, device="cuda"))
    with pytest.raises(ArgumentError, match="int8 activations on CUDA want a prepacked weight"):
        kernels.qgemm_cuda(x, *parts, 4, 128, activation="int8")
