"""The checkers find planted faults: a tolerance that lets one of these pass proves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from checking import check_product, same_bits
from tqs_fast import kernels
from tqs_fast.reference import quantization as reference


@pytest.fixture
def case():
    generator = np.random.default_rng(5)
    x = generator.standard_normal((32, 256)).astype(np.float32)
    weight = generator.standard_normal((64, 256)).astype(np.float32)
    packed = kernels.pack(weight, bits=4, group_size=64)
    return x, packed.dequantize(), kernels.qgemm(x, packed)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_faults_in_a_product_are_caught(case, bfloat16):
    x, weight, y = case
    check_product(y, x, weight, None, bfloat16=bfloat16)

    def zero_tile(y):
        y[16:24, 32:48] = 0.0

    def zero_element(y):
        y[3, 5] = 0.0

    def flip_sign(y):
        y[31, 63] *= -1.0

    def plant_nan(y):
        y[0, 0] = np.nan

    def plant_infinity(y):
        y[7, 7] = np.inf

    def swap_columns(y):
        y[:, [8, 9]] = y[:, [9, 8]]

    def drop_last_input(y):
        y -= np.outer(x[:, -1], weight[:, -1])

    for fault in (zero_tile, zero_element, flip_sign, plant_nan, plant_infinity, swap_columns, drop_last_input):
        broken = y.copy()
        fault(broken)
        with pytest.raises(AssertionError):
            check_product(broken, x, weight, None, bfloat16=bfloat16)


def test_the_aggregate_catches_what_no_element_shows(case):
    x, weight, _ = case
    size = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T
    biased = reference.qgemm(x, weight, None) + 200 * 2.0**-24 * size  # inside every element's bound of 258
    with pytest.raises(AssertionError, match="norm"):
        check_product(biased, x, weight, None)


def test_one_flipped_bit_is_caught(case):
    _, _, y = case
    broken = y.copy()
    broken.view(np.uint32)[4, 4] ^= 1
    same_bits(y, y.copy())
    with pytest.raises(AssertionError, match=r"first at \[4, 4\]"):
        same_bits(broken, y)
