"""Rows that the GPU reads in vectors and holds in registers (csrc/cuda/device/rows.cuh), and the same rows where they
cannot be read so: near the float64 oracle, and of the same bits. On a GPU, or on the emulated one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cases.ops import normalize, softmax
from checking import same_bits
from programs import Data, Native, View
from test_cuda_engine import GPU
from test_cuda_half import SAMPLES, STORED, close_but_for_storing, data_of
from test_program_ops import root_mean_square
from tqs_fast._native import core

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)

PRECISIONS = ("float32", "bfloat16", "float16")
# The last row without vectors, the first with them; a warp's longest; a block's of one round, of three (the last one
# ragged) and its longest; one that is too long to hold.
LENGTHS = (248, 256, 1000, 1024, 2048, 4104, 8192, 8200)
OPS = {
    "softmax": lambda x, out=None: softmax("", x, False, out),
    "log softmax": lambda x, out=None: softmax("", x, True, out),
    "normalize": lambda x, out=None: normalize("", x, 1, True, out),
    "root mean square": lambda x, out=None: normalize("", x, 1, False, out),
}
ROWS = [(name, count, PRECISIONS[(i + j) % 3]) for i, name in enumerate(OPS) for j, count in enumerate(LENGTHS)]


def laid_out(data: Data, view: View) -> Data:
    """The rows of `data`, contiguous there, as `view` has them; NaN between them."""

    def moved(x):
        memory = np.full((*x.shape[:-1], view.elements), np.nan)
        index = view.offset + sum(n * step for n, step in zip(np.indices(view.sizes), view.steps, strict=True))
        memory[..., index.ravel()] = x
        return memory

    return replace(data, values=[moved(x) for x in data.values], seeds=[moved(x) for x in data.seeds])


@pytest.mark.parametrize(("name", "count", "precision"), ROWS)
def test_rows_in_vectors_and_by_element(name, count, precision):
    """Both are near the oracle; and that x begins off a multiple of 16 bytes, that its rows or the result's do, or that
    its elements lie apart, changes no bit."""
    rows = View((2, count))
    case = OPS[name](rows)
    data = data_of(case, precision)
    native = Native(case, precision, data.values, GPU)
    (alone,) = native.ensemble(data.values)
    (y,), (dy,) = native.tangents(data.values, data.seeds)
    same_bits(alone[0], y)
    close_but_for_storing(y, data.outputs[0], precision, case.roundings)
    scale = root_mean_square(data.outputs[0]) / max(root_mean_square(data.tangents[0]), 1e-3)
    close_but_for_storing(dy, data.tangents[0], precision, case.roundings, noise=1e-10 * (1 + scale))
    off, apart = View((2, count), None, 1), View((2, count), (count + 1, 1))
    for x, out in ((off, None), (apart, None), (View((2, count), (1, 2)), None), (rows, off), (rows, apart)):
        twin = OPS[name](x, out)
        moved = laid_out(data, x)
        other = Native(twin, precision, moved.values, GPU)
        same_bits(other.ensemble(moved.values)[0][0], y)
        same_bits(other.ensemble([x[:1] for x in moved.values])[0][0], y[:1])
        (z,), (dz,) = other.tangents(moved.values, moved.seeds)
        same_bits(z, y)
        same_bits(dz, dy)


@pytest.mark.parametrize("name", OPS)
def test_rows_of_one_precision_into_another(name):
    """float32 and 16 bits, either way: what is computed is the same, what is stored is that, rounded."""
    count = 1032
    for given, stored in (("bfloat16", "float32"), ("float32", "float16")):
        x, out = View((2, count), precision=given), View((2, count), precision=stored)
        data = data_of(OPS[name](x, out), "float32")
        case = OPS[name](x, out)
        (y,), (dy,) = Native(case, "float32", data.values, GPU).tangents(data.values, data.seeds)
        wide = OPS[name](replace(x, precision="float32"))
        (z,), (dz,) = Native(wide, "float32", data.values, GPU).tangents(data.values, data.seeds)
        dtype = np.float32 if stored == "float32" else np.float16
        same_bits(y.astype(dtype), z.astype(dtype))
        same_bits(dy.astype(dtype), dz.astype(dtype))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("count", [256, 2048])
def test_rows_that_are_not_finite(name, count):
    """A NaN makes its row NaN and no other; of a row that has infinities the rest is that of the oracle."""
    case = OPS[name](View((2, count)))
    data = data_of(case, "float32")
    data.values[0][1, count + 3] = np.nan
    (y,) = Native(case, "float32", data.values, GPU).ensemble(data.values)
    rows = y[0].reshape(SAMPLES, 2, count)
    assert np.isnan(rows[1, 1]).all()
    rest = np.ones((SAMPLES, 2), bool)
    rest[1, 1] = False
    assert np.isfinite(rows[rest]).all()
    if "softmax" in name:
        data.values[0][1, count + 3] = -np.inf
        (y,) = Native(case, "float32", data.values, GPU).ensemble(data.values)
        assert y[0].reshape(SAMPLES, 2, count)[1, 1, 3] == (-np.inf if "log" in name else 0)
        assert np.isfinite(np.delete(y[0].reshape(SAMPLES, 2, count)[1, 1], 3)).all()
        (y,) = Native(case, "float32", data.values, GPU).ensemble([np.full_like(data.values[0], -1e4)])
        np.testing.assert_allclose(y[0], -np.log(count) if "log" in name else 1 / count, rtol=2.0**-22)


def test_the_bounds_are_not_loose():
    """One element of 8192 that misses its mean by a 100th is found."""
    case = OPS["normalize"](View((2, 8192)))
    data = data_of(case, "float32")
    wrong = data.outputs[0].copy()
    wrong[1, 5000] += 0.01
    with pytest.raises(AssertionError, match="1 of"):
        close_but_for_storing(wrong, data.outputs[0], "float32", case.roundings)
    assert set(STORED) >= set(PRECISIONS)
