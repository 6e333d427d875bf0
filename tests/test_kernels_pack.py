"""Packing against the NumPy oracle, bit for bit: codes, scales, zeros, values."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cases.formats import FORMATS, Format
from checking import same_bits
from tqs_fast import kernels
from tqs_fast.errors import ArgumentError, TqsError
from tqs_fast.reference import quantization as reference

ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["isa"] != "cuda"})


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def pack(weight, form: Format, search="mse"):
    return kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric, search=search)


def hard_weights(columns: int) -> np.ndarray:
    """Heavy tails, zeros, constants, ties, one sign, and magnitudes from subnormal to the end of float32."""
    generator = np.random.default_rng(columns)
    weight = generator.standard_t(3, (12, columns)).astype(np.float32)
    weight[0] = 0.0
    weight[1] *= 1e-30
    weight[2] *= 1e30
    weight[3] = (generator.standard_normal(columns) * 1e-42).astype(np.float32)
    weight[4, 0], weight[4, -1] = 3.4028235e38, -3.4028235e38
    weight[5] = 1.0
    weight[6] = -np.abs(weight[6])
    weight[7] = generator.integers(-7, 8, columns) * 0.5  # multiples of a likely scale: rounding ties
    weight[8, :] = 1e-45
    weight[9, : columns // 2] = 0.0  # whole groups of zeros beside others
    weight[10, columns // 2] = 1000.0  # an outlier
    return weight


def check_bytes(weight, form: Format, search="mse"):
    """The bytes of every instruction set are the oracle's."""
    codes, scales, zeros = reference.quantize(weight, *form, search)
    for isa in ISAS:
        kernels.use_isa(isa)
        packed = pack(weight, form, search)
        same_bits(packed.scales, scales)
        same_bits(packed.codes, codes)
        assert (packed.zeros is None) == (zeros is None) == form.symmetric
        if zeros is not None:
            same_bits(packed.zeros, zeros)
        assert packed.nbytes == kernels.packed_bytes(weight.shape, form.bits, form.group_size, form.symmetric)


@pytest.mark.parametrize("search", kernels.SEARCHES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_bytes_equal_the_oracle(form, search):
    for columns in (1, 2, 31, 32, 65, 129, 200):
        check_bytes(hard_weights(columns), form, search)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", kernels.FORMATS)
def test_thousands_of_groups_equal_the_oracle(bits, symmetric):
    # Tails from Gaussian to Cauchy.
    generator = np.random.default_rng(bits)
    tails = generator.choice([1.0, 2.0, 4.0, 30.0], (1500, 1))
    check_bytes(generator.standard_t(tails, (1500, 64)).astype(np.float32), Format(bits, 32, symmetric))


@pytest.mark.parametrize("bits", kernels.FORMATS)
def test_groups_whose_choice_hangs_on_one_rounding_equal_the_oracle(bits):
    generator = np.random.default_rng(bits)
    # Every weight with its negative: scales of both signs have the same error but for the order of its terms.
    half = generator.standard_normal((2000, 16)).astype(np.float32)
    check_bytes(np.concatenate([half, -half], axis=1), Format(bits, 32, True))
    # Halfway between two codes, for each significand a scale may have: the quotient by the scale and the product with
    # its inverse round to different codes.
    scales = 1 + np.arange(128, dtype=np.float32)[:, None] / 128
    ties = scales * (np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, dtype=np.float32) + 0.5)
    weight = np.concatenate([scales * -(2.0 ** (bits - 1)), ties], axis=1, dtype=np.float32)
    for search in kernels.SEARCHES:
        check_bytes(weight, Format(bits, 0, True), search)
    # One weight, which many scales fit.
    for symmetric in (True, False):
        check_bytes(generator.integers(1, 2**17, (4000, 1)).astype(np.float32), Format(bits, 0, symmetric))


