"""The CUDA kernels of programs (csrc/cuda/program) on the emulator: every row of tests/cases/ops.py that has one, and
what only these kernels tell apart, with the checks of tests/test_program_ops.py: on outputs that hold NaN before and in
memory that ends where the task says."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch

import emulated
from cases.ops import CASES, attention, elementwise, normalize, reduce, running_extreme, scan, softmax, top_k
from checking import same_bits
from emulated_program import Emulated, runs_here
from programs import DTYPES, View, draw
from test_program_ops import (
    ACCURACY,
    INF,
    NAN,
    SPECIAL,
    UNIT,
    check_values_and_tangents,
    last_places,
    samples_of,
)

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

SAMPLES, TANGENTS = 3, 3


def chain_of(constants):
    """Each constant has a register of its own: 24 of them fit a block of 128 threads, 192 one of 32."""
    code, last = [], 0
    for number in range(constants):
        first = 1 + len(code)
        code += [("constant", 0.5 + number / 256), ("multiply", 0, first), ("add", last, first + 1)]
        last = first + 2
    return elementwise(f"{constants} constants", [View((2, 21))], code, roundings=8 * constants)


# Chains by where their registers are, rows by who computes them, attention by how many tiles of what size there are.
FORMS = (
    *(chain_of(constants) for constants in (30, 60, 120, 220)),
    softmax("held by a warp", View((3, 512)), True),
    softmax("by a block", View((2, 1001)), True),
    softmax("held by a block", View((2, 5000)), False),
    softmax("too long to keep", View((1, 8200)), False),
    normalize("held by a warp", View((3, 264)), 1, True),
    normalize("held by a block", View((1, 1032)), 1, False),
    normalize("too long to keep", View((1, 8201)), 1, True),
    reduce("by a block", View((2, 3, 700)), "sum", [2]),
    reduce("by a block", View((2, 3, 700), draw="apart"), "argmin", [2]),
    replace(reduce("by a block", View((2, 700), draw="unit"), "product", [1]), roundings=1e4),
    replace(reduce("by a block", View((2, 700), draw="boolean"), "all", [1])),
    top_k("3 of 700", View((1, 700), draw="apart"), 3, True),
    scan("along a long row", View((1, 100)), 1, False),
    running_extreme("along a long row", View((2, 100)), 1, True),
    attention("of many tiles", View((1, 1, 70, 20)), View((1, 1, 130, 20)), View((1, 1, 130, 40)), offset=62),
    attention("of wide tiles", View((1, 1, 66, 9)), View((1, 1, 70, 9)), View((1, 1, 70, 140))),
    attention("of wide tiles and few queries", View((1, 1, 2, 9)), View((1, 1, 70, 9)), View((1, 1, 70, 70))),
)
OWN = [case for case in (*CASES, *FORMS) if runs_here(case)]
by_case = pytest.mark.parametrize("case", OWN, ids=str)
by_precision = pytest.mark.parametrize("precision", list(UNIT))


def reverse_threads(reverse):
    emulated.emulator().library.emulated_reverse(int(reverse))


@by_precision
@by_case
def test_values_and_tangents(case, precision):
    check_values_and_tangents(Emulated(case, precision), case, precision, draw(case, SAMPLES, TANGENTS))


@by_case
def test_lanes_samples_and_the_order_of_threads_change_no_bit(case):
    data = draw(case, SAMPLES, TANGENTS)
    kernel = Emulated(case, "float32")
    chosen = 1  # of the samples, alone
    alone = samples_of(data.values, chosen)
    moved = {i: data.values[i][::-1].copy() for i in case.states()}
    lanes = kernel.ensemble(data.values, [{}, moved, {}])
    reverse_threads(True)
    backwards = kernel.ensemble(data.values)
    reverse_threads(False)
    changed = kernel.ensemble([moved.get(i, v) for i, v in enumerate(data.values)])
    for own, *others in zip(lanes, backwards, changed, kernel.ensemble(alone), strict=True):
        same_bits(own[2], own[0])
        same_bits(own[0], others[0][0])
        same_bits(own[1], others[1][0])
        same_bits(own[0][chosen : chosen + 1], others[2][0])
    if not case.seeded():
        return
    # Seven tangents: groups of four, two and one in attention.
    seeds = [s if s is None else np.concatenate([s, s / 2, s[:1]]) for s in data.seeds]
    outputs, tangents = kernel.tangents(data.values, seeds)
    for dy in tangents:
        same_bits(dy[3:6] * 2, dy[:3])
        same_bits(dy[6], dy[0])
    reverse_threads(True)
    one = [s if s is None else s[1:2] if s.ndim == 2 else s[1:2, chosen : chosen + 1] for s in data.seeds]
    part = kernel.tangents(alone, one)
    reverse_threads(False)
    for whole, own in zip(outputs, part[0], strict=True):
        same_bits(whole[chosen : chosen + 1], own)
    for whole, own in zip(tangents, part[1], strict=True):
        same_bits(whole[1:2, chosen : chosen + 1], own)


@pytest.mark.parametrize("case", [case for case in OWN if len(case.seeded()) > 1], ids=str)
def test_an_input_without_a_tangent_counts_as_zero(case):
    data = draw(case, 1, 2)
    kernel = Emulated(case, "float64")
    for chosen in case.seeded()[1:3]:
        alone = [s if i == chosen else None for i, s in enumerate(data.seeds)]
        zeros = [s if i == chosen or s is None else 0 * s for i, s in enumerate(data.seeds)]
        for got, expected in zip(
            kernel.tangents(data.values, alone)[1], kernel.tangents(data.values, zeros)[1], strict=True
        ):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("case", [c for c in OWN if any(x.source == "constant" for x in c.inputs)], ids=str)
def test_variants_of_constants(case):
    data = draw(case, SAMPLES, TANGENTS)
    kernel = Emulated(case, "float32")
    constants = [i for i, x in enumerate(case.inputs) if x.source == "constant"]
    lanes = [{}, {i: data.values[i] + data.seeds[i][0] for i in constants}, {constants[0]: data.seeds[constants[0]][1]}]
    results = kernel.ensemble(data.values, lanes)
    for lane, changed in enumerate(lanes):
        for got, expected in zip(
            results, kernel.ensemble([changed.get(i, v) for i, v in enumerate(data.values)]), strict=True
        ):
            same_bits(got[lane], expected[0])


@pytest.mark.parametrize("count", [300, 512])
def test_rows_without_a_tangent_have_none(count):
    """Of lane tables: a lane that has no tangent of x has zeros, whichever way rows are read."""
    for case in (
        softmax("", View((2, count), source="constant"), False),
        normalize("", View((2, count), source="constant"), 1, True),
    ):
        value, seed = (np.random.default_rng(k).normal(size=2 * count) for k in range(2))
        (y,) = Emulated(case, "float32").run([[value, None, seed]], True, 1)
        assert (y[1] == 0).all()
        same_bits(y[2], Emulated(case, "float32").run([[value, seed]], True, 1)[0][1])


# ---------------------------------------------------------------- special values


def run_elementwise(name, precision, *arguments):
    x = [np.asarray(a, precision).astype(np.float64)[None] for a in arguments]
    case = elementwise(name, [View((1, x[0].size)) for _ in x], [(name, *range(len(x)))])
    return Emulated(case, precision).ensemble(x)[0][0, 0]


@by_precision
def test_special_arguments(precision):
    for name, (given, expected) in SPECIAL.items():
        got = run_elementwise(name, precision, given)
        wanted = np.asarray(expected, precision)
        np.testing.assert_allclose(got, wanted, rtol=2e-7, err_msg=name)
        zero = wanted == 0
        assert (np.signbit(got)[zero] == np.signbit(wanted)[zero]).all(), f"{name}: sign of zero"


@by_precision
def test_functions_made_of_others_are_as_accurate_as_on_the_cpu(precision):
    """exp and the like are the C library's here; csrc/cuda/device/functions.cuh has what those of CUDA leave."""
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("needs an extended precision to compare with")
    generator = np.random.default_rng(0)
    for name in ("sigmoid", "softplus", "silu"):
        single, double, (low, high), function = ACCURACY[name]
        x = np.concatenate([generator.uniform(low, high, 3000), np.geomspace(1e-20, 3.0, 1000)]).astype(precision)
        error = last_places(run_elementwise(name, precision, x), function(x.astype(np.longdouble)), precision)
        assert 0.3 < error.max() <= (single if precision == "float32" else double), name


