"""What tests/cases/ops.py cannot say about linear, convolution and matmul: every number of rows and columns within a
derived bound, bits that do not depend on the place of a row, and lanes that share weights in every way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cases.ops import PRODUCT_CASES, linear
from checking import same_bits
from programs import Case, Native, View
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError
from tqs_fast.reference import ops as reference

ISAS = [isa for isa, runs in kernels.info()["isas"].items() if runs]
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
SAMPLES = 3

Values = list[npt.NDArray[np.float64] | None]
by_isa = pytest.mark.parametrize("isa", ISAS)
by_precision = pytest.mark.parametrize("precision", UNIT)


@pytest.fixture(autouse=True)
def restore():
    yield
    kernels.use_isa(None)


def draw(case: Case, seed: int, samples: int = SAMPLES) -> Values:
    """Memory of the inputs, float32 numbers: `[N, elements]`, of constants `[elements]`."""
    generator = np.random.default_rng(seed)
    values: Values = []
    for x in case.inputs:
        shape = (x.elements,) if x.source == "constant" else (samples, x.elements)
        drawn = generator.normal(size=shape).astype(np.float32).astype(np.float64)
        values.append(None if x.source == "absent" else drawn)
    return values


# ---------------------------------------------------------------- the matrix product itself


def check_linear(rows: int, columns: int, depth: int, values: Values, got: npt.NDArray, precision: str) -> None:
    """Assert that `got` [N, rows * columns] is x weight^T + bias within rounding.

    Every term passes through at most depth + 2 roundings of relative size u, so that |error| <= (depth + 2) u S with
    S = sum |x||w| + |bias|. Roundings are independent and a partial sum is at most S, so the norm of the error stays
    below 4 u sqrt(depth + 2) |S|. In float64 the oracle has an error of the same size.
    """
    unit = UNIT[precision] * (2 if precision == "float64" else 1)
    x, weight = values[0].reshape(-1, rows, depth), values[1].reshape(columns, depth)
    expected = reference.linear(x, weight, values[2])
    size = reference.linear(np.abs(x), np.abs(weight), None if values[2] is None else np.abs(values[2]))
    error = np.abs(got.reshape(expected.shape) - expected)
    within = error <= (depth + 2) * unit * size * 1.01 + 1e-40
    if not within.all():
        worst = np.unravel_index(np.where(within, -1.0, np.nan_to_num(error / size, nan=np.inf)).argmax(), error.shape)
        raise AssertionError(
            f"[{rows}, {columns}, {depth}]: {(~within).sum()} of {error.size} elements out of bound; worst at "
            f"{[int(i) for i in worst]}: got {got.reshape(expected.shape)[worst]!r}, expected {expected[worst]!r}, "
            f"bound {(depth + 2) * unit * size[worst]:.3e}"
        )
    norm, most = np.linalg.norm(error), 4 * unit * np.sqrt(depth + 2) * np.linalg.norm(size) + 1e-40
    assert norm <= most, f"[{rows}, {columns}, {depth}]: error norm {norm:.3e} above {most:.3e}"


def multiply(
    rows: int, columns: int, depth: int, precision: str, bias: bool = True, values: Values | None = None
) -> npt.NDArray:
    """`[N, rows, columns]`, checked."""
    case = linear("", View((rows, depth)), columns, bias)
    if values is None:
        values = draw(case, rows + columns + depth, 1)
    got = Native(case, precision, values).ensemble(values)[0][0]
    check_linear(rows, columns, depth, values, got, precision)
    return got.reshape(-1, rows, columns)


@by_precision
@by_isa
def test_every_number_of_rows(isa, precision):
    kernels.use_isa(isa)
    for rows in range(1, 41):
        multiply(rows, 1 + 11 * rows % 70, 1 + 7 * rows % 53, precision, bias=rows % 2 == 0)


@by_precision
@by_isa
def test_every_width_and_depth(isa, precision):
    kernels.use_isa(isa)
    for size in range(1, 71):
        multiply(size % 7 + 1, size, 71 - size, precision)
        multiply(14, 71 - size, size, precision, bias=False)


@by_isa
def test_several_chunks_of_rows(isa):
    kernels.use_isa(isa)
    multiply(211, 40, 300, "float32")


@by_isa
def test_magnitudes_and_cancellation(isa):
    """Terms over thirty powers of ten, and sums that cancel to a millionth of their terms."""
    kernels.use_isa(isa)
    case = linear("", View((9, 64)), 37)
    values = draw(case, 3)
    scale = 10.0 ** np.random.default_rng(4).uniform(-15, 15, values[0].shape)
    values[0] = (values[0] * scale).astype(np.float32).astype(np.float64)
    multiply(9, 37, 64, "float32", values=values)
    values = draw(case, 5)
    x, weight = values[0].reshape(SAMPLES, 9, 64), values[1].reshape(37, 64)
    x[..., 32:] = x[..., :32]
    weight[:, 32:] = (-weight[:, :32] * (1 + 1e-6)).astype(np.float32)
    got = multiply(9, 37, 64, "float32", values=values)
    assert np.abs(got - values[2]).max() < 1e-3, "nothing cancelled"


@by_precision
@by_isa
def test_a_row_has_the_same_bits_wherever_it_lies(isa, precision):
    kernels.use_isa(isa)
    for columns, depth in ((33, 64), (70, 19)):
        values = draw(linear("", View((40, depth)), columns), 7, 1)
        row = values[0][:, :depth].copy()
        alone = multiply(1, columns, depth, precision, values=[row, *values[1:]])[0, 0]
        for rows in (2, 3, 4, 6, 7, 9, 12, 13, 25, 40):
            for place in {0, rows // 2, rows - 1}:
                x = values[0][:, : rows * depth].copy()
                x[:, place * depth : (place + 1) * depth] = row
                got = multiply(rows, columns, depth, precision, values=[x, *values[1:]])
                same_bits(got[0, place], alone)


@by_precision
@by_isa
def test_packed_weight(isa, precision):
    """The product by itself, as bench/bench_gemm.py times it, has the bits of the op."""
    kernels.use_isa(isa)
    values = draw(linear("", View((9, 19)), 37), 11, 1)
    expected = multiply(9, 37, 19, precision, values=values)
    x, weight, bias = (torch.from_numpy(v).to(getattr(torch, precision)) for v in values)
    y = torch.empty(1, 9, 37, dtype=x.dtype)
    packed = core.PackedWeight(weight.data_ptr(), n=37, k=19, precision=precision)
    packed.multiply(rows=9, x=x.data_ptr(), bias=bias.data_ptr(), y=y.data_ptr())
    same_bits(y.numpy(), expected)
    for wrong in ({"n": 0}, {"k": 0}, {"precision": "float16"}):
        with pytest.raises(ArgumentError, match="PackedWeight"):
            core.PackedWeight(weight.data_ptr(), **{"n": 37, "k": 19, "precision": precision} | wrong)


# ---------------------------------------------------------------- lanes

WEIGHTED = [case for case in PRODUCT_CASES if any(x.source == "constant" for x in case.inputs)]
CONSTANT = Case(
    "linear of a constant",
    "linear",
    (View((4, 10), source="constant"), View((19, 10), source="constant"), View((19,), source="constant")),
    (View((4, 19)),),
)
by_weighted = pytest.mark.parametrize("case", WEIGHTED, ids=str)


def constants(case: Case) -> list[int]:
    return [i for i, x in enumerate(case.inputs) if x.source == "constant"]


@by_isa
@by_weighted
def test_lanes_that_share_variants(case, isa):
    """Neighbours with equal weights and other biases, equal in both, and the other way round."""
    kernels.use_isa(isa)
    values = draw(case, 1)
    lanes = []
    for lane in range(9):
        others = draw(case, 10 + lane // 3)
        lanes.append({i: others[i] for i in constants(case) if (lane + i) % 4 < 2})
    (got,) = Native(case, "float32", values).ensemble(values, lanes)
    for lane, changed in enumerate(lanes):
        own = [changed.get(i, v) for i, v in enumerate(values)]
        same_bits(got[lane], Native(case, "float32", own).ensemble(own)[0][0])


def run_tangents(
    native: Native, values: Values, seeds: Mapping[int, npt.NDArray], weights: Sequence[Mapping[int, npt.NDArray]]
) -> npt.NDArray:
    """`[K, N, size]`; weights: per tangent, input -> tangent of a constant."""
    states, series = native.leaves(values)
    directions = [torch.from_numpy(seeds[i]) if i in seeds else None for i in native.case.states()] + [None]
    buffers = native.constants()
    named = [{buffers[i]: torch.from_numpy(t) for i, t in lane.items()} for lane in weights]
    result = native.program.tangents(states, series, steps=1, values=1, seeds=directions, weight_seeds=named)
    return result.state_tangents[-1].numpy()


@by_isa
@by_weighted
def test_tangents_of_some_constants_in_some_lanes(case, isa):
    """A missing tangent is zero, whatever the neighbours have."""
    kernels.use_isa(isa)
    count = 5
    values = draw(case, 2)
    native = Native(case, "float32", values)
    drawn = [draw(case, 20 + k) for k in range(count)]
    weights = [{i: drawn[k][i] for i in constants(case) if (k + i) % 3 == 0} for k in range(count)]
    for moved in (False, True):
        seeds = {i: np.stack([d[i] for d in drawn]) for i in case.states()} if moved else {}
        got = run_tangents(native, values, seeds, weights)
        whole = [{i: w.get(i, np.zeros_like(values[i])) for i in constants(case)} for w in weights]
        np.testing.assert_array_equal(got, run_tangents(native, values, seeds, whole))
        for k in range(count):
            own = {i: s[k : k + 1] for i, s in seeds.items()}
            same_bits(got[k], run_tangents(native, values, own, weights[k : k + 1])[0])


@by_isa
def test_linear_of_a_constant(isa):
    """Which may have variants and tangents as its weight has."""
    kernels.use_isa(isa)
    x, weight, bias = draw(CONSTANT, 0)
    dx, dweight, dbias = draw(CONSTANT, 1)
    program = Native(CONSTANT, "float64", [x, weight, bias]).program
    buffers = [constant.buffer for constant in program.program.constants]
    states = [torch.zeros(SAMPLES, 76, dtype=torch.float64)]  # the output's leaf: something must be rolled
    x, dx, weight, dweight = x.reshape(4, 10), dx.reshape(4, 10), weight.reshape(19, 10), dweight.reshape(19, 10)

    def named(lane: Mapping[int, npt.NDArray]) -> dict[int, torch.Tensor]:
        return {buffers[i]: torch.from_numpy(t) for i, t in lane.items()}

    lanes = [{}, {0: dx}, {1: dweight}, {0: dx, 2: dbias}]
    _, final = program.ensemble(states, [], steps=1, values=1, lanes=[named(lane) for lane in lanes])
    results = final[0].numpy().reshape(4, SAMPLES, 4, 19)
    for lane, got in zip(lanes, results, strict=True):
        expected = reference.linear(lane.get(0, x), lane.get(1, weight), lane.get(2, bias))
        np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=1e-13)

    seeds = [{0: dx}, {1: dweight}, {2: dbias}, {0: dx, 1: dweight, 2: dbias}]
    result = program.tangents(states, [], steps=1, values=1, seeds=[None], weight_seeds=[named(s) for s in seeds])
    parts = [dx @ weight.T, x @ dweight.T, np.broadcast_to(dbias, (4, 19))]
    for got, expected in zip(result.state_tangents[0].numpy(), [*parts, sum(parts)], strict=True):
        got = got.reshape(SAMPLES, 4, 19)
        np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=1e-13)


# ---------------------------------------------------------------- errors


def case_named(name: str) -> Case:
    return next(case for case in PRODUCT_CASES if case.name == name)


GROUPED = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": (2,)}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("linear of rows", {"inputs": (View((5, 9)), View((35, 40), source="constant"), None)}, r"x \[..., K\]"),
        ("linear of rows", {"outputs": (View((1, 5, 35), (175, 1, 5)),)}, "contiguous output"),
        ("matmul of two", {"inputs": (View((1, 5, 20)), View((1, 19, 9)))}, "as many columns"),
        ("matmul of two", {"inputs": (View((1, 5, 20)), View((2, 20, 9)))}, "equal leading sizes"),
        ("matmul of two", {"inputs": (View((5, 20)), View((1, 20, 9)))}, "equal ranks"),
        ("convolution in groups", {"ints": {}}, "'stride' is missing"),
        ("convolution in groups", {"ints": {**GROUPED, "padding": (1,)}}, "as long as the windows"),
        ("convolution in groups", {"ints": {**GROUPED, "groups": (3,)}}, "C / groups"),
        ("convolution in groups", {"ints": {**GROUPED, "stride": (0,)}}, "positive strides"),
        ("convolution in groups", {"ints": {**GROUPED, "dilation": (1, 1)}}, "per spatial axis"),
        ("convolution in groups", {"outputs": (View((1, 4, 18)),)}, "channels-last"),
    ],
)
def test_shape_rules(name, changes, message):
    if "inputs" in changes:
        given = (View((), source="absent") if x is None else x for x in changes["inputs"])
        changes = {**changes, "inputs": tuple(given)}
    case = replace(case_named(name), **changes)
    with pytest.raises(ArgumentError, match=message) as caught:
        Native(case, "float32", draw(case, 0))
    assert name in str(caught.value), "an error names the node"
