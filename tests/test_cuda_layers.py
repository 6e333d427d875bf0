"""Products of the engine on the emulated GPU: tiles of every size, against float64, and with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import emulated
from checking import same_bits
from emulated_layers import DTYPES as PRECISIONS
from emulated_layers import FLOATS, Layer, address, call, integers, pointers

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

DTYPES = (np.float32, np.float64)
# With so many multiprocessors [3 * 150, 140] outputs are cut into tiles of 128 (float32 alone), 64 and 16.
MULTIPROCESSORS = (1, 10, 1000)


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


def close(got, expected, size, depth, dtype):
    """Within the bound of a sum of `depth` rounded products whose absolute values add up to `size`."""
    assert (np.abs(got - expected) <= (depth + 2) * np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(emulator, dtype, tangent):
    lanes, rows, n, k = 3, 150, 140, 37
    generator = np.random.default_rng(1)
    x, bias = generator.standard_normal((lanes, rows, k)).astype(dtype), generator.standard_normal(n).astype(dtype)
    w = generator.standard_normal((lanes, n, k)).astype(dtype)
    used = [0, 1, 2] if tangent else [0, 0, 2]  # two lanes share a weight; in a tangent rollout lane 1 has none
    expected, size = np.zeros((lanes, rows, n)), np.zeros((lanes, rows, n))
    for lane in range(lanes):
        pairs = [(x[lane], w[0 if tangent else used[lane]])]
        if tangent and lane == 2:
            pairs.append((x[0], w[2]))
        offset = bias if lane == 0 or not tangent else np.zeros(n)
        expected[lane] = sum(a.astype(float) @ b.T.astype(float) for a, b in pairs) + offset
        size[lane] = sum(np.abs(a.astype(float)) @ np.abs(b.T.astype(float)) for a, b in pairs) + np.abs(offset)
    arrays = [emulator.guarded(array) for array in (x, bias, w)]
    bytes_each = n * k * np.dtype(dtype).itemsize
    weights = [arrays[2].address + number * bytes_each for number in used]
    if tangent:
        weights[1] = None
    table = pointers(weights)
    results = []
    for multiprocessors in MULTIPROCESSORS:
        out = emulated.Guarded(emulator.library, (lanes, rows, n), dtype)
        call(
            emulator.library.emulated_layer, DTYPES.index(dtype), int(tangent),
            *integers(lanes, 1, rows, n, k, 1, k), address(arrays[0]), table,
            pointers([arrays[1].address, None, None]), *integers(0), address(out), multiprocessors, 0, 0, None,
        )  # fmt: skip
        results.append(out.array.copy())
        close(results[-1], expected, size, 2 * k, dtype)
        same_bits(results[-1], results[0])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "m", "n", "k"), [(2, 260, 300, 33), (9, 40, 70, 16), (3, 5, 7, 50)])
def test_matmul(emulator, dtype, transposed, batch, m, n, k):
    """An emulated device has four multiprocessors: tiles of 128, 64 and 16."""
    generator = np.random.default_rng(2)
    a, b = (generator.standard_normal(shape).astype(dtype) for shape in ((batch, m, k), (batch, k, n)))
    memory = [emulator.guarded(a), emulator.guarded(np.ascontiguousarray(b.swapaxes(1, 2)) if transposed else b)]
    out = emulated.Guarded(emulator.library, (batch, m, n), dtype)
    call(
        emulator.library.emulated_matmul, DTYPES.index(dtype), int(transposed), 0, 0, *integers(1, batch, m, n, k),
        *map(address, memory), address(out),
    )  # fmt: skip
    wide = [part.astype(float) for part in (a, b)]
    close(out.array, wide[0] @ wide[1], np.abs(wide[0]) @ np.abs(wide[1]), k, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "how",
    [
        {"used": [0, 0, 2], "biases": "each"},
        {"tangent": True, "used": [0, None, 2], "biases": "rows"},
        {"groups": 3},
    ],
    ids=str,
)
def test_layers_have_the_same_bits_in_vectors_and_by_element(emulator, dtype, how):
    """Rows at multiples of 16 bytes, and not: in every shape of tile, with a rest of k."""
    sizes = {"lanes": 3, "samples": 2, "rows": 30, "n": 72, "k": 60}
    aligned, odd = (Layer(emulator, dtype, **sizes, **how, stride=stride) for stride in (64, 65))
    for multiprocessors in (1, 3, 1000):  # tiles of 128 (float32 alone), 64 and 16
        same_bits(aligned.check(multiprocessors=multiprocessors), odd.run(multiprocessors=multiprocessors))


# Blocks along y of the emulated device, each with 16 columns or, of 16 bits, 64 (cuda/grid.h there).
MOST_BLOCKS = 2048


def test_layers_of_more_columns_than_a_grid_has_along_one_axis(emulator):
    for groups in (1, 3):  # 2049 blocks of columns, and 3 times 683
        n = groups * (MOST_BLOCKS // groups * 16 + 5)
        Layer(emulator, "float32", 1, 1, 1, n, groups, groups=groups, biases="none").check(multiprocessors=1000)


@pytest.mark.parametrize(("dtype", "edge"), [("float32", 16), ("bfloat16", 64)])
def test_products_of_more_columns_than_a_grid_has_along_one_axis(emulator, dtype, edge):
    depth, columns = 8, MOST_BLOCKS * edge + 8
    generator = np.random.default_rng(3)
    bits = [emulated.to_bits(generator.standard_normal(shape), dtype) for shape in ((1, depth), (depth, columns))]
    out = emulated.Guarded(emulator.library, (1, columns), bits[0].dtype)
    memory = [emulator.guarded(part) for part in bits]
    call(
        emulator.library.emulated_matmul, PRECISIONS[dtype][0], 0, 0, 0, *integers(1, 1, 1, columns, depth),
        *map(address, memory), address(out),
    )  # fmt: skip
    a, b = (emulated.from_bits(part, dtype).astype(float) for part in bits)
    got = emulated.from_bits(out.array, dtype).astype(float)
    rounding = PRECISIONS[dtype][1] * np.abs(a @ b)
    assert (np.abs(got - a @ b) <= rounding + (depth + 2) * 2.0**-23 * (np.abs(a) @ np.abs(b))).all()
