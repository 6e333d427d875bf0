"""Layers through cuBLASLt, which tests/native/cuda_emulator/cublas_lt.cpp takes the place of: what it is asked for, and
when it is asked."""

from __future__ import annotations

import pytest

import emulated
from checking import same_bits
from emulated_layers import DTYPES, HALVES, Layer
from tqs_fast import kernels
from tqs_fast._native import core

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

ALL, WORTH_IT = 1, 2


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


def asked(emulator):
    return emulator.library.emulated_library_calls()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("how", "products"),
    [
        ({"biases": "one"}, 1),
        ({"biases": "none"}, 1),
        ({"biases": "each"}, 3),  # an epilogue adds one bias
        ({"biases": "rows"}, 3),
        ({"tangent": True, "used": [0, None, None], "biases": "rows"}, 3),
        ({"used": [0, 0, 2], "stride": 104}, 2),  # the tail of a row is another row's gap
        ({"tangent": True, "used": [0, None, None], "biases": "one"}, 2),  # lane 0 has a bias, its tangents have none
        ({"tangent": True, "used": [0, None, None], "biases": "none"}, 1),
    ],
)
def test_products_of_lanes(emulator, dtype, how, products):
    layer = Layer(emulator, dtype, 3, 2, 11, 48, 88, **{"used": [0, 0, 0], **how})
    asked(emulator)
    layer.check(by_library=ALL)
    assert layer.products == products
    assert asked(emulator) == products


@pytest.mark.parametrize(
    "how",
    [
        {"tangent": True, "used": [0, None, 2]},  # two products in one sum
        {"groups": 2},
        {"k": 84},  # not 16 bytes
        {"n": 50},
        {"stride": 92},
    ],
)
def test_what_is_left_to_our_kernels(emulator, how):
    layer = Layer(emulator, "bfloat16", **{"lanes": 3, "samples": 2, "rows": 11, "n": 48, "k": 88, **how})
    asked(emulator)
    layer.run(by_library=ALL)
    assert layer.products == 0
    assert asked(emulator) == 0


@pytest.mark.parametrize(
    ("dtype", "tf32", "rows", "n"),
    [
        ("bfloat16", True, 512, 1024),
        ("float32", False, 512, 1024),
        ("float32", True, 128, 400),
        ("float64", False, 128, 400),
    ],
)
def test_small_products_are_not_worth_a_launch(emulator, dtype, tf32, rows, n):
    """10^9 operations each, or 10^8 where tensor cores take the place of multiply-adds."""
    large = Layer(emulator, dtype, 2, 1, rows, n, 512, used=[0, 0], biases="none")
    large.run(by_library=WORTH_IT, tf32=tf32)
    assert large.products == 1
    for how in ({"used": [0, 1]}, {"biases": "each", "used": [0, 0]}):
        halves = Layer(emulator, dtype, 2, 1, rows, n, 512, **{"biases": "none", **how})
        halves.run(by_library=WORTH_IT, tf32=tf32)
        assert halves.products == 0


def test_what_is_found_is_said(monkeypatch):
    monkeypatch.delenv("TQS_CUBLASLT", raising=False)
    found = kernels.info()["cuda"]["cublas_lt"]
    assert found == "emulated" if core.cuda_architectures() == "emulated" else found is None or "cublasLt" in found
    monkeypatch.setenv("TQS_CUBLASLT", "0")
    assert kernels.info()["cuda"]["cublas_lt"] is None


def test_tf32_is_used_where_it_was_allowed(emulator):
    """Ten bits of a mantissa are taken: at most 2^-10 of an operand is lost, and much more than in float32."""
    layer = Layer(emulator, "float32", 3, 2, 11, 48, 88, used=[0, 0, 0])
    error, bound = layer.errors(layer.run(by_library=ALL, tf32=True), operands=2.0**-10)
    assert (error <= bound).all()
    assert (error > layer.errors(layer.run())[1]).mean() > 0.5


@pytest.mark.parametrize("dtype", ["float64", *HALVES])
def test_tf32_is_for_float32(emulator, dtype):
    layer = Layer(emulator, dtype, 3, 2, 11, 48, 88, used=[0, 0, 0])
    same_bits(layer.run(by_library=ALL, tf32=True), layer.run(by_library=ALL))


def test_tf32_leaves_our_kernels_alone(emulator):
    layer = Layer(emulator, "float32", 3, 2, 11, 48, 88, used=[0, 0, 0])
    same_bits(layer.run(tf32=True), layer.run())