@pytest.mark.parametrize("search", kernels.SEARCHES)
def test_threads_and_neighbours_change_nothing(search):
    # Groups are searched several at a time: one must not depend on which others are beside it.
    weight = np.tile(hard_weights(300), (60, 1))
    expected = kernels.pack(weight[:12], bits=3, group_size=64, symmetric=False, search=search)
    for isa in ISAS:
        kernels.use_isa(isa)
        for threads in (None, 1, 2, 5):
            packed = kernels.pack(weight, bits=3, group_size=64, symmetric=False, search=search, threads=threads)
            for name in ("codes", "scales", "zeros"):
                same_bits(getattr(packed, name), np.tile(getattr(expected, name), (60, 1)))
            same_bits(packed.dequantize(threads=threads), np.tile(expected.dequantize(), (60, 1)))
        for row in range(12):
            alone = kernels.pack(weight[row : row + 1], bits=3, group_size=64, symmetric=False, search=search)
            same_bits(alone.codes[0], expected.codes[row])


def test_the_grids_of_ratios_are_the_oracles():
    # Least squares forgives a ratio that is off by one step, so no output would show it.
    source = (Path(__file__).resolve().parent.parent / "csrc/quant/search.cpp").read_text()
    for name, expected in (
        ("kSymmetricRatios", reference.SYMMETRIC_RATIOS),
        ("kRangeRatios", reference.RANGE_RATIOS),
    ):
        body = source.split(f"{name}[4][kRatios] = {{")[1].split("};")[0]
        rows = [tuple(map(int, row.split(","))) for row in re.findall(r"\{([\d, ]+)\}", body)]
        assert rows == [expected[bits] for bits in kernels.FORMATS]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_isa_packs_the_same_and_dequantizes_exactly(form, isa):
    for columns in [*range(1, 65, 7), 127, 128, 129, 200]:
        weight = hard_weights(columns)
        kernels.use_isa("scalar")
        expected = pack(weight, form)
        kernels.use_isa(isa)
        packed = pack(weight, form)
        same_bits(packed.codes, expected.codes)
        same_bits(packed.scales, expected.scales)
        values = packed.dequantize()
        assert np.isfinite(values).all()
        exact = reference.dequantize(packed.codes, packed.scales, packed.zeros, form.bits, form.group_size, columns)
        same_bits(values + 0.0, exact.astype(np.float32) + 0.0)  # + 0.0: -0 and 0 are one value
        assert (exact.astype(np.float32) == exact).all(), "a value is not exact in float32"
        assert (values[0] == 0.0).all(), "a group of zeros must stay exactly zero"


@pytest.mark.parametrize("bits", kernels.FORMATS)
def test_codes_unpack_to_what_was_packed(bits):
    generator = np.random.default_rng(bits)
    for columns in range(1, 65):
        codes = generator.integers(0, 2**bits, (3, columns), dtype=np.uint8)
        packed = reference.pack_codes(codes, bits)
        same_bits(reference.unpack_codes(packed, bits, columns), codes)
        scales = np.full((3, 1), 0x3F80, np.uint16)
        weight = kernels.PackedWeight(packed, scales, np.zeros((3, 1), np.uint8), bits, 0, (3, columns))
        same_bits(weight.dequantize(), codes.astype(np.float32))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_search_never_loses_to_minmax_in_any_group(form):
    weight = hard_weights(200)[5:].astype(np.float64)
    weight = np.concatenate([weight, np.random.default_rng(1).standard_normal((24, 200))]).astype(np.float32)
    width = form.group_size or 200
    errors = {}
    for search in kernels.SEARCHES:
        squared = (pack(weight, form, search).dequantize().astype(np.float64) - weight) ** 2
        errors[search] = np.add.reduceat(squared, range(0, 200, width), axis=1)
    assert (errors["mse"] <= errors["minmax"] * (1 + 1e-12)).all()
    # On Gaussian rows clipping pays: 3 % of the error at the very least, far more at 2 bits.
    gain = errors["mse"][-24:].sum() / errors["minmax"][-24:].sum()
    assert gain < {2: 0.85, 3: 0.9, 4: 0.97, 8: 1.0}[form.bits]


