"""Products with activations rounded to int8: exact integers, the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cases.formats import FORMATS, SHAPES
from checking import same_bits
from tqs_fast import kernels
from tqs_fast.errors import ArgumentError
from tqs_fast.reference import quantization as reference

ISAS = sorted(
    {
        row["isa"]
        for row in kernels.list()
        if row["op"] == "qgemm_float32_int8" and row["available"] and row["isa"] != "cuda"
    }
)
ONE = 0x3F80  # bfloat16
U = 2.0**-24


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def packed_weight(codes, form, scales=None, zeros=None):
    n, k = codes.shape
    groups = -(-k // form.group_size) if form.group_size else 1
    return kernels.PackedWeight(
        reference.pack_codes(codes, form.bits),
        np.full((n, groups), ONE, np.uint16) if scales is None else scales,
        zeros,
        form.bits,
        form.group_size,
        (n, k),
    )


@pytest.mark.parametrize("isa", ISAS)
def test_threads_that_share_a_block_of_rows(isa):
    """So many inputs that threads share the rounding of 64 rows, in parts that are no whole blocks."""
    kernels.use_isa(isa)
    generator = np.random.default_rng(5)
    packed = kernels.pack(generator.standard_normal((5, 4100)).astype(np.float32), bits=4)
    x = generator.standard_normal((64, 4100)).astype(np.float32)
    whole = kernels.qgemm(x, packed, activation="int8", threads=1)
    for threads in (3, 5, 7):
        same_bits(kernels.qgemm(x, packed, activation="int8", threads=threads), whole)
    same_bits(np.concatenate([kernels.qgemm(row[None], packed, activation="int8") for row in x]), whole)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_whole_numbers_are_multiplied_exactly(isa, form):
    """Scales of one and rows whose largest magnitude is 127: nothing is rounded, and what overflows shows."""
    kernels.use_isa(isa)
    generator = np.random.default_rng(1)
    top = 2**form.bits - 1
    for m, n, k in (*SHAPES, (13, 70, 300)):
        groups = -(-k // form.group_size) if form.group_size else 1
        zeros = None if form.symmetric else generator.integers(0, top + 1, (n, groups)).astype(np.uint8)
        random = generator.integers(0, top + 1, (n, k))
        ends = np.where(np.arange(k) % 2, top, 0) * np.ones((n, 1), int)
        for codes in (random, np.full((n, k), top), np.zeros((n, k), int), ends):
            x = generator.integers(-127, 128, (m, k))
            x[np.arange(m), generator.integers(k, size=m)] = generator.choice([-127, 127], m)
            x[0] = np.where(np.arange(k) % 2, 127, -127)
            x[-1] = 127
            packed = packed_weight(codes, form, zeros=zeros)
            expected = x @ packed.dequantize().astype(np.int64).T
            for weight in (packed, packed.prepack()):
                y = kernels.qgemm(x.astype(np.float32), weight, activation="int8")
                same_bits(y, expected.astype(np.float32))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_against_the_rounded_rows(form):
    """With the rows rounded as the reference says, what is left is the rounding of a sum over spans."""
    generator = np.random.default_rng(2)
    for m, n, k in (*SHAPES, (25, 65, 500)):
        x = (generator.standard_normal((m, k)) * np.exp2(generator.integers(-6, 7, (m, k)))).astype(np.float32)
        weight = generator.standard_normal((n, k)).astype(np.float32)
        packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
        bias = generator.standard_normal(n).astype(np.float32)
        codes, scales = reference.quantize_rows(x)
        values = packed.dequantize().astype(np.float64)
        expected = reference.qgemm(codes * scales[:, None], values, bias)
        size = np.abs(codes * scales[:, None]) @ np.abs(values).T + np.abs(bias)
        spans = -(-k // form.group_size) if form.group_size else 1
        results = []
        for isa in ISAS:
            kernels.use_isa(isa)
            y = kernels.qgemm(x, packed, bias, activation="int8")
            assert (np.abs(y - expected) <= (spans + 4) * U * size).all()
            results.append(y)
            wide = kernels.qgemm(torch.from_numpy(x).bfloat16(), packed, torch.from_numpy(bias), activation="int8")
            again = kernels.qgemm(torch.from_numpy(x).bfloat16().float().numpy(), packed, bias, activation="int8")
            assert torch.equal(wide, torch.from_numpy(again).bfloat16())
        for y in results[1:]:
            same_bits(y, results[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_result_depends_on_its_row_and_column_alone(isa, bits):
    kernels.use_isa(isa)
    generator = np.random.default_rng(3)
    x = generator.standard_normal((29, 190)).astype(np.float32)
    packed = kernels.pack(generator.standard_normal((101, 190)).astype(np.float32), bits=bits, group_size=64)
    whole = kernels.qgemm(x, packed, threads=1, activation="int8")
    for threads in (2, 3, None):
        same_bits(kernels.qgemm(x, packed, threads=threads, activation="int8"), whole)
    for some in (slice(0, 1), slice(7, 9), slice(3, 28)):
        same_bits(kernels.qgemm(x[some], packed, activation="int8"), whole[some])
    part = kernels.PackedWeight(packed.codes[37:60], packed.scales[37:60], None, bits, 64, (23, 190))
    same_bits(kernels.qgemm(x, part, activation="int8"), whole[:, 37:60].copy())


def test_longer_rows_than_an_integer_sum_may_have():
    """Per channel, sums are cut into spans; at the largest codes and inputs each almost fills 31 bits."""
    form = FORMATS[0]._replace(bits=8, group_size=0, symmetric=False)
    k = 2 * 32768 + 5
    packed = packed_weight(np.full((3, k), 255), form, zeros=np.zeros((3, 1), np.uint8))
    x = np.full((2, k), 127.0, np.float32)
    for isa in ISAS:
        kernels.use_isa(isa)
        y = kernels.qgemm(x, packed, activation="int8")
        assert (np.abs(y - 127.0 * 255.0 * k) <= 4 * U * y).all()


def test_rows_of_nothing_and_rows_that_are_not_finite():
    generator = np.random.default_rng(4)
    packed = kernels.pack(generator.standard_normal((40, 50)).astype(np.float32), bits=4, group_size=32)
    bias = generator.standard_normal(40).astype(np.float32)
    x = generator.standard_normal((9, 50)).astype(np.float32)
    clean = kernels.qgemm(x, packed, bias, activation="int8")
    x[1], x[2], x[4, 3], x[6, 49] = 0.0, 1e-40, np.nan, -np.inf
    x[7] *= np.float32(1e-30)
    for isa in ISAS:
        kernels.use_isa(isa)
        y = kernels.qgemm(x, packed, bias, activation="int8")
        same_bits(y[1], bias)
        same_bits(y[2], bias)
        assert np.isnan(y[[4, 6]]).all()
        others = [0, 3, 5, 8]
        same_bits(y[others], clean[others])
        assert np.allclose(y[7], bias, atol=1e-25)


def test_wrong_arguments_say_what_was_expected():
    packed = kernels.pack(np.ones((3, 8), np.float32), bits=4)
    with pytest.raises(ArgumentError, match=r"activation must be one of \('float', 'int8'\), got 'int4'"):
        kernels.qgemm(np.ones((2, 8), np.float32), packed, activation="int4")
