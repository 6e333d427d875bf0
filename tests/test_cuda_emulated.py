"""The CUDA kernels, run by the emulator: against float64, bit for bit against the CPU where they are defined so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import emulated
from cases.formats import FORMATS, Format
from checking import check_product, same_bits
from emulated import Device, from_bits, to_bits
from tqs_fast import kernels

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

GROUPED4, CHANNEL8 = Format(4, 128, True), Format(8, 0, False)
# [M, N, K], kernel, rows of x per block, splits (0: as the model chooses). One and two units of K and a piece of one,
# groups and tiles cut short, every number of rows of x per block, K shared evenly or not, more units than a pipeline is
# deep.
CASES = (
    ((1, 16, 128), "gemv", 8, 0),
    ((3, 17, 200), "gemv", 8, 0),
    ((8, 40, 2312), "gemv", 8, 1),
    ((5, 33, 1304), "gemv", 8, 3),
    ((7, 16, 128), "tiles", 16, 1),
    ((17, 130, 72), "tiles", 16, 1),
    ((40, 20, 648), "tiles", 32, 2),
    ((66, 47, 776), "tiles", 64, 3),
    ((19, 130, 72), "warpgroups", 64, 1),
    ((70, 20, 648), "warpgroups", 64, 2),
    ((131, 47, 1032), "warpgroups", 128, 1),
    ((33, 200, 392), "warpgroups", 128, 3),
)


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


def drawn(seed, m, n, k, form, dtype):
    """(x as bits, the packed weight, bias): large and small rows, zeros, one huge element."""
    generator = np.random.default_rng(seed)
    weight = (generator.standard_normal((n, k)) * 2.0 ** generator.integers(-3, 4, (n, 1))).astype(np.float32)
    packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
    x = generator.standard_normal((m, k)) * 2.0 ** generator.integers(-3, 4, (m, 1))
    x[generator.random(x.shape) < 0.1] = 0.0
    x[m // 2, k // 2] = 30.0
    return to_bits(x, dtype), packed, generator.standard_normal(n).astype(np.float32)


def check(y, x, packed, bias, dtype):
    check_product(
        from_bits(y, dtype), from_bits(x, dtype), packed.dequantize(), bias, bfloat16=dtype == "bfloat16",
        float16=dtype == "float16",
    )  # fmt: skip


def rounded_product(x, packed, bias, dtype):
    """The int8 product of the CPU, rounded to `dtype`."""
    return to_bits(kernels.qgemm(from_bits(x, dtype), packed, bias, activation="int8"), dtype)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_dequantized_weights_have_the_bits_of_the_cpu(emulator, form):
    for n, k in ((1, 1), (3, 33), (5, 1024), (2, 1160), (3, 2050)):  # a piece of a row is 1024 columns
        _, packed, _ = drawn(k, 1, n, k, form, "float32")
        same_bits(emulator.dequantize(packed), packed.dequantize())


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_of_16_bit_rows(emulator, form, dtype):
    for seed, ((m, n, k), kernel, columns, splits) in enumerate(CASES):
        x, packed, bias = drawn(seed, m, n, k, form, dtype)
        device = Device(columns, splits, kernel)
        y, plan = emulator.multiply(x, emulator.prepack(packed), bias, dtype=dtype, device=device, stride=k + 8)
        assert emulated.KERNELS[plan.kernel] == kernel
        assert splits in (0, plan.splits)
        check(y, x, packed, bias, dtype)
    assert emulator.bank_conflicts() == 0


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_products_of_int8_rows_have_the_bits_of_the_cpu(emulator, form):
    dtypes = itertools.cycle(("float32", "bfloat16", "float16"))
    for seed, ((m, n, k), kernel, columns, splits) in enumerate(CASES):
        dtype = next(dtypes)
        x, packed, bias = drawn(seed, m, n, k - 3, form, dtype)
        x[0] = to_bits(np.zeros(k - 3), dtype)
        if m > 1:
            x[1, 5] = to_bits(np.array(np.inf if seed % 2 else np.nan), dtype)
        device = Device(columns, splits if form.group_size == 0 else 0, kernel)
        y, plan = emulator.multiply(x, emulator.prepack(packed), bias, dtype=dtype, int8=True, device=device)
        assert emulated.KERNELS[plan.kernel] == kernel
        assert plan.splits == 1 or form.group_size == 0
        expected = rounded_product(x, packed, bias, dtype)
        nan = np.isnan(from_bits(expected, dtype))
        assert np.isnan(from_bits(y, dtype)[nan]).all()
        same_bits(y[~nan], expected[~nan])
    assert emulator.bank_conflicts() == 0


@pytest.mark.parametrize("form", [form for form in FORMATS if form.group_size], ids=str)
def test_int8_rows_in_groups_whose_warps_share_k(emulator, form):
    """One and two fragments of 8 rows per block, several blocks of rows, K cut short, more of it than is on its way."""
    dtypes = itertools.cycle(("float32", "bfloat16", "float16"))
    for seed, (m, n, k) in enumerate(((9, 16, 128), (16, 40, 4104), (37, 33, 1301), (20, 17, 197))):
        dtype, columns = next(dtypes), 8 if form.group_size == 32 or seed == 3 else 16
        x, packed, bias = drawn(seed, m, n, k, form, dtype)
        weight = emulator.prepack(packed)
        y, plan = emulator.multiply(x, weight, bias, dtype=dtype, int8=True, device=Device(columns, 1, "gemv"))
        assert (emulated.KERNELS[plan.kernel], plan.columns) == ("gemv", columns)
        same_bits(y, rounded_product(x, packed, bias, dtype))
    assert emulator.bank_conflicts() == 0


@pytest.mark.parametrize("int8", [False, True])
def test_every_number_of_rows(emulator, int8):
    for m in range(1, 65):
        form = Format((4, 8)[m % 2], (32, 64, 128, 0)[m // 2 % 4], m % 3 == 0)
        x, packed, bias = drawn(m, m, 24, 264, form, "bfloat16")
        y, _ = emulator.multiply(x, emulator.prepack(packed), bias, dtype="bfloat16", int8=int8)
        if int8:
            same_bits(y, rounded_product(x, packed, bias, "bfloat16"))
        else:
            check(y, x, packed, bias, "bfloat16")


@pytest.mark.parametrize(
    ("shape", "kernel", "columns"),
    [((5, 40, 2200), "gemv", 8), ((40, 40, 1000), "tiles", 32), ((70, 140, 1000), "warpgroups", 64)],
)
@pytest.mark.parametrize("int8", [False, True])
def test_the_order_of_threads_does_not_show(emulator, shape, kernel, columns, int8):
    for form in (GROUPED4, CHANNEL8):
        x, packed, bias = drawn(3, *shape, form, "float16")
        weight = emulator.prepack(packed)
        splits = 0 if int8 and form.group_size else 3
        first, second = (
            emulator.multiply(
                x, weight, bias, dtype="float16", int8=int8, device=Device(columns, splits, kernel), reverse=reverse
            )[0]
            for reverse in (False, True)
        )
        same_bits(first, second)


def test_rows_that_vectors_do_not_fit_take_the_simple_kernel(emulator):
    for dtype, k in (("bfloat16", 130), ("float16", 33), ("float32", 256)):
        for form in (Format(3, 32, False), GROUPED4, CHANNEL8):
            x, packed, bias = drawn(4, 11, 10, k, form, dtype)
            y, plan = emulator.multiply(x, emulator.prepack(packed), bias, dtype=dtype)
            assert emulated.KERNELS[plan.kernel] == "simple"
            check(y, x, packed, bias, dtype)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("k", [300, 2099])
def test_float32_rows_have_the_same_bits_whatever_their_number(emulator, form, k):
    """Of 61 rows one multiprocessor takes tiles, a thousand do not; 2099 inputs are 17 parts, the last of 51."""
    m, n = 61, 63
    x, packed, bias = drawn(6, m, n, k, form, "float32")
    weight = emulator.prepack(packed)

    def multiply(rows, multiprocessors, stride=k):
        device = Device(multiprocessors=multiprocessors)
        return emulator.multiply(rows, weight, bias, dtype="float32", device=device, stride=stride)[0]

    few = multiply(x, 1000)
    check(few, x, packed, bias, "float32")
    same_bits(multiply(x, 1, k + 5), few)
    same_bits(multiply(x[:1], 1), few[:1])
    same_bits(multiply(x[2:5], 1), few[2:5])


def test_float32_rows_in_several_tiles(emulator):
    for form in (Format(3, 32, False), CHANNEL8):
        x, packed, bias = drawn(7, 130, 129, 136, form, "float32")
        y, _ = emulator.multiply(x, emulator.prepack(packed), bias, dtype="float32", device=Device(multiprocessors=1))
        check(y, x, packed, bias, "float32")


def test_without_a_bias(emulator):
    for m, int8 in ((2, False), (12, False), (2, True), (12, True)):
        x, packed, _ = drawn(5, m, 20, 256, GROUPED4, "float16")
        y, _ = emulator.multiply(x, emulator.prepack(packed), dtype="float16", int8=int8)
        expected = rounded_product(x, packed, None, "float16") if int8 else None
        if expected is None:
            check(y, x, packed, None, "float16")
        else:
            same_bits(y, expected)


SHAPES = ((4096, 4096), (1024, 8192), (12288, 4096), (48, 32768), (300, 136))


@pytest.mark.parametrize("form", [GROUPED4, Format(8, 32, False), CHANNEL8], ids=str)
@pytest.mark.parametrize("int8", [False, True])
def test_plans(emulator, form, int8):
    """What every plan keeps to; on small GPUs (99 KiB of shared memory per block), too."""
    small = {
        "multiprocessors": 84, "shared_per_block": 101376, "shared_per_multiprocessor": 102400, "warpgroups": 0,
    }  # fmt: skip
    for n, k in SHAPES:
        groups = 1 if form.group_size == 0 else -(-k // form.group_size)
        packed = kernels.PackedWeight(
            np.zeros((n, -(-k * form.bits // 8)), np.uint8), np.ones((n, groups), np.uint16), None, form.bits,
            form.group_size, (n, k),
        )  # fmt: skip
        weight = emulator.view(packed)
        for m, device in itertools.product((1, 8, 9, 16, 33, 200, 5000), (Device(), Device(**small))):
            plan = emulator.plan_of(weight, m, "bfloat16", int8, device)
            assert (emulated.KERNELS[plan.kernel] == "gemv") <= (m <= 8 or (int8 and form.group_size != 0))
            assert (emulated.KERNELS[plan.kernel] == "warpgroups") <= bool(device.warpgroups)
            assert plan.row_blocks * plan.columns >= m
            assert (plan.row_blocks - 1) * plan.columns < m
            assert plan.cycles > 0
            assert plan.splits == 1 or not (int8 and form.group_size)
            assert plan.splits <= -(-k // 128)
        if (n, k) == (4096, 4096):
            chosen = [emulator.plan_of(weight, m, "bfloat16", int8, Device()).kernel for m in (1, 512)]
            assert [emulated.KERNELS[kernel] for kernel in chosen] == ["gemv", "warpgroups"]
    assert emulator.plan_of(weight, 1, "float32", False, Device()).kernel == 0


def test_a_device_that_names_no_clock(emulator):
    """A bandwidth of nothing or without end makes all plans alike, and the first one the best."""
    known = emulator.library.emulated_bytes_per_cycle(6144, 3201000, 1980000)
    assert known == pytest.approx(2 * 6144 / 8 * 3201 / 1980)
    for asked in ((0, 3201000, 1980000), (6144, 0, 1980000), (6144, 3201000, 0), (6144, 0, 0)):
        assert 0.5 < emulator.library.emulated_bytes_per_cycle(*asked) / known < 2


def test_every_block_leaves_cuda_its_shared_memory(emulator):
    """Two blocks of 83456 bytes would fit into the 164 KiB of an A100, but for the KiB that CUDA keeps in each."""
    device = Device(
        16, 1, "tiles", multiprocessors=108, shared_per_block=166912, shared_per_multiprocessor=167936, warpgroups=0
    )  # fmt: skip
    cycles = []
    for blocks in (108, 216):
        packed = kernels.pack(np.ones((128 * blocks, 128), np.float32), bits=8, group_size=128)
        cycles.append(emulator.plan_of(emulator.view(packed), 16, "bfloat16", False, device).cycles)
    assert cycles[1] == 2 * cycles[0]  # waves


def test_a_product_of_few_outputs_is_shared(emulator):
    """48 outputs are 3 tiles: without splitting K, 3 of 132 multiprocessors would work."""
    packed = kernels.pack(np.ones((48, 8192), np.float32), bits=4)
    assert emulator.plan_of(emulator.view(packed), 1, "bfloat16", False, Device()).splits > 4
    assert emulator.plan_of(emulator.view(packed), 32, "bfloat16", False, Device()).splits > 4
    wide = kernels.pack(np.ones((16384, 256), np.float32), bits=4)
    assert emulator.plan_of(emulator.view(wide), 1, "bfloat16", False, Device()).splits == 1


def test_few_outputs_of_int8_rows_in_groups_are_shared_by_warps(emulator):
    """The order of their sums is fixed, so no blocks share K; by the model what that costs is less than a third."""
    packed = kernels.pack(np.ones((1024, 4096), np.float32), bits=4)
    weight = emulator.view(packed)
    for m in (9, 16, 24, 32, 48, 64):
        chosen, tiles = (emulator.plan_of(weight, m, "bfloat16", True, Device(kernel=k)) for k in ("simple", "tiles"))
        assert emulated.KERNELS[chosen.kernel] == "gemv"
        assert chosen.cycles < tiles.cycles / 1.5
