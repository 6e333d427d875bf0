"""The Python side of the CUDA products without a GPU: CPU tensors take the place of CUDA ones, the emulator of the
native module's CUDA calls."""

from __future__ import annotations

import contextlib
import ctypes
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import emulated
from cases.formats import Format
from checking import check_product, same_bits
from tqs_fast import _cuda, _prepared, kernels, ops
from tqs_fast.errors import ArgumentError

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")


class Core:
    """The CUDA calls of `_core`, counted."""

    def __init__(self):
        self.emulator = emulated.emulator()
        self.prepacked = self.products = 0

    @staticmethod
    def PackedView(**values):  # noqa: N802
        order = ("codes", "scales", "zeros", "rows", "columns", "group_size", "bits")
        return emulated.Weight(*(values[name] for name in order))

    def cuda_prepacked_bytes(self, view):
        return self.emulator.library.emulated_weight_bytes(ctypes.byref(view))

    def prepack_cuda(self, view, out, device, stream):
        self.prepacked += 1
        assert self.emulator.library.emulated_prepack(ctypes.byref(view), ctypes.c_void_p(out)) is None

    def dequantize_cuda(self, view, out, device, stream):
        assert self.emulator.library.emulated_dequantize(ctypes.byref(view), ctypes.c_void_p(out)) is None

    def qgemm_cuda(
        self, view, panels, dtype, int8, workspace, size, device, stream, x, x_stride, rows, bias, y, y_stride
    ):
        task = emulated.Task(x, x_stride, rows, bias or None, y, y_stride, dtype, int(int8))
        device = emulated.Device()
        plan = self.emulator.library.emulated_plan(ctypes.byref(view), ctypes.byref(task), ctypes.byref(device))
        if size < plan.workspace:
            return plan.workspace
        self.products += 1
        said = self.emulator.library.emulated_multiply(
            ctypes.byref(view), ctypes.c_void_p(panels), ctypes.byref(task), ctypes.byref(device),
            ctypes.c_void_p(workspace),
        )  # fmt: skip
        assert said is None, said
        return 0


@pytest.fixture
def core(monkeypatch):
    core = Core()
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(_cuda, "core", core)
    monkeypatch.setattr(_cuda, "_workspaces", {})
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return core


def drawn(form, m, n=40, k=264):
    generator = np.random.default_rng(m)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
    parts = [torch.from_numpy(packed.codes), torch.from_numpy(packed.scales.view(np.int16)), None]
    if packed.zeros is not None:
        parts[2] = torch.from_numpy(packed.zeros)
    x = torch.from_numpy(generator.standard_normal((m, k)).astype(np.float32))
    return packed, parts, x, torch.from_numpy(generator.standard_normal(n).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", [Format(4, 128, True), Format(8, 0, False)], ids=str)
def test_the_operator(core, form, dtype):
    """Any dtype, strided rows of any rank; the weight is prepacked once."""
    for m in (3, 12):
        packed, parts, x, bias = drawn(form, m)
        given = x.to(dtype).reshape(3, m // 3, 264)
        for wide in (given, torch.stack([given, given], -1)[..., 0]):
            y = ops._qgemm_cuda(wide, *parts, form.bits, form.group_size, 264, bias.to(dtype))
            assert y.dtype == dtype
            assert y.shape == (3, m // 3, 40)
            check_product(
                y.float().reshape(m, 40).numpy(), given.float().reshape(m, 264).numpy(), packed.dequantize(),
                bias.to(dtype).float().numpy(), bfloat16=dtype == torch.bfloat16, float16=dtype == torch.float16,
            )  # fmt: skip
    assert core.prepacked == 2
    assert core.products == 4


def test_a_dequantized_weight_and_its_rows(core):
    packed, parts, _, _ = drawn(Format(3, 64, False), 1)
    whole = ops._dequantize_cuda(*parts, 3, 64, 264)
    same_bits(whole.numpy(), packed.dequantize())
    order = torch.tensor([5, 0, 39])
    rows = ops._dequantize_cuda(*(part[order] for part in parts), 3, 64, 264)
    same_bits(rows.numpy(), packed.dequantize()[order.numpy()])
    assert ops._dequantize_cuda(*(part[:0] for part in parts), 3, 64, 264).shape == (0, 264)
    with pytest.raises(ArgumentError, match=r"\[dequantize\] expected codes"):
        ops._dequantize_cuda(*parts, 4, 64, 264)


def test_int8_rows(core):
    packed, parts, x, bias = drawn(Format(4, 64, False), 5)
    y = ops._qgemm_cuda(x, *parts, 4, 64, 264, bias, True)
    same_bits(y.numpy(), kernels.qgemm(x.numpy(), packed, bias.numpy(), activation="int8"))


def test_changed_tensors_are_prepacked_again_and_the_cache_lets_go(core):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    before = len(_prepared._entries)
    first = ops._qgemm_cuda(x.bfloat16(), *parts, 4, 128, 264, None)
    parts[0].zero_()
    assert not torch.equal(ops._qgemm_cuda(x.bfloat16(), *parts, 4, 128, 264, None), first)
    assert core.prepacked == 2
    assert len(_prepared._entries) == before + 1
    del parts[:]
    assert len(_prepared._entries) == before


def test_one_workspace_per_stream_that_grows(core):
    for m in (2, 40, 3):
        _, parts, x, _ = drawn(Format(4, 128, True), m)
        ops._qgemm_cuda(x, *parts, 4, 128, 264, None, True)
    (size,) = [tensor.numel() for tensor in _cuda._workspaces.values()]
    assert size > 40 * 384


def test_threads_share_no_workspace(core):
    """Of the kernels of one product, those of another may come between."""
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    ops._qgemm_cuda(x, *parts, 4, 128, 264, None, True)
    with ThreadPoolExecutor() as others:
        others.submit(ops._qgemm_cuda, x, *parts, 4, 128, 264, None, True).result()
    first, second = _cuda._workspaces.values()
    assert first.data_ptr() != second.data_ptr()


def test_no_rows(core):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    assert ops._qgemm_cuda(x[:0], *parts, 4, 128, 264, None).shape == (0, 40)


def test_what_is_refused(core):
    _, parts, x, _ = drawn(Format(4, 128, True), 2)
    with pytest.raises(ArgumentError, match=r"\[qgemm\] expected codes of 1-byte elements and shape \[40, 132\]"):
        kernels.qgemm_cuda(x, parts[0][:, 1:], *parts[1:], 4, 128)
    with pytest.raises(ArgumentError, match="expected panels of"):
        kernels.qgemm_cuda(x, *parts, 4, 128, panels=torch.zeros(8, dtype=torch.uint8))
    with pytest.raises(ArgumentError, match="x must be float32, bfloat16 or float16"):
        kernels.qgemm_cuda(x.double(), *parts, 4, 128)