@by_precision
@pytest.mark.parametrize("largest", [True, False])
def test_ties_and_nan_as_in_torch(precision, largest):
    generator = np.random.default_rng(3)
    values = [0.0, -0.0, 1.0, -1.0, 2.0, INF, -INF, NAN]
    x = generator.choice(values, (SAMPLES, 9, 21), p=[0.15] * 5 + [0.1, 0.1, 0.05])
    given = torch.from_numpy(x).to(DTYPES[precision])
    for axis in (0, 1):
        case = running_extreme("", View((9, 21)), axis, largest)
        expected = (torch.cummax if largest else torch.cummin)(given, 1 + axis)
        for got, want in zip(Emulated(case, precision).ensemble([x.reshape(SAMPLES, -1)]), expected, strict=True):
            same_bits(got[0], want.to(given.dtype).numpy().reshape(SAMPLES, -1))
        kind = "argmax" if largest else "argmin"
        case = reduce("", View((9, 21)), kind, [axis])
        (got,) = Emulated(case, precision).ensemble([x.reshape(SAMPLES, -1)])
        want = getattr(torch, kind)(given, 1 + axis).to(given.dtype)
        same_bits(got[0], want.numpy().reshape(SAMPLES, -1))
    got = Emulated(top_k("", View((9, 21)), 21, largest), precision).ensemble([x.reshape(SAMPLES, -1)])
    want = torch.sort(given, dim=-1, descending=largest, stable=True)
    np.testing.assert_array_equal(got[0][0], want.values.numpy().reshape(SAMPLES, -1))
    same_bits(got[1][0], want.indices.to(given.dtype).numpy().reshape(SAMPLES, -1))


