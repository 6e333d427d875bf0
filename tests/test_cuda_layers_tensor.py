"""Layers of 16-bit operands on the tensor cores of the emulated GPU: against float64, and with the same bits."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import emulated
from checking import same_bits
from test_cuda_layers import address, call, integers, pointers

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

# Number, half a last place relative to 1, and a last place of sums.
FLOATS = {"float32": (0, 2.0**-24, 2.0**-23), "float64": (1, 2.0**-53, 2.0**-52)}
HALVES = {"bfloat16": (2, 2.0**-8, 2.0**-23), "float16": (3, 2.0**-11, 2.0**-23)}
DTYPES = FLOATS | HALVES
# Shapes of tiles: 256 x 128, 128 x 128, 64 x 64, 16 x 64 as [.., rows, n] is large and the device small.
SHAPES = {
    "256x128": (2, 300, 250, 1), "128x128": (1, 250, 260, 1), "64x64": (1, 130, 70, 4), "16x64": (1, 9, 30, 100),
}  # fmt: skip


@pytest.fixture(scope="module")
def emulator():
    return emulated.emulator()


class Layer:
    """A layer with everything a task may have, and what it should be. biases: none, one for all lanes, one for each at
    an address of its own, or one for each in the rows of an array."""

    def __init__(self, emulator, dtype, lanes, samples, rows, n, k, *, tangent=False, groups=1, used=None, biases="one",
                 stride=None, seed=0):  # fmt: skip
        self.emulator, self.dtype, self.tangent, self.groups = emulator, dtype, tangent, groups
        self.sizes, self.stride, self.k = (lanes, samples, rows, n), stride or k, k
        generator = np.random.default_rng(seed)

        def drawn(*shape):
            bits = emulated.to_bits(generator.standard_normal(shape), dtype)
            return bits, emulated.from_bits(bits, dtype).astype(float)

        x_bits, self.x = drawn(lanes, samples, rows, k)
        wide = np.empty((lanes, samples, rows, self.stride), x_bits.dtype)
        wide.view(np.uint8)[...] = 0xFF  # NaN between rows
        wide[..., :k] = x_bits
        self.memory = [emulator.guarded(wide)]
        self.used = list(range(lanes)) if used is None else used  # the weight of each lane; None: a zero tangent
        weights = {number: drawn(n, k // groups) for number in set(self.used) - {None}}
        self.weights = {number: values for number, (_, values) in weights.items()}
        places = {number: emulator.guarded(bits) for number, (bits, _) in weights.items()}
        own = {"none": [], "one": [0], "each": range(lanes), "rows": range(lanes)}[biases]
        bias = {lane: drawn(n) for lane in own}
        self.bias = {lane: values for lane, (_, values) in bias.items()}
        if biases == "rows":
            kept = {0: emulator.guarded(np.stack([bits for bits, _ in bias.values()]))}
        else:
            kept = {lane: emulator.guarded(bits) for lane, (bits, _) in bias.items()}
        self.bias_stride = n if biases == "rows" else 0
        self.memory += [*places.values(), *kept.values()]
        self.table = pointers([None if number is None else places[number].address for number in self.used])
        self.bias_table = pointers([kept[lane].address if lane in kept else None for lane in range(lanes)])
        self.has_bias = bool(kept)

    def run(self, multiprocessors=1, reverse=False, by_library=0, tf32=False):
        """Bits of the result; `products` says how many the library was asked for (emulated_layer)."""
        out = emulated.Guarded(self.emulator.library, self.sizes, self.memory[0].array.dtype)
        lanes, samples, rows, n = self.sizes
        products = ctypes.c_int64()
        self.emulator.library.emulated_reverse(int(reverse))
        call(
            self.emulator.library.emulated_layer, DTYPES[self.dtype][0], int(self.tangent),
            *integers(lanes, samples, rows, n, self.k, self.groups, self.stride), address(self.memory[0]), self.table,
            self.bias_table if self.has_bias else None, *integers(self.bias_stride), address(out), multiprocessors,
            by_library, int(tf32), ctypes.byref(products),
        )  # fmt: skip
        self.products = products.value
        return out.array.copy()

    def product(self, x, weight):
        """[samples, rows, n]"""
        each = self.sizes[3] // self.groups
        depth = self.k // self.groups
        parts = [
            x[..., g * depth : (g + 1) * depth] @ weight[g * each : (g + 1) * each].T for g in range(self.groups)
        ]  # fmt: skip
        return np.concatenate(parts, -1)

    def expected(self):
        """The exact result, and the sum of the sizes of what was added."""
        result, size = np.zeros(self.sizes), np.zeros(self.sizes)
        for lane in range(self.sizes[0]):
            pairs = [(self.x[lane], self.used[0 if self.tangent else lane])]
            if self.tangent and lane > 0:
                pairs.append((self.x[0], self.used[lane]))
            bias = self.bias.get(lane if len(self.bias) > 1 or self.tangent else 0)
            for function, sums in ((lambda v: v, result), (np.abs, size)):
                for x, number in pairs:
                    if number is not None:
                        sums[lane] += self.product(function(x), function(self.weights[number]))
                if bias is not None:
                    sums[lane] += function(bias)
        return result, size

    def check(self, **how):
        bits = self.run(**how)
        error, bound = self.errors(bits)
        worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error - bound)), error.shape)
        assert error[worst] <= bound[worst], f"{worst}: {error[worst]} of {bound[worst]} allowed"
        return bits

    def errors(self, bits, operands=0.0):
        """Of every element, and what they may be; `operands`: how much of itself one loses before it is multiplied."""
        result, size = self.expected()
        # Each addition is cut or rounded to a last place of at most `size`; then one rounding.
        _, rounding, place = DTYPES[self.dtype]
        depth = 2 * self.k // self.groups + 2
        error = np.abs(emulated.from_bits(bits, self.dtype) - result)
        bound = (depth * place + 2 * operands) * size
        return error, bound + rounding * (np.abs(result) + bound)


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
    results = [layer.run(multiprocessors=count) for count in (1, 4, 20, 1000)]
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
