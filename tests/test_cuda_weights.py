"""Variants of weights made on a GPU, or on an emulated one (torch_cuda.py): the bits are the processor's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from cases.formats import FORMATS
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.engines.lane import Drawn
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.adjoint import squared_error
from tqs_fast.scoring.methods import normal, relative_energy

EMULATED = core.cuda_architectures() == "emulated"
DEVICE = torch.device("cuda:0")

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)

UNTOUCHED = -7.0


def there(function, *arguments, **named):
    """Called with tensors on the device."""
    moved = [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in arguments]
    result = function(*moved, **named)
    return result.cpu() if isinstance(result, torch.Tensor) else result


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("elements", "begin", "count"), [(1, 0, 1), (9, 2, 6), (13, 0, 0), (40, 40, 0), (3001, 5, 2903)]
)
def test_noise_has_the_bits_of_the_host(dtype, elements, begin, count):
    weight = drawn(elements, dtype=dtype)
    noise = Drawn(3, 2**40 + 5, 0.25, begin, count)
    expected = noise.tensor(weight)
    assert torch.equal(there(noise.tensor, weight), expected)
    assert count == 0 or not torch.equal(expected, weight)


@pytest.mark.parametrize("in_place", [False, True])
def test_noise_touches_its_own_elements_only(in_place):
    before, after = (torch.full((1000,), UNTOUCHED, device=DEVICE) for _ in range(2))
    after = before if in_place else after
    step = before.element_size()
    core.add_noise_cuda(
        from_=before.data_ptr() + 100 * step, to=after.data_ptr() + 100 * step, precision=0, elements=701, begin=3,
        count=601, scale=1.0, seed=1, stream=2, device=0, work=0,
    )  # fmt: skip
    torch.cuda.synchronize()
    changed = after.cpu() != UNTOUCHED
    assert changed[103:704].all()
    assert not changed[:103].any()
    assert not changed[704:].any()


def test_normal_numbers_are_those_of_the_host():
    found = there(normal, drawn(41, 97), 5, 6)
    assert np.array_equal(found.numpy().ravel(), kernels.normal(41 * 97, seed=5, stream=6).astype(np.float64))


def matrices(columns: int):
    """Usual rows, and hard ones: of zeros; of one size, the last negative; with one large element; near the largest
    float; subnormal; of one sign; as large as floats are."""
    usual = drawn(7, columns)
    hard = usual.clone()
    hard[0] = 0
    hard[1], hard[1, -1] = 0.3, -0.3
    hard[2, columns // 2] = -1e4
    hard[3] *= 1e38
    hard[4] *= 1e-41
    hard[5] = hard[5].abs()
    hard[6] = 3.4e38
    return usual, hard


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("search", ["minmax", "mse"])
def test_rounding_has_the_bits_of_the_host(form, search):
    quantizer = tqs.Quantizer(group_size=form.group_size, symmetric=form.symmetric, search=search)
    for columns in (1, 31, 130):
        for weight in matrices(columns):
            expected = quantizer.dequantized(weight, form.bits)
            found = there(quantizer.dequantized, weight, form.bits)
            assert np.array_equal(found.numpy().view(np.int32), expected.numpy().view(np.int32))
            assert found.shape == weight.shape


def test_a_weight_that_is_not_finite_is_named():
    weight = drawn(3, 40)
    weight[1, 7] = float("nan")
    with pytest.raises(ArgumentError, match=r"expected finite weights, got nan at \[1, 7\]"):
        there(tqs.Quantizer().dequantized, weight, 4)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0)], ids=str)
def test_a_weight_without_a_row_or_column_is_refused(shape):
    with pytest.raises(ArgumentError, match="expected a non-empty weight of at least two dimensions"):
        there(tqs.Quantizer().dequantized, torch.ones(shape), 4)


def test_energies_are_those_of_the_host():
    """Sums of 2000 terms >= 0 in two orders differ by at most 2000 units in the last place, 2^-53, each."""
    weight = drawn(20, 100)
    changed = tqs.Quantizer().dequantized(weight, 3)
    expected = relative_energy(weight, changed)
    assert there(relative_energy, weight, changed) == pytest.approx(expected, rel=4 * 2000 * 2**-53)
    assert there(relative_energy, weight, weight) == 0.0
    np.testing.assert_allclose(
        there(squared_error, weight, tqs.Quantizer(), 3), squared_error(weight, tqs.Quantizer(), 3), rtol=64 * 2**-53
    )
