"""Products on packed weights: every kernel of list() against the float64 oracle."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from cases.formats import FORMATS, SHAPES
from checking import check_product, same_bits
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError, TqsError
from tqs_fast.reference import quantization as reference

PRODUCTS = [
    row
    for row in kernels.list()
    if row["op"] in ("qgemm_float32", "qgemm_bfloat16") and row["available"] and row["isa"] != "cuda"
]
ISAS = sorted({row["isa"] for row in PRODUCTS})


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def make_case(form, m, n, k, seed=0):
    """Inputs whose sums cancel and whose magnitudes spread over orders, so that rounding shows."""
    generator = np.random.default_rng([seed, m, n, k])
    x = generator.standard_normal((m, k)) * np.exp2(generator.integers(-6, 7, (m, k)))
    weight = generator.standard_normal((n, k)) * np.exp2(generator.integers(-3, 4, (n, 1)))
    packed = kernels.pack(
        weight.astype(np.float32), bits=form.bits, group_size=form.group_size, symmetric=form.symmetric, search="minmax"
    )
    return x.astype(np.float32), packed, generator.standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("row", PRODUCTS, ids=lambda row: f"{row['op']}-{row['format']}-{row['isa']}")
def test_every_kernel_against_the_oracle(row):
    kernels.use_isa(row["isa"])
    bfloat16 = row["op"] == "qgemm_bfloat16"
    generator = np.random.default_rng(len(row["op"]))
    error = 0.0
    for form in (form for form in FORMATS if f"int{form.bits}" == row["format"]):
        for m, n, k in (*SHAPES, *generator.integers(1, 65, (8, 3)).tolist()):
            x, packed, bias = make_case(form, m, n, k)
            weight = packed.dequantize()
            prepared = packed.prepack()
            for b in (None, bias):
                if bfloat16:
                    tensor = torch.from_numpy(x).bfloat16()
                    result = kernels.qgemm(tensor, packed, None if b is None else torch.from_numpy(b))
                    assert result.dtype == torch.bfloat16
                    y, x = result.float().numpy(), tensor.float().numpy()
                    again = kernels.qgemm(tensor, prepared, None if b is None else torch.from_numpy(b)).float().numpy()
                else:
                    y, again = kernels.qgemm(x, packed, b), kernels.qgemm(x, prepared, b)
                check_product(y, x, weight, b, bfloat16=bfloat16)
                same_bits(again, y)
                error = max(error, float(np.abs(y - x.astype(np.float64) @ weight.astype(np.float64).T).max()))
    assert error > 0.0, "the inputs are too easy: nothing was rounded"


@pytest.mark.parametrize("isa", ISAS)
def test_sizes_one_to_sixty_four(isa):
    kernels.use_isa(isa)
    form = FORMATS[0]._replace(bits=3, group_size=32, symmetric=False)
    for size in range(1, 65):
        for m, n, k in ((size, 5, 40), (3, size, 40), (3, 5, size)):
            x, packed, bias = make_case(form, m, n, k)
            check_product(kernels.qgemm(x, packed, bias), x, packed.dequantize(), bias)


@pytest.mark.parametrize("row", PRODUCTS, ids=lambda row: f"{row['op']}-{row['format']}-{row['isa']}")
def test_unaligned_strided_rows_and_untouched_surroundings(row):
    kernels.use_isa(row["isa"])
    bfloat16 = row["op"] == "qgemm_bfloat16"
    item = 2 if bfloat16 else 4
    for form in (form for form in FORMATS if f"int{form.bits}" == row["format"] and form.group_size in (0, 32)):
        for m, n, k in ((1, 1, 1), (7, 17, 33), (9, 33, 65)):
            x, packed, bias = make_case(form, m, n, k)
            source = torch.from_numpy(x).bfloat16() if bfloat16 else torch.from_numpy(x)
            x_stride, y_stride = k + 3, n + 5
            x_bytes = np.full(m * x_stride * item + 1, 0xFF, np.uint8)  # what lies between the rows reads as NaN
            y_bytes = np.full(m * y_stride * item + 1, 0xAB, np.uint8)
            rows = x_bytes[1:].reshape(m, x_stride * item)
            rows[:, : k * item] = source.view(torch.uint8).numpy().reshape(m, k * item)
            codes = np.full(packed.codes.size + 1, 0xFF, np.uint8)
            codes[1:] = packed.codes.ravel()
            view = core.PackedView(
                codes=codes.ctypes.data + 1,
                scales=packed.scales.ctypes.data,
                zeros=0 if packed.zeros is None else packed.zeros.ctypes.data,
                rows=n,
                columns=k,
                group_size=form.group_size,
                bits=form.bits,
            )
            x_at, y_at = x_bytes.ctypes.data + 1, y_bytes.ctypes.data + 1
            core.qgemm(view, int(bfloat16), False, 2, x_at, x_stride, m, bias.ctypes.data, y_at, y_stride)
            out = y_bytes[1:].reshape(m, y_stride * item)
            got = torch.from_numpy(out[:, : n * item].copy()).view(source.dtype).float().numpy()
            check_product(got, source.float().numpy(), packed.dequantize(), bias, bfloat16=bfloat16)
            assert (out[:, n * item :] == 0xAB).all(), "wrote between the rows of y"
            assert y_bytes[0] == 0xAB, "wrote before y"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_result_depends_on_its_row_and_column_alone(isa, dtype):
    kernels.use_isa(isa)
    x, packed, bias = make_case(FORMATS[0]._replace(bits=4, group_size=64), 21, 101, 190)
    tensor, shift = torch.from_numpy(x).to(dtype), torch.from_numpy(bias)
    whole = kernels.qgemm(tensor, packed, shift, threads=1)
    for threads in (2, 3, 4, None):
        assert torch.equal(kernels.qgemm(tensor, packed, shift, threads=threads), whole)
    for m in (0, 7, 20):
        assert torch.equal(kernels.qgemm(tensor[m : m + 1], packed, shift), whole[m : m + 1])
    some = slice(37, 60)
    part = kernels.PackedWeight(packed.codes[some], packed.scales[some], None, 4, 64, (23, 190))
    assert torch.equal(kernels.qgemm(tensor, part, shift[some]), whole[:, some])


def test_shapes_types_and_strides_of_x():
    x, packed, bias = make_case(FORMATS[0]._replace(bits=8, group_size=32), 12, 5, 40)
    flat = kernels.qgemm(x, packed, bias)
    assert flat.dtype == np.float32
    same_bits(kernels.qgemm(x.reshape(3, 4, 40), packed, bias), flat.reshape(3, 4, 5))
    same_bits(kernels.qgemm(x[0], packed, bias), flat[0])
    same_bits(kernels.qgemm(x[::-1], packed, bias), flat[::-1])
    same_bits(kernels.qgemm(np.asfortranarray(x), packed, bias), flat)
    same_bits(kernels.qgemm(np.repeat(x, 2, axis=0)[::2], packed, bias), flat)
    assert kernels.qgemm(x[:0], packed, bias).shape == (0, 5)
    tensor = torch.from_numpy(x)
    for variant in (tensor, tensor.t().contiguous().t(), tensor.clone().requires_grad_(), tensor.repeat(1, 2)[:, :40]):
        result = kernels.qgemm(variant, packed, torch.from_numpy(bias))
        assert isinstance(result, torch.Tensor)
        same_bits(result.numpy(), flat)
    broadcast = kernels.qgemm(tensor[:1].expand(6, 40), packed)
    assert torch.equal(broadcast, kernels.qgemm(tensor[:1], packed).expand(6, 5))


def test_nan_and_infinity_stay_in_their_row():
    x, packed, _ = make_case(FORMATS[0]._replace(bits=4, group_size=32), 9, 40, 50)
    clean = kernels.qgemm(x, packed)
    x[4, 3], x[6, 2] = np.nan, np.inf
    for isa in ISAS:
        kernels.use_isa(isa)
        y = kernels.qgemm(x, packed)
        assert np.isnan(y[4]).all()
        assert not np.isfinite(y[6]).any()
        others = [0, 1, 2, 3, 5, 7, 8]
        assert np.allclose(y[others], clean[others], rtol=1e-4, atol=1e-2)
        assert np.isfinite(y[others]).all()


def test_bfloat16_results_are_the_rounded_float_sums():
    generator = np.random.default_rng(8)
    packed = kernels.pack(generator.standard_normal((65, 1)).astype(np.float32), bits=8)
    x = torch.from_numpy(generator.standard_normal((33, 1)).astype(np.float32)).bfloat16()
    for isa in ISAS:
        kernels.use_isa(isa)
        expected = torch.from_numpy(kernels.qgemm(x.float().numpy(), packed)).bfloat16()
        assert torch.equal(kernels.qgemm(x, packed), expected)
    big = kernels.qgemm(torch.full((1, 1), 3e38).bfloat16(), kernels.pack(np.full((1, 1), 8.0, np.float32), bits=4))
    assert torch.isinf(big).all()


@pytest.mark.parametrize("isa", ISAS)
def test_nan_stays_nan_in_bfloat16(isa):
    """One whose bits a carry would turn into those of a zero, in whole vectors and in the rest."""
    kernels.use_isa(isa)
    packed = kernels.pack(np.ones((37, 4), np.float32), bits=4)
    bias = torch.zeros(37)
    bias.view(torch.int32)[::2] = 0x7FFFFFFF
    y = kernels.qgemm(torch.ones(10, 4).bfloat16(), packed, bias)
    assert torch.equal(torch.isnan(y), torch.isnan(bias).expand(10, 37))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [4, 8])
def test_bfloat16_below_the_normal_numbers(isa, bits):
    """A processor's dot products of bfloat16 may take what is below 2^-126 for zero, a term or a sum at a time."""
    kernels.use_isa(isa)
    generator = np.random.default_rng(9)
    packed = kernels.pack(generator.standard_normal((40, 70)).astype(np.float32), bits=bits, group_size=32)
    tiny = generator.standard_normal((9, 70)) * np.exp2(generator.integers(-134, -118, (9, 70)))
    x = torch.from_numpy(tiny.astype(np.float32)).bfloat16()
    y, exact = kernels.qgemm(x.float(), packed).numpy(), kernels.qgemm(x, packed).float().numpy()
    weight = np.abs(packed.dequantize()).astype(np.float64)
    scale = np.abs(reference.from_bfloat16(packed.scales)).astype(np.float64)
    lost = 2.0**-126 * (weight.sum(1) + 2 * 70 * scale.max(1))
    assert (np.abs(exact - y) <= lost + 2.0**-8 * np.abs(y)).all()
    assert np.any(exact != 0)


