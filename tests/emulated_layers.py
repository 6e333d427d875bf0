"""Layers of the engine on the emulated GPU (native/cuda_emulator/layers.cpp), and what they should be."""

from __future__ import annotations

import ctypes

import numpy as np

import emulated

# Number, half a last place relative to 1, and a last place of sums.
FLOATS = {"float32": (0, 2.0**-24, 2.0**-23), "float64": (1, 2.0**-53, 2.0**-52)}
HALVES = {"bfloat16": (2, 2.0**-8, 2.0**-23), "float16": (3, 2.0**-11, 2.0**-23)}
DTYPES = FLOATS | HALVES


def call(function, *arguments):
    function.restype = ctypes.c_char_p
    said = function(*arguments)
    assert said is None, said


def address(array):
    return ctypes.c_void_p(array.address)


def integers(*values):
    return [ctypes.c_int64(value) for value in values]


def pointers(addresses):
    return (ctypes.c_void_p * len(addresses))(*addresses)


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