def test_half_the_step_bounds_the_error_of_minmax():
    weight = np.random.default_rng(3).standard_normal((16, 128)).astype(np.float32)
    for bits in kernels.FORMATS:
        packed = kernels.pack(weight, bits=bits, symmetric=False, search="minmax")
        step = reference.from_bfloat16(packed.scales)
        # 1/2 for rounding; the zero point moves the range by up to 1/2 more and bfloat16 by 2^-8 of its 2^b - 1 steps.
        assert (np.abs(packed.dequantize() - weight) <= step * (1.0 + (2**bits - 1) * 2.0**-8)).all()


def test_any_float_tensor_and_any_strides_give_the_same_bytes():
    weight = np.random.default_rng(4).standard_normal((6, 4, 5, 3)).astype(np.float16)
    expected = kernels.pack(weight.reshape(6, -1).astype(np.float32), bits=4, group_size=32)
    tensor = torch.from_numpy(weight)
    strided = torch.empty(6, 3, 5, 4, dtype=torch.float64).permute(0, 3, 2, 1).copy_(tensor)
    variants = (
        weight,
        weight.astype(np.float64),
        np.asfortranarray(weight),
        np.repeat(weight, 2, axis=2)[:, :, ::2],
        tensor,
        tensor.double().requires_grad_(),
        tensor.to(memory_format=torch.channels_last),
        strided,
    )
    for variant in variants:
        packed = kernels.pack(variant, bits=4, group_size=32)
        assert packed.shape == (6, 60)
        same_bits(packed.codes, expected.codes)
        same_bits(packed.scales, expected.scales)
    narrow = tensor.bfloat16()
    same_bits(kernels.pack(narrow, bits=4).codes, kernels.pack(narrow.float().numpy(), bits=4).codes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_weights_are_named(bad):
    weight = np.zeros((5, 40), np.float32)
    weight[3, 17] = weight[4, 2] = bad
    with pytest.raises(TqsError, match=r"\[pack\] expected finite weights, got .* at \[3, 17\]"):
        kernels.pack(weight, bits=4)
    with pytest.raises(ArgumentError, match=r"at \[0, 0\]"):
        kernels.pack(np.full((1, 2), 1e300), bits=4)


def test_wrong_arguments_say_what_was_expected():
    weight = np.ones((4, 8), np.float32)
    for arguments, text in (
        ({"bits": 5}, r"bits must be one of \(2, 3, 4, 8\), got 5"),
        ({"bits": 4, "group_size": 48}, "group_size must be one of"),
        ({"bits": 4, "search": "best"}, "search must be one of"),
        ({"bits": 4, "threads": 0}, "threads must be at least 1 or None, got 0"),
    ):
        with pytest.raises(ArgumentError, match=text):
            kernels.pack(weight, **arguments)
    for wrong in (weight[0], weight[:0], weight.astype(np.int32), torch.ones(3, 3, dtype=torch.int8), [[1.0]]):
        with pytest.raises(ArgumentError, match=r"\[pack\]"):
            kernels.pack(wrong, bits=4)
    packed = kernels.pack(weight, bits=4)
    with pytest.raises(ArgumentError, match=r"expected codes to be a uint8 array of shape \[4, 4\]"):
        kernels.PackedWeight(packed.codes[:3], packed.scales, None, 4, 128, (4, 8))
    with pytest.raises(ArgumentError, match="expected scales to be a uint16"):
        kernels.PackedWeight(packed.codes, packed.scales.view(np.int16), None, 4, 128, (4, 8))


def test_packed_weights_pickle_and_copy():
    weight = np.random.default_rng(0).standard_normal((9, 70)).astype(np.float32)
    packed = kernels.pack(weight, bits=3, group_size=32, symmetric=False)
    packed.dequantize()
    for twin in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert twin.codes is not packed.codes
        same_bits(twin.dequantize(), packed.dequantize())


def test_sizes_and_effective_bits():
    assert kernels.packed_bytes((3, 10), 3, 0) == 3 * (4 + 2)
    assert kernels.packed_bytes((3, 130), 4, 128, symmetric=False) == 3 * (65 + 2 * 3)
    assert kernels.effective_bits((1, 128), 4, 128) == 4.125
    with pytest.raises(ArgumentError, match="bits"):
        kernels.packed_bytes((3, 10), 5)
