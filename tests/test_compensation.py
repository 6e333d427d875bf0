"""Rounding with compensation against the NumPy oracle, exhaustive search, and what must hold of any Hessian."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import tqs_fast as tqs
from cases.formats import FORMATS
from checking import same_bits
from tqs_fast import kernels
from tqs_fast.compensation import compensate, conditioned, eliminate, output_error
from tqs_fast.errors import ArgumentError
from tqs_fast.reference import compensation as reference
from tqs_fast.reference.quantization import from_bfloat16

ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["isa"] != "cuda"})
SETTINGS = [
    tqs.Compensation("obq"),
    tqs.Compensation("gptq"),
    tqs.Compensation("gptq", act_order=False),
    tqs.Compensation("sensitivity"),
    tqs.Compensation("sensitivity", sweeps=2),
    tqs.Compensation("gptq", act_order=False, sweeps=1),
]
SHARED = SETTINGS[1:]


def label(settings: tqs.Compensation) -> str:
    return (
        settings.method + ("" if settings.act_order else "-storage") + (f"-{settings.sweeps}" * bool(settings.sweeps))
    )


@pytest.fixture(autouse=True)
def default_isa():
    yield
    kernels.use_isa(None)


def problem(rows: int, columns: int, *, samples: int | None = None, seed: int = 0):
    """Weights, inputs of unequal size that depend on each other, and the Hessian."""
    generator = np.random.default_rng(seed)
    depth = max(1, columns // 3)
    inputs = generator.standard_normal((samples or 4 * columns, depth)) @ generator.standard_normal((depth, columns))
    inputs += 0.1 * generator.standard_normal(inputs.shape)
    inputs *= np.exp(generator.standard_normal(columns))
    weight = generator.standard_normal((rows, columns)).astype(np.float32)
    return weight, inputs, inputs.T @ inputs


def once(weight, hessian, bits, quantizer, settings, threads=1):
    return compensate([(weight, bits)], hessian, quantizer=quantizer, settings=settings, threads=threads)[0]


def by_oracle(weight, hessian, bits, quantizer, settings):
    """(codes, scales, zeros) of the oracle, from the scales of the quantizer."""
    form = {"group_size": quantizer.group_size, "symmetric": quantizer.symmetric, "search": quantizer.search}
    nearest = kernels.pack(weight, bits=bits, **form)
    given = (weight, nearest.scales, nearest.zeros, bits, quantizer.group_size)
    matrix = conditioned(hessian, settings.damping)
    if settings.method == "obq":
        return reference.compensate_greedily(*given, np.linalg.inv(matrix)), nearest.scales, nearest.zeros
    cost, order = None, np.arange(len(matrix))
    if settings.method == "sensitivity":
        cost = np.square(weight.astype(np.float64) - nearest.dequantize()).mean(axis=0)
    elif settings.act_order:
        order = np.argsort(-np.diag(matrix), kind="stable")
    order, upper, diagonal = reference.eliminate(matrix, order, cost)
    search = quantizer.search if settings.regroups and quantizer.group_size else None
    return reference.compensate(*given, order, upper, search=search, diagonal=diagonal, sweeps=settings.sweeps)


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_bytes_equal_the_oracle(form, settings):
    quantizer = tqs.Quantizer(form.group_size, form.symmetric)
    for rows, columns in ((1, 1), (3, 2), (5, 33), (13, 64), (30, 131)):
        weight, _, hessian = problem(rows, columns)
        codes, scales, zeros = by_oracle(weight, hessian, form.bits, quantizer, settings)
        for isa in ISAS:
            kernels.use_isa(isa)
            packed = once(weight, hessian, form.bits, quantizer, settings)
            same_bits(packed.scales, scales)
            same_bits(packed.codes, codes)
            assert (packed.zeros is None) == (zeros is None)
            if zeros is not None:
                same_bits(packed.zeros, zeros)


@pytest.mark.parametrize("columns", [257, 320, 448])
def test_sweeps_over_joined_spans_equal_the_oracle(columns):
    # Blocks of 64 (128 where groups of so many choose their scales on the way), whole and ragged, of 3 to 7.
    weight, _, hessian = problem(3, columns)
    for settings, group in (
        (tqs.Compensation(sweeps=1), 32),
        (tqs.Compensation("gptq", sweeps=3), 0),
        (tqs.Compensation("gptq", act_order=False, sweeps=1), 128),
    ):
        codes, scales, _ = by_oracle(weight, hessian, 3, tqs.Quantizer(group), settings)
        for isa in ISAS:
            kernels.use_isa(isa)
            packed = once(weight, hessian, 3, tqs.Quantizer(group), settings)
            same_bits(packed.scales, scales)
            same_bits(packed.codes, codes)


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
def test_the_same_bytes_for_any_number_of_threads(settings):
    weight, _, hessian = problem(101, 300)
    one = once(weight, hessian, 3, tqs.Quantizer(32), settings)
    for threads in (2, 3, 7):
        same_bits(once(weight, hessian, 3, tqs.Quantizer(32), settings, threads).codes, one.codes)


@pytest.mark.parametrize("columns", [1, 2, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("pivoting", [False, True])
def test_elimination(columns, pivoting):
    _, _, hessian = problem(1, columns)
    matrix = conditioned(hessian, 0.01)
    generator = np.random.default_rng(1)
    order, cost = generator.permutation(columns), generator.uniform(0.1, 1.0, columns)
    keywords = {"order": None, "cost": cost} if pivoting else {"order": order, "cost": None}
    expected = reference.eliminate(matrix, **keywords)
    for isa in ISAS:
        kernels.use_isa(isa)
        found = eliminate(matrix, **keywords, threads=2)
        assert (found.order == expected[0]).all()
        np.testing.assert_allclose(found.upper, expected[1], atol=1e-9)
        np.testing.assert_allclose(found.diagonal, expected[2], rtol=1e-9)
        whole = found.upper @ np.diag(found.diagonal) @ found.upper.T
        np.testing.assert_allclose(whole, matrix[np.ix_(found.order, found.order)], atol=1e-11 * np.abs(matrix).max())
        # GPTQ's own form: the rows of the Cholesky factor of H^-1, each over its diagonal, subtract errors
        inverse = np.linalg.inv(matrix[np.ix_(found.order, found.order)])
        upper = np.linalg.cholesky(inverse).T
        np.testing.assert_allclose(np.linalg.inv(upper / np.diag(upper)[:, None]), found.upper, atol=1e-7)


def test_least_cost_is_last_whatever_is_left_of_it():
    # The third column is nearly the sum of the others: once they may move, nothing is left of its own curvature.
    inputs = np.random.default_rng(0).standard_normal((100, 2))
    inputs = np.column_stack([inputs, 5 * inputs.sum(axis=1), 3 * np.random.default_rng(1).standard_normal(100)])
    order = eliminate(conditioned(inputs.T @ inputs, 1e-6), order=None, cost=np.ones(4)).order
    assert order[-1] in (0, 1)
    assert set(order[:2]) != {0, 1}
    silent = eliminate(np.diag([1.0, 2.0, 3.0]), order=None, cost=np.array([1.0, 0.0, 0.1])).order
    assert silent.tolist() == [0, 2, 1]


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
def test_between_the_best_codes_there_are_and_the_nearest(settings):
    # All 4^5 rows of codes at 2 bits.
    better = 0
    for seed in range(12):
        weight, _, hessian = problem(4, 5, seed=seed)
        packed = once(weight, hessian, 2, tqs.Quantizer(0), settings)
        nearest = kernels.pack(weight, bits=2, group_size=0)
        steps = np.array(list(itertools.product(range(-2, 2), repeat=5)), np.float64)
        for row in range(4):
            values = from_bfloat16(nearest.scales[row]) * steps
            error = values - weight[row].astype(np.float64)
            best = ((error @ hessian) * error).sum(axis=1).min()
            exact = weight[row].astype(np.float64)
            own, plain = (p.dequantize()[row] - exact for p in (packed, nearest))
            found, before = (float(error @ hessian @ error) for error in (own, plain))
            assert found >= best * (1 - 1e-9)
            better += found < before * (1 - 1e-9)
    # Greedy on rows of its own, obq finds less to gain in five columns of very unequal size.
    assert better >= (5 if settings.method == "obq" else 15), better


@pytest.mark.parametrize("settings", SHARED, ids=label)
def test_error_of_the_outputs_falls_far_below_that_of_the_nearest_codes(settings):
    weight, inputs, hessian = problem(40, 120)
    for bits, quantizer in ((4, tqs.Quantizer(0)), (3, tqs.Quantizer(32)), (3, tqs.Quantizer(64, False))):
        packed = once(weight, hessian, bits, quantizer, settings).dequantize()
        nearest = kernels.pack(weight, bits=bits, group_size=quantizer.group_size, symmetric=quantizer.symmetric)
        by_outputs = np.square(inputs @ (packed - weight).T).sum() / np.square(inputs @ weight.T).sum()
        assert output_error(weight, packed, hessian) == pytest.approx(by_outputs, rel=1e-4)
        assert output_error(weight, packed, hessian) < 0.4 * output_error(weight, nearest.dequantize(), hessian)


@pytest.mark.parametrize("settings", SHARED[:3], ids=label)
def test_sweeps_come_to_rest_where_no_code_can_be_bettered(settings):
    weight, _, hessian = problem(30, 150)
    damped = conditioned(hessian, settings.damping)
    found = [once(weight, hessian, 3, tqs.Quantizer(32), replace(settings, sweeps=n)) for n in (0, 1, 2, 40, 41)]
    errors = [output_error(weight, packed.dequantize(), damped) for packed in found]
    assert max(errors[1:]) < 0.95 * errors[0]
    same_bits(found[3].codes, found[4].codes)
    values = found[3].dequantize().astype(np.float64)
    steps = np.repeat(from_bfloat16(found[3].scales), 32, axis=1)[:, :150]
    gradient, own = (weight - values) @ damped, np.diag(damped)
    for step in (-steps, steps):  # by one code up or down; those at the ends have nowhere to go
        inside = (values + step >= -4 * steps) & (values + step <= 3 * steps)
        gain = 2 * step * gradient - step**2 * own
        assert (gain[inside] <= 1e-6 * (step**2 * own)[inside]).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
def test_dead_columns_are_rounded_to_nearest_and_disturb_nobody(settings):
    weight, inputs, _ = problem(6, 40)
    dead = [0, 7, 39]
    inputs[:, dead] = 0.0
    quantizer = tqs.Quantizer(0)
    packed = once(weight, inputs.T @ inputs, 4, quantizer, settings).dequantize()
    nearest = kernels.pack(weight, bits=4, group_size=0)
    assert (packed[:, dead] == nearest.dequantize()[:, dead]).all()
    assert (packed != nearest.dequantize()).any()
    undamped = once(weight, inputs.T @ inputs, 4, quantizer, replace(settings, damping=0.0)).dequantize()
    assert (undamped[:, dead] == nearest.dequantize()[:, dead]).all()
    nothing = once(weight, np.zeros((40, 40)), 4, quantizer, settings)
    same_bits(nothing.codes, nearest.codes)


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
def test_fewer_samples_than_columns(settings):
    weight, _, hessian = problem(8, 70, samples=9)
    nearest = kernels.pack(weight, bits=3, group_size=0)
    packed = once(weight, hessian, 3, tqs.Quantizer(0), settings)
    assert output_error(weight, packed.dequantize(), hessian) < output_error(weight, nearest.dequantize(), hessian)
    # On the few inputs there are, 61 columns can take over nearly all of it; damping alone keeps errors from growing.
    moved = np.abs(packed.dequantize() - weight).max()
    assert moved < 20 * np.abs(nearest.dequantize() - weight).max()


@pytest.mark.parametrize("settings", SHARED, ids=label)
def test_singular_without_damping(settings):
    # Two equal columns and one that is the sum of two others.
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((50, 4)) @ generator.standard_normal((4, 18))
    inputs += 0.1 * generator.standard_normal(inputs.shape)
    inputs = np.column_stack([inputs, inputs[:, 0], inputs[:, 1] + inputs[:, 2]])
    weight, hessian = generator.standard_normal((9, 20)).astype(np.float32), inputs.T @ inputs
    packed = once(weight, hessian, 4, tqs.Quantizer(0), replace(settings, damping=0.0))
    nearest = kernels.pack(weight, bits=4, group_size=0)
    assert output_error(weight, packed.dequantize(), hessian) < output_error(weight, nearest.dequantize(), hessian)
    found = eliminate(hessian, order=np.arange(20), cost=None)
    assert (found.diagonal == 0.0).sum() == 2
    np.testing.assert_allclose(found.upper @ np.diag(found.diagonal) @ found.upper.T, hessian, atol=1e-10)


def test_obq_says_that_a_hessian_is_singular():
    _, _, hessian = problem(1, 4)
    hessian[:, 3] = hessian[:, 2]
    hessian[3] = hessian[2]
    with pytest.raises(ArgumentError, match="damping > 0"):
        once(np.ones((2, 4), np.float32), hessian, 4, tqs.Quantizer(0), tqs.Compensation("obq", damping=0.0))


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
@pytest.mark.parametrize("power", [-200, 200])
def test_the_size_of_the_hessian_does_not_matter(settings, power):
    weight, _, hessian = problem(7, 30)
    one = once(weight, hessian, 3, tqs.Quantizer(32), settings)
    same_bits(once(weight, hessian * 2.0**power, 3, tqs.Quantizer(32), settings).codes, one.codes)


def test_blocks_share_one_order_and_round_as_one():
    weight, _, hessian = problem(24, 90)
    for settings in SETTINGS:
        whole = once(weight, hessian, 4, tqs.Quantizer(32), settings)
        parts = compensate(
            [(weight[:10], 4), (weight[10:], 4)], hessian, quantizer=tqs.Quantizer(32), settings=settings
        )
        same_bits(np.concatenate([part.codes for part in parts]), whole.codes)


def test_wrong_arguments():
    weight, _, hessian = problem(3, 8)
    with pytest.raises(ArgumentError, match="as many as the Hessian has columns, got"):
        once(weight[:, :7], hessian, 4, tqs.Quantizer(0), SETTINGS[1])
    with pytest.raises(ArgumentError, match="of shape"):
        once(weight, hessian[:7], 4, tqs.Quantizer(0), SETTINGS[1])
    for wrong in (np.nan, -1.0):
        broken = hessian.copy()
        broken[2, 2] = wrong
        with pytest.raises(ArgumentError, match="finite Hessian"):
            once(weight, broken, 4, tqs.Quantizer(0), SETTINGS[1])
    weight[1, 2] = np.inf
    with pytest.raises(ArgumentError, match=r"inf at \[1, 2\]"):
        once(weight, hessian, 4, tqs.Quantizer(0), SETTINGS[1])
    for keywords in (
        {"method": "best"},
        {"weighting": "loss"},
        {"damping": -0.1},
        {"sweeps": -1},
        {"horizon": 0},
        {"seed": -1},
    ):
        with pytest.raises(ArgumentError, match=rf"\[Compensation\] {next(iter(keywords))}"):
            tqs.Compensation(**keywords)
