"""The Python side of the CUDA products, on a GPU or an emulated one (torch_cuda.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cases.formats import Format
from checking import check_product, same_bits
from tqs_fast import _cuda, _prepared, kernels, ops
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)


class Counted:
    """How often the native module was called."""

    def __init__(self, monkeypatch):
        self.counts = dict.fromkeys(("prepack_cuda", "qgemm_cuda"), 0)
        for name in self.counts:
            monkeypatch.setattr(core, name, self.counting(name, getattr(core, name)))

    def counting(self, name, function):
        def call(*arguments):
            wanted = function(*arguments)
            self.counts[name] += not wanted  # a product that asks for a larger workspace is called again
            return wanted

        return call


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(_cuda, "_workspaces", {})
    return Counted(monkeypatch).counts


def drawn(form, m, n=40, k=264):
    generator = np.random.default_rng(m)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
    zeros = None if packed.zeros is None else torch.from_numpy(packed.zeros).cuda()
    parts = [torch.from_numpy(packed.codes).cuda(), torch.from_numpy(packed.scales.view(np.int16)).cuda(), zeros]
    x = torch.from_numpy(generator.standard_normal((m, k)).astype(np.float32)).cuda()
    return packed, parts, x, torch.from_numpy(generator.standard_normal(n).astype(np.float32)).cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", [Format(4, 128, True), Format(8, 0, False)], ids=str)
def test_the_operator(calls, form, dtype):
    """Any dtype, strided rows of any rank; the weight is prepacked once."""
    for m in (3, 12):
        packed, parts, x, bias = drawn(form, m)
        given = x.to(dtype).reshape(3, m // 3, 264)
        for wide in (given, torch.stack([given, given], -1)[..., 0]):
            y = ops._qgemm_cuda(wide, *parts, form.bits, form.group_size, 264, bias.to(dtype))
            assert y.dtype == dtype
            assert y.shape == (3, m // 3, 40)
            rows = given.float().reshape(m, 264).cpu().numpy()
            check_product(
                y.float().reshape(m, 40).cpu().numpy(), rows, packed.dequantize(),
                bias.to(dtype).float().cpu().numpy(), bfloat16=dtype == torch.bfloat16, float16=dtype == torch.float16,
            )  # fmt: skip
    assert calls["prepack_cuda"] == 2
    assert calls["qgemm_cuda"] == 4


def test_a_dequantized_weight_and_its_rows(calls):
    packed, parts, _, _ = drawn(Format(3, 64, False), 1)
    whole = ops._dequantize_cuda(*parts, 3, 64, 264)
    same_bits(whole.cpu().numpy(), packed.dequantize())
    order = torch.tensor([5, 0, 39]).cuda()
    rows = ops._dequantize_cuda(*(part[order] for part in parts), 3, 64, 264)
    same_bits(rows.cpu().numpy(), packed.dequantize()[order.cpu().numpy()])
    assert ops._dequantize_cuda(*(part[:0] for part in parts), 3, 64, 264).shape == (0, 264)
    with pytest.raises(ArgumentError, match=r"\[dequantize\] expected codes"):
        ops._dequantize_cuda(*parts, 4, 64, 264)


def test_int8_rows(calls):
    packed, parts, x, bias = drawn(Format(4, 64, False), 5)
    y = ops._qgemm_cuda(x, *parts, 4, 64, 264, bias, True)
    expected = kernels.qgemm(x.cpu().numpy(), packed, bias.cpu().numpy(), activation="int8")
    same_bits(y.cpu().numpy(), expected)


def test_changed_tensors_are_prepacked_again_and_the_cache_lets_go(calls):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    before = len(_prepared._entries)
    first = ops._qgemm_cuda(x.bfloat16(), *parts, 4, 128, 264, None)
    parts[0].zero_()
    assert not torch.equal(ops._qgemm_cuda(x.bfloat16(), *parts, 4, 128, 264, None), first)
    assert calls["prepack_cuda"] == 2
    assert len(_prepared._entries) == before + 1
    del parts[:]
    assert len(_prepared._entries) == before


def test_one_workspace_per_stream_that_grows(calls):
    sizes = []
    for m in (2, 40, 3):
        _, parts, x, _ = drawn(Format(4, 128, True), m)
        ops._qgemm_cuda(x, *parts, 4, 128, 264, None, True)
        sizes += [tensor.numel() for tensor in _cuda._workspaces.values()]
    assert sizes[0] < sizes[1] == sizes[2]
    assert sizes[1] > 40 * 384


def test_threads_share_no_workspace(calls):
    """Of the kernels of one product, those of another may come between."""
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    ops._qgemm_cuda(x, *parts, 4, 128, 264, None, True)
    with ThreadPoolExecutor() as others:
        others.submit(ops._qgemm_cuda, x, *parts, 4, 128, 264, None, True).result()
    first, second = _cuda._workspaces.values()
    assert first.data_ptr() != second.data_ptr()


def test_no_rows(calls):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    assert ops._qgemm_cuda(x[:0], *parts, 4, 128, 264, None).shape == (0, 40)


def test_what_is_refused(calls):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    with pytest.raises(ArgumentError, match=r"\[qgemm\] expected codes of 1-byte elements and shape \[40, 132\]"):
        kernels.qgemm_cuda(x, parts[0][:, 1:], *parts[1:], 4, 128)
    with pytest.raises(ArgumentError, match="expected panels of"):
        kernels.qgemm_cuda(x, *parts, 4, 128, panels=torch.zeros(8, dtype=torch.uint8).cuda())
    with pytest.raises(ArgumentError, match="x must be float32, bfloat16 or float16"):
        kernels.qgemm_cuda(x.double(), *parts, 4, 128)
