"""Every op of native programs (tests/cases/ops.py) on every instruction set and precision.

Values against the NumPy oracle in float64; tangents against central differences of that oracle, which know nothing of
our derivative rules, and linear in the seed. What must be exact is tested bit for bit: linearity in scaling by two,
independence of lanes, samples, tiles and threads.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cases.ops import CASES, MANY, Y, elementwise, running_extreme
from checking import same_bits
from programs import DTYPES, Case, Native, View, draw
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["isa"] != "cuda"})
SAMPLES, TANGENTS = 5, 3
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_isa = pytest.mark.parametrize("isa", ISAS)
by_precision = pytest.mark.parametrize("precision", list(UNIT))


@pytest.fixture(autouse=True)
def restore():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    kernels.use_isa(None)


def unit(case: Case, precision: str) -> float:
    """The coarsest roundoff involved."""
    return max(UNIT[view.precision or precision] for view in (*case.inputs, *case.outputs))


def root_mean_square(x):
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def close(got, expected, roundings, u, noise=0.0):
    """Assert |error| <= roundings u (|expected| + s), s the root mean square of all elements.

    A result is a few operations on terms of about its own size, or a sum whose terms are about as large as s; the rows
    of the table say how many roundings that makes where it is not a few. Aggregate: roundings are independent, so the
    norm of the error stays below a quarter of that of the bound. `noise` is the error of `expected` relative to the
    same sizes.
    """
    assert got.shape == expected.shape
    got = got.astype(np.float64)
    assert (np.isnan(got) == np.isnan(expected)).all(), "NaN at other places"
    finite = np.isfinite(expected)
    assert (got[~finite] == expected[~finite])[~np.isnan(expected[~finite])].all(), "infinities differ"
    got, expected = got[finite], expected[finite]
    if not got.size:
        return
    size = np.abs(expected) + root_mean_square(expected)
    error, bound = np.abs(got - expected), (roundings * u + noise) * size
    worst = int(np.argmax(error - bound))
    assert error[worst] <= bound[worst], (
        f"{(error > bound).sum()} of {error.size} out of bound; worst {worst}: got {got[worst]!r}, expected "
        f"{expected[worst]!r}, error {error[worst]:.3e}, bound {bound[worst]:.3e}"
    )
    if roundings > 1:
        assert np.linalg.norm(error) <= np.linalg.norm((roundings * u / 4 + noise) * size)


def close_to_linear(tangents, roundings, u):
    """Assert J(3 a - b / 2) = 3 J a - J b / 2 of `tangents` [J a, J b, ..., J(3 a - b / 2)], each within its bound."""
    parts = [part.astype(np.float64) for part in (3 * tangents[0], tangents[1] / 2, tangents[-1])]
    error = np.abs(parts[0] - parts[1] - parts[2])
    bound = roundings * u * sum(np.abs(part) + root_mean_square(part[np.isfinite(part)]) for part in parts)
    assert (error <= bound)[np.isfinite(parts[0])].all(), "not linear in the seed"


def check_values_and_tangents(kernel, case, precision, data):
    """Outputs against the reference, tangents against its finite differences; `kernel` has methods as `Native`."""
    u = unit(case, precision)
    for y, expected in zip(kernel.ensemble(data.values), data.outputs, strict=True):
        close(y[0], expected, case.roundings, u)
    if not case.seeded():
        return
    seeds = [s if s is None else np.concatenate([s, 3 * s[:1] - s[1:2] / 2]) for s in data.seeds]
    outputs, tangents = kernel.tangents(data.values, seeds)
    for y, expected in zip(outputs, data.outputs, strict=True):
        close(y, expected, case.roundings, u)
    for dy, expected, y in zip(tangents, data.tangents, data.outputs, strict=True):
        close_to_linear(dy, case.roundings, u)
        dy = dy[:-1]
        finite = np.isfinite(y)
        # what differences leave (programs.STEP), with room for fifth derivatives of some hundreds
        scale = root_mean_square(y[finite]) / max(root_mean_square(expected[:, finite]), 1e-3)
        close(dy, expected, case.roundings, u, noise=1e-10 * (1 + scale))


def test_every_op_has_a_case():
    assert {case.kind for case in CASES} == set(core.program_ops())


@by_precision
@by_isa
@by_case
def test_values_and_tangents(case, isa, precision):
    kernels.use_isa(isa)
    data = draw(case, SAMPLES, TANGENTS)
    check_values_and_tangents(Native(case, precision, data.values), case, precision, data)


def samples_of(parts, n):
    return [v if v is None or v.ndim == 1 else v[n : n + 1] for v in parts]


def pieces(native, data):
    """Values and tangents with one tangent of one sample at a time."""
    outputs, tangents = [], []
    for n in range(SAMPLES):
        values, columns = samples_of(data.values, n), []
        for k in range(TANGENTS):
            seeds = [s if s is None else s[k : k + 1] if s.ndim == 2 else s[k : k + 1, n : n + 1] for s in data.seeds]
            columns.append(native.tangents(values, seeds))
        outputs.append([y[0] for y in columns[0][0]])
        tangents.append([np.stack([column[1][o][0, 0] for column in columns]) for o in range(len(outputs[-1]))])
    count = len(outputs[0])
    return [np.stack([y[o] for y in outputs]) for o in range(count)], [
        np.stack([t[o] for t in tangents], axis=1) for o in range(count)
    ]


@by_isa
@by_case
def test_lanes_samples_tiles_and_threads_change_no_bit(case, isa):
    kernels.use_isa(isa)
    data = draw(case, SAMPLES, TANGENTS)
    native = Native(case, "float32", data.values)
    torch.set_num_threads(1)
    together = native.ensemble(data.values)
    alone = [native.ensemble(samples_of(data.values, n)) for n in range(SAMPLES)]
    torch.set_num_threads(2)
    for got, *parts, expected in zip(native.ensemble(data.values), *alone, together, strict=True):
        same_bits(got, expected)
        same_bits(np.concatenate(parts, axis=1), expected)
    if not case.seeded():
        return
    torch.set_num_threads(1)
    outputs, tangents = native.tangents(data.values, data.seeds)
    doubled = [s if s is None else 2 * s for s in data.seeds]
    for twice, once in zip(native.tangents(data.values, doubled)[1], tangents, strict=True):
        same_bits(twice, 2 * once)
    torch.set_num_threads(2)
    other = native.tangents(data.values, data.seeds)
    for result in (other, pieces(native, data)):
        for got, expected in zip(result[0] + result[1], outputs + tangents, strict=True):
            same_bits(got, expected)


@by_case
def test_an_input_without_a_tangent_counts_as_zero(case):
    seeded = case.seeded()
    if len(seeded) < 2:
        return
    data = draw(case, SAMPLES, TANGENTS)
    native = Native(case, "float64", data.values)
    for chosen in seeded[:3]:
        alone = [s if i == chosen else None for i, s in enumerate(data.seeds)]
        zeros = [s if i == chosen or s is None else 0 * s for i, s in enumerate(data.seeds)]
        for got, expected in zip(
            native.tangents(data.values, alone)[1], native.tangents(data.values, zeros)[1], strict=True
        ):
            np.testing.assert_array_equal(got, expected)


@by_isa
@pytest.mark.parametrize("case", [c for c in CASES if any(x.source == "constant" for x in c.inputs)], ids=str)
def test_variants_of_constants(case, isa):
    """Lanes with other constants, against programs that have those constants."""
    kernels.use_isa(isa)
    data = draw(case, SAMPLES, TANGENTS)
    constants = [i for i, x in enumerate(case.inputs) if x.source == "constant"]
    lanes = [{}, {i: data.values[i] + data.seeds[i][0] for i in constants}, {constants[0]: data.seeds[constants[0]][1]}]
    results = Native(case, "float32", data.values).ensemble(data.values, lanes)
    for lane, changed in enumerate(lanes):
        values = [changed.get(i, v) for i, v in enumerate(data.values)]
        for got, expected in zip(results, Native(case, "float32", values).ensemble(values), strict=True):
            same_bits(got[lane], expected[0])


# ---------------------------------------------------------------- remainders


@by_precision
@by_isa
def test_sizes_one_to_sixty_four(isa, precision):
    """Vector ends: every element of a short row is that of the same element in a long one."""
    kernels.use_isa(isa)
    code = [("tanh", 0), ("multiply", 2, 1), ("exp", 3)]
    longest = elementwise("64", [View((1, 64)), View((1, 64))], code)
    data = draw(longest, 2, 2)
    whole, slopes = Native(longest, precision, data.values).tangents(data.values, data.seeds)
    for size in range(1, 64):
        case = elementwise(str(size), [View((1, size)), View((1, size))], code)
        values, seeds = [v[:, :size] for v in data.values], [s[..., :size] for s in data.seeds]
        outputs, tangents = Native(case, precision, values).tangents(values, seeds)
        same_bits(outputs[0], np.ascontiguousarray(whole[0][:, :size]))
        same_bits(tangents[0], np.ascontiguousarray(slopes[0][..., :size]))


# ---------------------------------------------------------------- special values


def run_elementwise(name: str, precision: str, *arguments):
    x = [np.asarray(a, precision).astype(np.float64)[None] for a in arguments]
    case = elementwise(name, [View((1, x[0].size)) for _ in x], [(name, *range(len(x)))])
    return Native(case, precision, x).ensemble(x)[0][0, 0]


INF, NAN = np.inf, np.nan
SPECIAL = {
    "exp": ([-INF, INF, NAN, -1e5, 1e5, 0.0], [0, INF, NAN, 0, INF, 1]),
    "expm1": ([-INF, INF, NAN, -1e5, 1e5, -0.0], [-1, INF, NAN, -1, INF, -0.0]),
    "log": ([-1.0, INF, NAN, 0.0, -0.0, 1.0], [NAN, INF, NAN, -INF, -INF, 0]),
    "log1p": ([-2.0, INF, NAN, -1.0, -0.0, 0.0], [NAN, INF, NAN, -INF, -0.0, 0]),
    "tanh": ([-INF, INF, NAN, -1e5, -0.0, 0.0], [-1, 1, NAN, -1, -0.0, 0]),
    "sigmoid": ([-INF, INF, NAN, -1e5, 1e5, 0.0], [0, 1, NAN, 0, 1, 0.5]),
    "softplus": ([-INF, INF, NAN, -1e5, 1e5], [0, INF, NAN, 0, 1e5]),
    "error_function": ([-INF, INF, NAN, -9.0, -0.0], [-1, 1, NAN, -1, -0.0]),
    "sin": ([-INF, INF, NAN, -0.0], [NAN, NAN, NAN, -0.0]),
    "cos": ([-INF, INF, NAN, 0.0], [NAN, NAN, NAN, 1]),
    "atan": ([-INF, INF, NAN, -0.0], [-np.pi / 2, np.pi / 2, NAN, -0.0]),
    "sinh": ([-INF, INF, NAN, -0.0, 1e5], [-INF, INF, NAN, -0.0, INF]),
    "cosh": ([-INF, INF, NAN, 0.0, 1e5], [INF, INF, NAN, 1, INF]),
    "round": ([0.5, 1.5, 2.5, -0.5, NAN], [0, 2, 2, -0.0, NAN]),
    "relu": ([-INF, INF, NAN, -1.0], [0, INF, NAN, 0]),
    "is_nan": ([-INF, INF, NAN, 0.0], [0, 0, 1, 0]),
    "is_finite": ([-INF, INF, NAN, 0.0], [0, 0, 0, 1]),
}


@by_precision
@by_isa
def test_special_arguments(isa, precision):
    kernels.use_isa(isa)
    for name, (given, expected) in SPECIAL.items():
        for padding in (0, 20):  # as the end of a row, and in the middle of vectors
            got = run_elementwise(name, precision, [*given, *[1.0] * padding])[: len(given)]
            wanted = np.asarray(expected, precision)
            np.testing.assert_allclose(got, wanted, rtol=2e-7, err_msg=name)
            zero = wanted == 0
            assert (np.signbit(got)[zero] == np.signbit(wanted)[zero]).all(), f"{name}: sign of zero"


@by_isa
def test_power_as_in_c(isa):
    kernels.use_isa(isa)
    given = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 2.5, INF, -INF, NAN]
    base, exponent = (grid.ravel() for grid in np.meshgrid(given, given))
    with np.errstate(all="ignore"):
        expected = np.power(base, exponent)
    for precision in UNIT:
        got = run_elementwise("power", precision, base, exponent)
        np.testing.assert_allclose(got, expected.astype(precision), rtol=2e-7)
        infinite_or_zero = np.isinf(expected) | (expected == 0)
        assert (np.signbit(got) == np.signbit(expected))[infinite_or_zero].all()


@by_isa
def test_nan_in_comparisons_and_reductions(isa):
    kernels.use_isa(isa)
    for precision in UNIT:
        for name in ("maximum", "minimum"):
            got = run_elementwise(name, precision, [NAN, 1.0, NAN, 2.0], [1.0, NAN, NAN, 3.0])
            assert np.isnan(got).tolist() == [True, True, True, False]
        for kind, at in (("maximum", 12), ("minimum", 33)):
            case = next(c for c in CASES if c.name == f"{kind} of rows")
            values = [draw(case, SAMPLES, TANGENTS).values[0].copy()]
            values[0][1, at] = NAN
            got = Native(case, precision, values).ensemble(values)[0][0]
            assert np.isnan(got).sum() == 1
            assert np.isnan(got[1, 0])


@by_precision
@by_isa
@pytest.mark.parametrize("largest", [True, False])
def test_running_extremes_of_ties_and_nan_as_in_torch(isa, precision, largest):
    kernels.use_isa(isa)
    generator = np.random.default_rng(3)
    x = generator.choice([0.0, -0.0, 1.0, -1.0, 2.0, INF, -INF, NAN], (SAMPLES, 9, 21), p=[0.15] * 5 + [0.1, 0.1, 0.05])
    seeds = generator.normal(size=(2, *x.shape))
    for axis in (0, 1):
        case = running_extreme("", View((9, 21)), axis, largest)
        values = [x.reshape(SAMPLES, -1)]
        native = Native(case, precision, values)
        given = torch.from_numpy(x).to(DTYPES[precision])
        expected = (torch.cummax if largest else torch.cummin)(given, 1 + axis)
        for got, want in zip(native.ensemble(values), expected, strict=True):
            same_bits(got[0], want.to(given.dtype).numpy().reshape(SAMPLES, -1))
        _, tangents = native.tangents(values, [seeds.reshape(2, SAMPLES, -1)])
        chosen = torch.from_numpy(seeds).to(given.dtype).gather(2 + axis, expected.indices.expand(2, -1, -1, -1))
        same_bits(tangents[0], chosen.numpy().reshape(2, SAMPLES, -1))
        assert not tangents[1].any()


# ---------------------------------------------------------------- accuracy of the functions


def last_places(got, exact, precision):
    """Error in units in the last place of the exact result."""
    digits, least = (24, -149) if precision == "float32" else (53, -1074)
    _, exponent = np.frexp(exact)
    place = np.exp2(np.maximum(exponent - digits, least).astype(np.longdouble))
    return np.abs(got.astype(np.longdouble) - exact) / place


def long_sigmoid(x):
    return np.exp(-np.logaddexp(np.longdouble(0), -x))


# The bounds of csrc/cpu/panel/functions.h, ranges, and the function in extended precision.
ACCURACY = {
    "exp": (1, 1, (-80, 80), np.exp),
    "expm1": (1.5, 1.8, (-20, 80), np.expm1),
    "log": (1, 1, (1e-30, 1e3), np.log),
    "log1p": (1.5, 1.8, (-0.99, 100), np.log1p),
    "tanh": (1.5, 2.5, (-10, 10), np.tanh),
    "sigmoid": (2.5, 2.5, (-80, 80), long_sigmoid),
    "softplus": (2, 2, (-40, 40), lambda x: np.logaddexp(np.longdouble(0), x)),
    "silu": (3.3, 3.3, (-30, 30), lambda x: x * long_sigmoid(x)),
    "sin": (0.501, 1.5, (-1e4, 1e4), np.sin),
    "cos": (0.501, 1.5, (-1e4, 1e4), np.cos),
    "tan": (0.501, 3, (-1e3, 1e3), np.tan),
    "atan": (0.501, 2.5, (-50, 50), np.arctan),
    "sinh": (0.501, 2.5, (-80, 80), np.sinh),
    "cosh": (0.501, 2.5, (-80, 80), np.cosh),
}


@by_precision
@by_isa
def test_functions_are_as_accurate_as_stated(isa, precision):
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("needs an extended precision to compare with")
    kernels.use_isa(isa)
    generator = np.random.default_rng(0)
    for name, (single, double, (low, high), function) in ACCURACY.items():
        x = np.concatenate([generator.uniform(low, high, 6000), np.geomspace(1e-20, min(high, 3.0), 2000)])
        x = x.astype(precision)
        error = last_places(run_elementwise(name, precision, x), function(x.astype(np.longdouble)), precision)
        worst = int(np.argmax(error))
        bound = single if precision == "float32" else double
        assert error[worst] <= bound, (
            f"{name}({x[worst]!r}): {error[worst]:.3f} units in the last place, {bound} stated"
        )
        assert error.max() > 0.3, "too easy: nothing is rounded"


@by_isa
def test_long_sums_stay_accurate(isa):
    """100 000 terms of 0.1: adding them up one by one is off by more than 1."""
    kernels.use_isa(isa)
    count = 100_000
    terms = np.full((1, count), 0.1, np.float32)
    exact = count * float(terms[0, 0])
    assert abs(float(np.add.accumulate(terms[0])[-1]) - exact) > 1
    template = case_named("sum of long rows")
    rows = replace(template, inputs=(View((1, count)),))
    columns = replace(template, inputs=(View((count, 1), (1, 1)),), ints={**template.ints, "axes": (0,)})
    strips = replace(columns, inputs=(View((count, 40), (1, 0)),), outputs=(View((1, 40)),))
    dense = replace(columns, inputs=(View((count // 20, 20)),), outputs=(View((1, 20)),))
    for case, total in ((rows, exact), (columns, exact), (strips, exact), (dense, exact / 20)):
        got = Native(case, "float32", [terms.astype(np.float64)]).ensemble([terms.astype(np.float64)])[0]
        assert np.abs(got - total).max() <= 1e-5 * total


# ---------------------------------------------------------------- zero tangents that must be written


@by_isa
def test_shared_inputs_of_a_buffer_that_is_not_shared(isa):
    """Two copies fill a buffer, one of them from the series: its part of the tangent is zero, not what was there."""
    from tqs_fast.capture.program import Buffer, NextState, Node, Program, Value
    from tqs_fast.engines.native_program import NativeProgram

    kernels.use_isa(isa)
    buffers = tuple(Buffer(kind, "float32", n) for kind, n in (("state", 4), ("input", 4), ("arena", 8), ("state", 8)))
    whole = Value(2, 0, (8,), (1,))
    values = (Value(0, 0, (4,), (1,)), Value(1, 0, (4,), (1,)), Value(2, 0, (4,), (2,)), Value(2, 1, (4,), (2,)), whole)
    values += (Value(2, 0, (4,), (1,)), Value(2, 0, (1, 8), (8, 1)))
    nodes = (Node("copy", (0,), (2,)), Node("copy", (1,), (3,)))
    states = (NextState(0, 5), NextState(3, 4))
    native = NativeProgram(Program(buffers, values, nodes, (), states, (1,), 6))
    x, series = torch.randn(3, 4), torch.randn(3, 2, 4)
    seed = torch.randn(2, 3, 4)
    result = native.tangents([x, torch.full((3, 8), 9.0)], [series], steps=2, values=2, seeds=[seed, None])
    first = torch.stack([x, series[:, 0]], -1).reshape(3, 8)
    again = torch.stack([first[:, :4], series[:, 1]], -1).reshape(3, 8)
    assert torch.equal(result.outputs, torch.stack([first, again]))
    moved = torch.stack([seed, torch.zeros_like(seed)], -1).reshape(2, 3, 8)
    assert torch.equal(result.tangent_outputs[0], moved)
    again = torch.stack([moved[..., :4], torch.zeros_like(seed)], -1).reshape(2, 3, 8)
    assert torch.equal(result.tangent_outputs[1], again)


# ---------------------------------------------------------------- errors


def attempt(case: Case, **changes) -> None:
    case = replace(case, **changes)
    Native(case, "float32", draw_nothing(case))


def draw_nothing(case: Case):
    return [np.zeros(x.elements) if x.source == "constant" else None for x in case.inputs]


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("add", {"outputs": (View((1, 3, 36)),)}, "does not broadcast"),
        ("add", {"inputs": (View((1, 3, 37)), View((111,)))}, "rank"),
        ("add", {"ints": {"code": (0, 2, 0), "output_registers": (2,)}}, "five numbers"),
        ("add", {"ints": {"code": (99, 2, 0, 1, 0), "output_registers": (2,)}}, "opcode"),
        ("add", {"ints": {"code": (33, 2, 0, 5, 0), "output_registers": (2,)}}, "not written"),
        ("add", {"ints": {"code": (33, 1, 0, 1, 0), "output_registers": (1,)}}, "of its own"),
        ("add", {"ints": {"code": (33, 2, 0, 1, 0), "output_registers": (4,)}}, "output register"),
        ("sum of 16", {"inputs": (*MANY, Y)}, "16 inputs"),
        ("sum of rows", {"outputs": (View((2, 3, 70)),)}, "size 1"),
        ("sum of rows", {"ints": {"kind": (11,), "axes": (2,)}}, "no such reduction"),
        ("sum of rows", {"ints": {"kind": (0,), "axes": (3,)}}, "no such axis"),
        ("softmax of one", {"outputs": (View((1, 2)),)}, "the input's sizes"),
        ("normalize a row", {"ints": {"axes": (4,), "center": (1,)}}, "no such axis"),
        ("normalize a row", {"ints": {"axes": (0,), "center": (1,)}}, "no such axis"),
        ("running sum along rows", {"ints": {"axis": (3,), "product": (0,)}}, "no such axis"),
        ("running maximum along rows", {"ints": {"axis": (3,), "largest": (1,)}}, "no such axis"),
        ("running maximum along rows", {"outputs": (View((2, 3, 20)), View((2, 20)))}, "the input's sizes"),
        (
            "running maximum along rows",
            {"outputs": (View((2, 3, 20)), View((2, 3, 20), precision="float64"))},
            "one precision",
        ),
        ("largest 3 of 20", {"ints": {"count": (21,), "largest": (1,)}}, "count"),
        ("packed linear of a row", {"inputs": (View((1, 34)), View((1,), source="absent"))}, r"x \[..., K\]"),
        ("packed linear of a row", {"outputs": (View((1, 18)),)}, "contiguous output"),
        ("packed linear of a row", {"inputs": (View((1, 33)), View((16,), source="constant"))}, "contiguous bias"),
        ("packed linear of a row", {"inputs": (View((1, 33), precision="float64"),)}, "inputs x, bias"),
        ("packed linear of a row", {"ints": {"weight": (1,)}}, "name a packed weight"),
        ("packed linear of a row", {"ints": {}}, "'weight' is missing"),
        (
            "packed linear of a row",
            {"inputs": (View((1, 33), precision="float64"), View((1,), source="absent"))},
            "one precision and a bias of float32",
        ),
        ("copy a run", {"outputs": (View((2, 3, 51)),)}, "equal sizes"),
        ("remap in reverse", {"ints": {"runs": (0, 50, 50, -1)}}, "leaves the input"),
        ("remap in reverse", {"ints": {"runs": (1, 49, 50, -1)}}, "leaves the output"),
        ("remap in reverse", {"ints": {"runs": (0, 48, 49, -1)}}, "every element"),
        ("gather along rows", {"ints": {"axis": (2,)}}, "no such axis"),
        ("gather along rows", {"inputs": (View((2, 7)), View((3, 4), source="series"))}, "larger than x"),
    ],
)
def test_shape_rules(name, changes, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        attempt(case_named(name), **changes)
    assert name in str(caught.value), "an error names the node"
