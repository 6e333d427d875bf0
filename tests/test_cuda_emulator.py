"""The emulator of tests/native/cuda_emulator: its tensor instructions, and that it finds faults of device code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import emulated

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


# The layouts as CUTLASS has them (MMA_Traits of SM80_16x8x16_F32BF16BF16F32_TN and SM80_16x8x32_S32S8S8S32_TN):
# strides of lane % 4, of lane / 4, and of the values of a lane, the first fastest, into column-major [rows, k],
# [columns, k] and [rows, columns]. csrc/cuda/device/instructions.cuh has them as the PTX ISA states them.
STRIDES = {
    "a16": (32, 1, (16, 8, 128), (2, 2, 2)),
    "b16": (16, 1, (8, 64), (2, 2)),
    "a8": (64, 1, (16, 8, 256), (4, 2, 2)),
    "b8": (32, 1, (8, 128), (4, 2)),
    "c": (32, 1, (16, 8), (2, 2)),
}


def fragment_places(name):
    """Column-major index of value v of lane l, [32, values]."""
    by_lane, by_group, strides, sizes = STRIDES[name]
    counts = [index[::-1] for index in itertools.product(*[range(size) for size in sizes[::-1]])]
    values = [sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in counts]
    return np.array([[lane % 4 * by_lane + lane // 4 * by_group + value for value in values] for lane in range(32)])


def fragments(matrix, name):
    return matrix.T.reshape(-1)[fragment_places(name)]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int8"])
def test_fragments_of_the_tensor_instructions(emulator, kind):
    generator = np.random.default_rng(1)
    depth = 32 if kind == "int8" else 16
    if kind == "int8":
        a, b = generator.integers(0, 256, (16, depth)), generator.integers(-128, 128, (8, depth))
        words = [part.astype(np.uint8) for part in (fragments(a, "a8"), fragments(b, "b8"))]
        c = generator.integers(-1000, 1000, (16, 8)).astype(np.int32)
    else:  # integers, so that the sum has no rounding
        a, b = generator.integers(-9, 10, (16, depth)), generator.integers(-9, 10, (8, depth))
        words = [emulated.to_bits(fragments(part, name), kind) for part, name in ((a, "a16"), (b, "b16"))]
        c = generator.integers(-9, 10, (16, 8)).astype(np.float32)
    got = emulator.mma(kind, words[0], words[1], fragments(c, "c"))
    np.testing.assert_array_equal(got, fragments(c + a @ b.T, "c"))


def test_float16_is_rounded_as_numpy_rounds_it(emulator):
    generator = np.random.default_rng(2)
    values = generator.standard_normal(2000) * 2.0 ** generator.uniform(-30, 20, 2000)
    values = np.concatenate([values, [0.0, -0.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-24, np.inf]])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float16).view(np.uint16)
    got = [emulator.float_to_float16(float(value)) for value in values.astype(np.float32)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no wait", "read before it was copied"),
        ("lane leaves", "divergence"),
        ("two collectives", "divergence"),
        ("different collectives", "divergence: came to mma_float16 while others wait at mma_bfloat16"),
        ("outside", "access outside of every array"),
        ("outside shared", "access outside of every array"),
        ("not aligned", "not aligned"),
    ],
)
def test_faults_are_found(emulator, fault, message):
    for reverse in (False, True):
        found = emulator.fault(fault, reverse)
        if fault == "different collectives" and reverse:
            message = "divergence: came to mma_bfloat16 while others wait at mma_float16"
        assert message in found, found


def test_a_missing_barrier_is_found_in_one_order_or_the_other(emulator):
    assert "read before it was written" in emulator.fault("no barrier", False) + emulator.fault("no barrier", True)


def test_correct_code_passes_and_conflicts_are_counted(emulator):
    assert emulator.fault("none", False) == emulator.fault("none", True) == ""
    emulator.bank_conflicts()
    assert emulator.fault("bank conflict", False) == ""
    assert emulator.bank_conflicts() == 4 * 7  # 8 lanes of each quarter in the same banks
