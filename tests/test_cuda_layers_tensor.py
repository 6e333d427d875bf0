"""Layers of 16-bit operands on the tensor cores of the emulated GPU: against float64, and with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import emulated
from checking import same_bits
from emulated_layers import HALVES, Layer, address, call, integers

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

# Shapes of tiles: 256 x 128, 128 x 128, 64 x 64, 16 x 64 as [.., rows, n] is large and the device small.
SHAPES = {
    "256x128": (2, 300, 250, 1), "128x128": (1, 250, 260, 1), "64x64": (1, 130, 70, 4), "16x64": (1, 9, 30, 100),
}  # fmt: skip


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tangent", [False, True])
def test_half_layers(emulator, dtype, shape, tangent):
    samples, rows, n, multiprocessors = SHAPES[shape]
    used = [0, None, 2] if tangent else [0, 0, 2]
    layer = Layer(emulator, dtype, 3, samples, rows, n, 72, tangent=tangent, used=used, biases="each", stride=80)
    forward = layer.check(multiprocessors=multiprocessors)
    same_bits(layer.run(multiprocessors=multiprocessors, reverse=True), forward)


@pytest.mark.parametrize("tangent", [False, True])
def test_half_layers_have_the_same_bits_in_every_shape_of_tile(emulator, tangent):
    """Also where a lane and its rows lie among others."""
    layer = Layer(emulator, "bfloat16", 2, 2, 150, 144, 200, tangent=tangent, used=[0, 1])
    results = [layer.check(multiprocessors=count) for count in (1, 4, 20, 1000)]
    for other in results[1:]:
        same_bits(other, results[0])


@pytest.mark.parametrize("rows", range(1, 65))
def test_half_layers_of_few_rows(emulator, rows):
    generator = np.random.default_rng(rows)
    n, k = int(generator.integers(1, 140)), 8 * int(generator.integers(1, 30))
    Layer(emulator, "bfloat16", 1, 1, rows, n, k, biases="none", seed=rows).check()


@pytest.mark.parametrize("n", [1, 7, 8, 63, 64, 65, 129, 136])
@pytest.mark.parametrize("k", [8, 56, 64, 72, 128, 328])
def test_half_layers_of_ragged_sizes(emulator, n, k):
    Layer(emulator, "float16", 2, 1, 70, n, k, used=[0, 1], seed=n * k).check(multiprocessors=2)


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("n", [72, 132])
def test_half_layers_in_groups(emulator, n, tangent):
    layer = Layer(emulator, "bfloat16", 3, 2, 20, n, 48, tangent=tangent, groups=3, biases="each")
    layer.check(multiprocessors=1)


def test_half_layers_whose_lanes_have_no_weight_at_all(emulator):
    """A tangent that is zero but for its bias."""
    layer = Layer(emulator, "bfloat16", 3, 1, 40, 40, 64, tangent=True, used=[0, None, None], biases="each")
    layer.x[1:] = 0
    layer.memory[0].array[1:] = 0
    layer.check()


def test_half_layers_read_shared_memory_without_conflicts(emulator):
    layer = Layer(emulator, "bfloat16", 1, 1, 300, 250, 200)
    for count in (1, 3, 20, 1000):
        emulator.bank_conflicts()
        layer.run(multiprocessors=count)
        assert emulator.bank_conflicts() == 0


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_half_layers_keep_special_values(emulator, value, transposed):
    layer = Layer(emulator, "float16", 1, 1, 20, 20, 64)
    layer.memory[int(transposed)].array.reshape(-1, 64)[3, 5] = np.float16(value).view(np.uint16)
    result = layer.run().view(np.float16)[0, 0]
    touched = ~np.isfinite(result)
    assert touched.all(axis=int(not transposed)).sum() == 1
    assert touched.sum() == 20


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shared", [None, 0, 1, 2])  # None: an ensemble; a tangent rollout in which a, b are shared
@pytest.mark.parametrize(
    ("batch", "m", "n", "k"), [(7, 270, 136, 72), (3, 130, 200, 8), (2, 70, 64, 136), (1, 3, 8, 200)]
)
def test_half_products_of_activations(emulator, dtype, transposed, shared, batch, m, n, k):
    """Tiles of all shapes: an emulated device has four multiprocessors."""
    generator = np.random.default_rng(m)
    lanes, tangent = 3, shared is not None
    counts = [1 if shared and shared >> place & 1 else lanes for place in (0, 1)]
    shapes = (counts[0], batch, m, k), (counts[1], batch, k, n)
    bits = [emulated.to_bits(generator.standard_normal(shape), dtype) for shape in shapes]
    a, b = (emulated.from_bits(part, dtype).astype(float) for part in bits)
    memory = [emulator.guarded(bits[0]), emulator.guarded(bits[1].swapaxes(2, 3).copy() if transposed else bits[1])]
    out = emulated.Guarded(emulator.library, (lanes, batch, m, n), np.uint16)
    call(
        emulator.library.emulated_matmul, HALVES[dtype][0], int(transposed), int(tangent), shared or 0,
        *integers(lanes, batch, m, n, k), *map(address, memory), address(out),
    )  # fmt: skip
    for lane in range(lanes):
        pairs = [(a[lane % counts[0]], b[lane % counts[1]])]
        if tangent and lane > 0:
            pairs = [(a[lane], b[0])] if counts[0] > 1 else []
            pairs += [(a[0], b[lane])] if counts[1] > 1 else []
        result = sum(x @ y for x, y in pairs)
        size = sum(np.abs(x) @ np.abs(y) for x, y in pairs)
        bound = (2 * k + 2) * 2.0**-23 * size
        bound += HALVES[dtype][1] * (np.abs(result) + bound)
        assert (np.abs(emulated.from_bits(out.array[lane], dtype) - result) <= bound).all()