def test_long_sums_stay_accurate():
    """100 000 terms of 0.1: adding them up one by one is off by more than 1."""
    count = 100_000
    terms = np.full((1, count), np.float64(np.float32(0.1)))
    for case in (
        reduce("", View((1, count)), "sum", [1]),
        reduce("", View((count // 20, 20)), "sum", [0]),
        scan("", View((1, count)), 1, False),
    ):
        got = Emulated(case, "float32").ensemble([terms])[0][0, 0, -1]
        exact = terms.sum() / case.outputs[0].elements if case.kind == "reduce" else terms.sum()
        assert abs(got - exact) <= 1e-5 * exact


def test_keys_that_no_query_sees_are_not_read():
    """A context that grows: what lies behind it is whatever was there."""
    case = attention("", View((1, 1, 3, 8)), View((1, 1, 70, 8)), View((1, 1, 70, 9)), offset=64)
    data = draw(case, 2, 2)
    poisoned, seeds = ([v if v is None else v.copy() for v in parts] for parts in (data.values, data.seeds))
    for i, columns in ((1, 8), (2, 9)):
        poisoned[i][:, 67 * columns :] = np.nan
        seeds[i][..., 67 * columns :] = np.nan
    kernel = Emulated(case, "float32")
    expected = kernel.tangents(data.values, data.seeds)
    for got, want in zip(kernel.tangents(poisoned, seeds), expected, strict=True):
        same_bits(got[0], want[0])


def test_the_causal_bound_may_follow_the_clock():
    """A step that was recorded once: keys that come with later steps are not read before."""
    for queries in (2, 20):  # blocks of 16 and of 64 queries
        views = View((1, 1, queries, 8)), View((1, 1, 140, 8)), View((1, 1, 140, 9))
        first = attention("", *views, offset=3)
        for clock, step in ((0, 5), (1, 5), (17, 7), (40, 3)):
            counted = replace(first, ints={**first.ints, "counted": (step, clock)})
            then = attention("", *views, offset=3 + clock * step)
            data = draw(then, 2, 2)
            for got, want in zip(
                Emulated(counted, "float32").tangents(data.values, data.seeds),
                Emulated(then, "float32").tangents(data.values, data.seeds),
                strict=True,
            ):
                same_bits(got[0], want[0])


def test_attention_reads_shared_memory_without_conflicts():
    emulator = emulated.emulator()
    case = next(case for case in FORMS if case.name == "attention of many tiles")
    data = draw(case, SAMPLES, TANGENTS)
    emulator.bank_conflicts()
    Emulated(case, "float32").tangents(data.values, data.seeds)
    assert emulator.bank_conflicts() == 0


@by_precision
@pytest.mark.parametrize("case", [case for case in OWN if case.kind == "attention"], ids=str)
def test_attention_where_blocks_have_less_shared_memory(case, precision):
    """sm_86 and sm_89 have 99 KiB: smaller groups of tangents, and of float64 fewer queries, with the same bits."""
    data = draw(case, SAMPLES, 7)
    kernel = Emulated(case, precision)
    expected = kernel.tangents(data.values, data.seeds)
    with emulated.emulator().shared_limit(99 << 10):
        results = kernel.tangents(data.values, data.seeds)
    for got, want in zip((*results[0], *results[1]), (*expected[0], *expected[1]), strict=True):
        same_bits(got, want)


def test_a_launch_that_asks_for_too_much_shared_memory_fails():
    case = next(case for case in FORMS if case.name == "attention of many tiles")
    data = draw(case, SAMPLES, TANGENTS)
    with emulated.emulator().shared_limit(16 << 10), pytest.raises(AssertionError, match="more shared memory"):
        Emulated(case, "float64").ensemble(data.values)


def test_an_index_outside_gives_nan():
    case = next(case for case in OWN if case.name == "gather along rows")
    data = draw(case, SAMPLES, TANGENTS)
    index = data.values[1].copy()
    index[0, 3], index[1, 5], index[2, 0] = -1, 7, np.nan
    (got,) = Emulated(case, "float32").ensemble([data.values[0], index])
    assert np.argwhere(np.isnan(got[0])).tolist() == [[0, 3], [1, 5], [2, 0]]


def test_tangents_are_gathered_where_the_primal_points():
    case = next(case for case in OWN if case.name == "gather along rows")
    data = draw(case, SAMPLES, TANGENTS)
    moved = replace(case, inputs=(case.inputs[0], replace(case.inputs[1], source="state")))
    seeds = [data.seeds[0], np.random.default_rng(0).normal(size=(TANGENTS, *data.values[1].shape))]
    expected = Emulated(case, "float32").tangents(data.values, data.seeds)
    for got, want in zip(Emulated(moved, "float32").tangents(data.values, seeds), expected, strict=True):
        same_bits(got[0], want[0])


def test_division_by_products():
    library = emulated.emulator().library
    library.emulated_quotient.restype = ctypes.c_uint32
    generator = np.random.default_rng(0)
    most = 2**31 - 1
    divisors = [1, 2, 3, 5, 7, 64, 641, 2**16 - 1, 2**16 + 1, 2**30 - 1, 2**30, 2**30 + 1, most - 1, most]
    divisors += (2.0 ** generator.uniform(0, 31, 100)).astype(np.int64).tolist()
    for divisor in divisors:
        multiples = generator.integers(0, most // divisor + 1, 20) * divisor
        numbers = np.concatenate([multiples, multiples - 1, generator.integers(0, most, 20), [0, most]])
        for n in np.clip(numbers, 0, most).tolist():
            assert library.emulated_quotient(ctypes.c_uint32(n), ctypes.c_int64(divisor)) == n // divisor


def test_what_is_refused():
    huge = View((3, 2**30), (0, 0), source="series")
    kernel = Emulated(elementwise("", [huge, huge], [("multiply", 0, 1)], views=[huge]), "float32")
    with pytest.raises(AssertionError, match=r"\[elementwise\] expected fewer than 2\^31 elements"):
        kernel.ensemble([np.zeros((1, 1)), np.zeros((1, 1))])
