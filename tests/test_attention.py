"""The attention kernels through their operators: values, tangents, layouts, bits, special values, on every ISA."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from attention_cases import LANES, UNIT, Expectation, math_attention, problem, run
from checking import same_bits
from tqs_fast import _attention_kernel, kernels

ISAS = [isa for isa, runs in kernels.info()["isas"].items() if runs]
by_isa = pytest.mark.parametrize("isa", ISAS)
by_dtype = pytest.mark.parametrize("dtype", UNIT, ids=str)


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def cast(parts, dtype):
    return tuple(None if part is None else part.to(dtype) for part in parts)


def check_everywhere(primal, tangents, **settings):
    """Every ISA and dtype against one expectation; returns the last results."""
    expected = Expectation(primal, tangents, **settings)
    for isa, dtype in itertools.product(ISAS, UNIT):
        kernels.use_isa(isa)
        results = run(cast(primal, dtype), cast(tangents, dtype), **settings)
        expected.check(*results, label=f"{isa} {dtype} {[list(part.shape) for part in primal[:3]]} {settings}:")
    return results


def test_the_checker_sees_planted_faults():
    primal, tangents = problem(20, 33, 8, 9, torch.float32, masked=True)
    settings = {"causal": True, "causal_offset": 5}
    out, dout = run(primal, tangents, **settings)
    expected = Expectation(primal, tangents, **settings)
    expected.check(out, dout)
    zeroed, flipped, nan, other = (dout.clone() for _ in range(4))
    zeroed[1, 0, 16:] = 0
    flipped[2, 1, 3] *= -1
    nan[0, 0, 0, 0] = torch.nan
    other[0] = dout[1]
    drift = dout + 1e-3 * out  # a part of the total of p ds was lost
    for wrong in (zeroed, flipped, nan, other, drift):
        with pytest.raises(AssertionError, match="dout"):
            expected.check(out, wrong)
    last = out.clone()
    last[1, 19, 8] += 1e-4
    with pytest.raises(AssertionError, match=r"out: 1 of 360 out of bound; worst at \[1, 19, 8\]"):
        expected.check(last)
    for change in ({"causal_offset": 4}, {"causal": False}, {"scale": 0.354}):
        with pytest.raises(AssertionError):
            Expectation(primal, tangents, **(settings | change)).check(out, dout)
    for missing in range(4):
        some = tuple(None if place == missing else part for place, part in enumerate(tangents))
        with pytest.raises(AssertionError, match="dout"):
            Expectation(primal, some, **settings).check(out, dout)


# ------------------------------------------------------------------------------------------------ values and tangents

SIZES = [  # queries, keys, depth, width
    (1, 1, 1, 1),
    (1, 200, 64, 64),
    (3, 5, 7, 9),
    (16, 16, 16, 16),
    (17, 33, 20, 11),
    (40, 130, 64, 40),
    (70, 200, 33, 65),
    (5, 300, 16, 130),
    (33, 1, 3, 2),
    (129, 65, 8, 8),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_tangents(size, masked):
    primal, tangents = problem(*size, masked=masked)
    check_everywhere(primal, tangents)
    for offset in (0, size[1] - size[0], -4):
        out, dout = check_everywhere(primal, tangents, causal=True, causal_offset=offset)
        blind = np.arange(size[0]) + offset < 0
        assert not out[:, blind].any()
        assert not dout[:, :, blind].any()


def test_sizes_one_to_seventy():
    for size in range(1, 71):
        depth, width, keys = 1 + size % 19, 1 + (3 * size) % 37, 1 + (5 * size) % 97
        primal, tangents = problem(size, keys, depth, width, heads=1, masked=size % 2 == 0)
        check_everywhere(primal, tangents, causal=size % 3 == 0, causal_offset=size % 7 - 3)


def test_every_width_and_depth():
    for size, queries in itertools.product(range(1, 71), (2, 16)):
        check_everywhere(*problem(queries, 9, size, 71 - size, heads=1))


@pytest.mark.parametrize("queries", [2, 20])
def test_tangents_that_are_zero(queries):
    primal, tangents = problem(queries, 21, 8, 9, masked=True)
    for given in itertools.product((False, True), repeat=4):
        if any(given):
            check_everywhere(primal, tuple(t if chosen else None for t, chosen in zip(tangents, given, strict=True)))


@pytest.mark.parametrize("queries", [3, 40])
def test_masks_that_hide(queries):
    (q, k, v, mask), tangents = problem(queries, 70, 8, 9, masked=True)
    mask = mask.clone()
    mask[..., ::3] = -torch.inf
    mask[0, 1] = -torch.inf
    mask[1, :, :66] = -torch.inf  # the first block of keys is hidden from all
    out, dout = check_everywhere((q, k, v, mask), tangents)
    assert not out[0, 1].any()
    assert not dout[:, 0, 1].any()
    # an infinite slope of a key with weight 0 does not come through
    wild = tangents[3].clone()
    wild[..., ::3] = torch.inf
    for isa in ISAS:
        kernels.use_isa(isa)
        tame = run((q, k, v, mask), tangents)[1]
        assert torch.equal(run((q, k, v, mask), (*tangents[:3], wild))[1], tame)


def test_central_differences():
    """Step 2^-16 in float64: a third derivative of some units leaves 1e-10, cancellation 2^-53 2^16 = 7e-12."""
    primal, tangents = problem(19, 40, 8, 9, masked=True)
    step, settings = 2.0**-16, {"causal": True, "causal_offset": 3}
    _, dout = run(primal, tangents, **settings)
    for lane in range(LANES):
        up, down = (
            run([p + sign * step * t[lane] for p, t in zip(primal, tangents, strict=True)], **settings)[0]
            for sign in (1, -1)
        )
        torch.testing.assert_close(dout[lane], (up - down) / (2 * step), rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------------------------------------ layouts and bits

LAYOUTS = {
    "heads between": lambda x: x.transpose(-2, -3).contiguous().transpose(-2, -3),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "offset": lambda x: torch.cat([x[..., :1], x], -1)[..., 1:],
}


@by_isa
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_changes_no_bit(isa, layout):
    kernels.use_isa(isa)
    for queries in (2, 37):
        primal, tangents = problem(queries, 70, 20, 9, torch.float32, masked=True)
        moved = tuple(LAYOUTS[layout](part) for part in primal)
        moved_tangents = tuple(LAYOUTS[layout](part) for part in tangents)
        expected = run(primal, tangents)
        for got in (run(moved, moved_tangents), run(moved, tangents), run(primal, moved_tangents)):
            for ours, wanted in zip(got, expected, strict=True):
                same_bits(ours.numpy(), wanted.numpy())


@by_dtype
@by_isa
def test_place_lanes_and_threads_change_no_bit(isa, dtype, monkeypatch):
    kernels.use_isa(isa)
    real = _attention_kernel.core.attention
    for queries, keys in ((1, 150), (5, 80), (45, 45), (300, 40)):
        primal, tangents = problem(queries, keys, 20, 17, dtype, heads=4, masked=True)
        settings = {"causal": True, "causal_offset": keys - queries}
        expected = run(primal, tangents, **settings)
        for threads in (1, 3):
            with monkeypatch.context() as patch:
                patch.setattr(
                    _attention_kernel.core,
                    "attention",
                    lambda problem, count=threads, **_: real(problem, threads=count),
                )
                for ours, wanted in zip(run(primal, tangents, **settings), expected, strict=True):
                    same_bits(ours.numpy(), wanted.numpy())
        for head, lane in itertools.product((0, 3), range(LANES)):
            out, dout = run([x[head] for x in primal], [t[lane : lane + 1, head] for t in tangents], **settings)
            same_bits(out.numpy(), expected[0][head].numpy())
            same_bits(dout[0].numpy(), expected[1][lane, head].numpy())


# ------------------------------------------------------------------------------------------------ special values


@by_dtype
@by_isa
def test_exp_is_accurate_to_two_units(isa, dtype):
    """Two keys with scores 0 and -x, values e_0 and e_1: the second element is exp(-x) / (1 + exp(-x))."""
    kernels.use_isa(isa)
    deepest, below = (85.0, 150.0) if dtype == torch.float32 else (700.0, 800.0)
    k, v = torch.tensor([[0.0], [-1.0]], dtype=dtype), torch.eye(2, dtype=dtype)
    x = torch.linspace(0, deepest, 4001, dtype=dtype).reshape(-1, 1)
    out = run((x, k, v, None), scale=1.0)[0].numpy()
    wide = x.numpy().astype(np.longdouble)
    expected = np.exp(-wide) / (1 + np.exp(-wide))
    error = np.abs(out[:, 1:] - expected) / expected
    # exp: 2 units, 4 u; its total, the reciprocal, the product; and 2^-52 where NumPy has no extended precision
    assert error.max() <= 7 * UNIT[dtype] + (0 if np.finfo(np.longdouble).nmant > 60 else 2.0**-52)
    assert error.max() > UNIT[dtype], "too easy: nothing is rounded"
    assert run((torch.full((1, 1), below, dtype=dtype), k, v, None), scale=1.0)[0].tolist() == [[1, 0]]


@by_isa
@pytest.mark.parametrize("queries", [3, 40])
def test_large_scores_and_what_is_not_finite(isa, queries):
    kernels.use_isa(isa)
    (q, k, v, _), _ = problem(queries, 70, 8, 9)
    big = (1e3 * q, 1e3 * k, v, None)
    torch.testing.assert_close(run(big)[0], math_attention(*big), rtol=1e-6, atol=1e-6)
    q = q.clone()
    q[0, 2] = torch.nan
    q[1, 1, 3] = torch.inf
    bad = run((q, k, v, None))[0].isnan().all(-1)
    assert bad.nonzero().tolist() == [[0, 2], [1, 1]]