def test_wrong_arguments_say_what_was_expected():
    x, packed, bias = make_case(FORMATS[0], 2, 3, 8)
    for call, text in (
        (lambda: kernels.qgemm(x[:, :7], packed), r"expected x of shape \[..., 8\], got \[2, 7\]"),
        (lambda: kernels.qgemm(x, packed, bias[:2]), r"expected bias of shape \[3\], got \[2\]"),
        (lambda: kernels.qgemm(x.astype(np.float64), packed), "must be float32, got float64"),
        (lambda: kernels.qgemm(torch.from_numpy(x).half(), packed), "float32 or bfloat16, got torch.float16"),
        (lambda: kernels.qgemm(x, packed, threads=0), "threads must be at least 1"),
        (lambda: kernels.qgemm(torch.empty(2, 8, device="meta"), packed), "on the CPU or a CUDA device"),
        (lambda: kernels.qgemm([[1.0]], packed), r"\[qgemm\]"),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()


def test_prepacked_weights_belong_to_one_isa():
    x, packed, _ = make_case(FORMATS[0]._replace(bits=4), 4, 40, 70)
    expected = {}
    for isa in ISAS:
        kernels.use_isa(isa)
        prepared = packed.prepack()
        assert prepared.isa == isa
        assert prepared.shape == (40, 70)
        expected[isa] = kernels.qgemm(x, prepared)
        for twin in (pickle.loads(pickle.dumps(prepared)), copy.deepcopy(prepared)):
            same_bits(kernels.qgemm(x, twin), expected[isa])
        for other in ISAS:
            kernels.use_isa(other)
            if other == isa:
                same_bits(kernels.qgemm(x, prepared), expected[isa])
            else:
                with pytest.raises(ArgumentError, match=f"prepacked for {isa} but .* is {other}; call prepack"):
                    kernels.qgemm(x, prepared)


def test_cuda_without_cuda_says_how_to_get_it():
    if core.cuda_built():
        pytest.skip("this build has CUDA")
    _, packed, _ = make_case(FORMATS[0], 1, 3, 8)
    with pytest.raises(TqsError, match="built without CUDA; install the CUDA toolkit"):
        core.qgemm_cuda(packed.view, 0, 0, False, 0, 0, 0, 0, 64, 8, 1, 0, 64, 3)
    with pytest.raises(TqsError, match="built without CUDA; install the CUDA toolkit"):
        core.prepack_cuda(packed.view, 64, 0, 0)
