"""How growth computations end: every outcome, every bad argument, statistics, files and the command line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from growth_cases import matrix_system, start
from tqs_fast import cli
from tqs_fast.growth.lyapunov import choose_interval
from tqs_fast.growth.singular import extend
from tqs_fast.growth.statistics import estimate, kaplan_yorke
from tqs_fast.growth.stretching import Stretching, orthonormalise
from tqs_fast.systems import flows

ROTATION = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])


def logistic_state(*values):
    return tqs.Contexts(torch.tensor(values, dtype=torch.float64).reshape(-1, 1))


# ---------------------------------------------------------------- outcomes


@pytest.mark.parametrize("method", ["qr", "krylov", "power"])
def test_diverged_samples_are_left_out_and_said(method):
    """The logistic map sends 1.5 to -infinity and stays at 0.75, where its slope is -2."""
    rates = tqs.growth_rates(
        flows.logistic(), horizon=20, transient=4, method=method, initial=logistic_state(0.75, 1.5, 0.75), count=1
    )
    assert rates.outcome is tqs.Outcome.DIVERGED
    assert "left out" in rates.outcome.advice
    assert math.isnan(rates.samples[1, 0])
    np.testing.assert_allclose(rates.samples[[0, 2], 0], math.log(2), rtol=1e-12)
    assert rates.exponents[0] == pytest.approx(math.log(2))
    assert rates.diagnostics["diverged_at"][::2] == [-1, -1]
    assert 5 < rates.diagnostics["diverged_at"][1] < 20


@pytest.mark.parametrize("method", ["qr", "krylov"])
@pytest.mark.parametrize("transient", [0, 20])
def test_when_all_diverge_there_is_still_a_result(method, transient):
    rates = tqs.growth_rates(
        flows.logistic(), horizon=20, transient=transient, method=method, initial=logistic_state(1.5, -3.0), count=1
    )
    assert rates.outcome is tqs.Outcome.DIVERGED
    assert math.isnan(rates.exponents[0])
    assert math.isnan(rates.kaplan_yorke)
    assert "diverged" in str(rates)


def test_an_annihilated_direction_is_minus_infinity():
    for method in ("qr", "krylov"):
        system = matrix_system(np.diag([2.0, 0.0]))
        rates = tqs.growth_rates(system, horizon=32, transient=4, method=method, initial=start(system, 2), count=2)
        assert rates.outcome is tqs.Outcome.COLLAPSED
        assert rates.exponents[0] == pytest.approx(math.log(2), abs=1e-9)
        assert rates.exponents[1] == -math.inf
        assert rates.sum == -math.inf
        assert rates.kaplan_yorke == 1.0


def test_a_frame_left_too_long_is_ill_conditioned():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    system = matrix_system(basis @ np.diag([2.0, 1.0, 0.5]) @ basis.T)
    state = tqs.Contexts(torch.zeros(1, 3, dtype=torch.float64))
    long = tqs.growth_rates(system, horizon=400, interval=100, initial=state, count=3)
    assert long.outcome is tqs.Outcome.ILL_CONDITIONED
    assert "interval" in long.outcome.advice
    assert abs(long.exponents[2] - math.log(0.5)) > 0.1
    chosen = tqs.growth_rates(system, horizon=400, initial=state, count=3)
    assert 1 <= chosen.diagnostics["interval"] <= 12
    assert max(chosen.diagnostics["condition"]) < chosen.diagnostics["condition_limit"]
    np.testing.assert_allclose(chosen.exponents, np.log([2.0, 1.0, 0.5]), atol=1e-10)


def test_a_frame_that_overflows_is_ill_conditioned_not_diverged():
    system = matrix_system(1e40 * np.eye(2))
    state = tqs.Contexts(torch.zeros(1, 2, dtype=torch.float64))
    rates = tqs.growth_rates(system, horizon=64, interval=16, transient=0, initial=state, count=2)
    assert rates.outcome is tqs.Outcome.ILL_CONDITIONED
    assert rates.diagnostics["diverged_at"] == [-1]
    assert rates.diagnostics["condition"] == ["inf"]


def test_singular_values_below_rounding_are_ill_conditioned():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    system = matrix_system(basis @ np.diag([1.0, 0.5, 1e-2, 1e-4]) @ basis.T)
    rates = tqs.growth_rates(system, horizon=8, method="krylov", initial=start(system, 1), count=4)
    assert rates.outcome is tqs.Outcome.ILL_CONDITIONED
    np.testing.assert_allclose(rates.exponents[:2], np.log([1.0, 0.5]), atol=1e-9)


def test_chaos_that_rounds_onto_a_fixed_point_is_at_rest():
    """0.5 -> 1 -> 0 -> 0: the rate there is that of the fixed point, ln 4, and not the ln 2 of the attractor."""
    rates = tqs.growth_rates(flows.logistic(), horizon=64, initial=logistic_state(0.5), count=1)
    assert rates.outcome is tqs.Outcome.RESTING
    assert rates.diagnostics["resting"] == [0]
    assert rates.exponents[0] == pytest.approx(math.log(4))


def test_an_iteration_cut_short_is_not_converged():
    generator = np.random.default_rng(0)
    system = matrix_system(generator.standard_normal((40, 40)) / 7)
    rates = tqs.growth_rates(system, horizon=2, method="power", initial=start(system, 1), count=2, iterations=2)
    assert rates.outcome is tqs.Outcome.NOT_CONVERGED
    assert max(rates.diagnostics["residual"][0]) > rates.diagnostics["tolerance"]


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be an integer of at least 1"),
        ({"count": 2.5}, "count"),
        ({"horizon": 0}, "horizon"),
        ({"transient": -1}, "transient"),
        ({"interval": 0}, "interval"),
        ({"iterations": 0}, "iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"method": "spectral"}, "expected method to be one of qr, krylov, power"),
        ({"engine": "fast"}, "expected engine"),
        ({"precision": "float16"}, "expected precision"),
        ({"initial": tqs.Contexts(torch.zeros(2, 5))}, "expected shape"),
    ],
)
def test_bad_arguments(arguments, message):
    system = matrix_system(ROTATION)
    with pytest.raises(tqs.ArgumentError, match=message) as raised:
        tqs.growth_rates(system, **({"initial": start(system, 1), "horizon": 4} | arguments))
    assert str(raised.value).count("\n") == 0


def test_a_state_of_integers_has_nothing_to_perturb():
    system = tqs.System(
        nn.Linear(1, 1),
        step=lambda m, state: (state + 1, m(state.float())),
        initial_state=lambda n, g: torch.zeros(n, 1, dtype=torch.int64),
    )
    with pytest.raises(tqs.ArgumentError, match="no floating leaf"):
        tqs.growth_rates(system, horizon=2, initial=tqs.Contexts(torch.zeros(1, 1, dtype=torch.int64)))


def test_a_step_that_names_its_dtype_is_told_to():
    system = tqs.System(
        nn.Linear(2, 2),
        step=lambda m, z: (z.float(), z.float()),
        initial_state=lambda n, g: torch.randn(n, 2, generator=g),
    )
    with pytest.raises(tqs.ArgumentError, match=r"float64, got .* float32"):
        tqs.growth_rates(system, horizon=2, initial=tqs.Contexts(torch.randn(1, 2)))


# ---------------------------------------------------------------- systems of other kinds


def test_a_driven_system_and_float32():
    """z' = 0.9 z + input: the input moves the trajectory and not the rates, in any precision."""

    def step(module, state, given):
        after = module(state["z"]) + given
        return {"z": after, "clock": state["clock"] + 1}, after

    module = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(0.9 * torch.eye(3))
    system = tqs.Recurrent(
        module,
        step=step,
        initial_state=lambda n, g: {
            "z": torch.randn(n, 3, generator=g),
            "clock": torch.zeros(n, 1, dtype=torch.int64),
        },
        inputs=lambda n, t, g: torch.randn(n, t, 3, generator=g),
    )
    for precision, tolerance in (("float64", 1e-7), ("float32", 1e-6)):
        for method in ("qr", "krylov"):
            rates = tqs.growth_rates(
                system, horizon=40, transient=10, method=method, initial=tqs.Attractor(count=2), precision=precision
            )
            assert rates.outcome is tqs.Outcome.CONVERGED
            assert rates.size == 3
            # 0.9 itself is rounded to float32 in the module
            np.testing.assert_allclose(rates.exponents, math.log(0.9), atol=tolerance)
            assert rates.directions["z"].shape == (3, 2, 3)
            assert not bool(rates.directions["clock"].any())


def test_a_forecaster_shifts_its_window():
    """y = y_{-3}: the window rotates, so that nothing grows; the rate is per step of two values."""

    class Repeat(nn.Module):
        def forward(self, window):
            return window[:, :2]

    system = tqs.Forecaster(Repeat(), context_length=6, block=2)
    rates = tqs.growth_rates(system, horizon=64, initial=start(system, 2), count=6)
    np.testing.assert_allclose(rates.exponents, 0, atol=1e-12)
    assert rates.provenance["block"] == 2


def test_progress_counts_steps():
    seen = []
    system = matrix_system(ROTATION)

    def report(done, total):
        seen.append((done, total))

    tqs.growth_rates(system, horizon=40, transient=8, initial=start(system, 1), progress=report)
    assert seen[0] == (0, 48)
    assert seen[-1] == (48, 48)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# ---------------------------------------------------------------- parts


def stretching(logs, steps=None):
    logs = np.asarray(logs, dtype=np.float64)
    blocks, count, _ = logs.shape
    return Stretching(
        logs,
        np.ones(blocks, dtype=np.int64) if steps is None else np.asarray(steps),
        np.ones(count),
        np.full(count, -1),
        None,
        torch.zeros(count, 1, 1),
    )


def test_standard_errors_cover_what_they_should():
    """Independent blocks: 400 experiments of known mean, of which a right error of one sigma covers 68 %."""
    generator = np.random.default_rng(0)
    for samples, least, most in ((64, 0.60, 0.76), (1, 0.60, 0.90)):
        covered = 0
        for _ in range(400):
            found = estimate(stretching(0.3 + generator.standard_normal((32, samples, 1))))
            covered += abs(found.exponents[0] - 0.3) <= found.stderr[0]
        assert least < covered / 400 < most
    correlated = np.repeat(generator.standard_normal((8, 1, 1)), 4, axis=0)
    found = estimate(stretching(correlated))
    assert found.stderr[0] == pytest.approx(correlated[::4].std(ddof=1) / math.sqrt(8))


def test_unequal_blocks_are_weighed_by_their_length():
    found = estimate(stretching([[[4.0]], [[1.0]]], steps=[4, 2]))
    assert found.exponents[0] == pytest.approx(5 / 6)


def test_drift_is_told_from_noise():
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((32, 4, 2))
    assert not estimate(stretching(noise)).drifting.any()
    trend = np.linspace(1, -1, 32)[:, None, None] * np.array([0.0, 3.0])
    found = estimate(stretching(noise + trend))
    assert found.drifting.tolist() == [False, True]
    assert found.drift[1] == pytest.approx(-6.2, abs=1.5)
    assert not estimate(stretching(np.full((32, 1, 1), 0.7))).drifting.any()


@pytest.mark.parametrize(
    ("exponents", "size", "expected"),
    [
        ([0.906, 0.0, -14.572], 3, 2 + 0.906 / 14.572),
        ([0.4192, -1.6232], 2, 1 + 0.4192 / 1.6232),
        ([-0.1, -0.2], 2, 0.0),
        ([0.1, 0.0], 2, 2.0),
        ([0.1, 0.0], 5, math.nan),
        ([0.0, -math.inf], 2, 1.0),
        ([math.nan, math.nan], 2, math.nan),
    ],
)
def test_kaplan_yorke(exponents, size, expected):
    assert kaplan_yorke(np.array(exponents), size) == pytest.approx(expected, nan_ok=True)


def test_the_condition_does_not_count_lengths():
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(2, 6, 3, generator=generator, dtype=torch.float64))[0]
    lengths = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)
    basis, logs, condition = orthonormalise(q * lengths)
    torch.testing.assert_close(condition, torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(logs, lengths.log().expand(2, 3))
    torch.testing.assert_close(basis.abs(), q.abs())
    close = torch.stack([q[:, :, 0], q[:, :, 0] + 1e-6 * q[:, :, 1]], dim=2)
    assert float(orthonormalise(close)[2][0]) == pytest.approx(1e6, rel=0.5)
    same = torch.stack([q[:, :, 0], torch.zeros_like(q[:, :, 0])], dim=2)
    basis, logs, condition = orthonormalise(same)
    assert torch.isneginf(logs[:, 1]).all()
    assert torch.isinf(condition).all()
    torch.testing.assert_close(basis.transpose(1, 2) @ basis, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_extending_a_basis_survives_dependent_columns():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 9, 4, generator=generator, dtype=torch.float64))[0]
    block = torch.cat([basis[:, :, :2], torch.randn(2, 9, 1, generator=generator, dtype=torch.float64)], dim=2)
    block[0, :, 1] = 0
    whole = torch.cat([basis, extend(basis, block, generator)], dim=2)
    torch.testing.assert_close(
        whole.transpose(1, 2) @ whole, torch.eye(7, dtype=torch.float64).expand(2, 7, 7), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    ("condition", "taken", "longest", "expected"),
    [
        (1.0, 1, 64, 64),
        (1.0, 1, 10, 10),
        (math.inf, 1, 64, 1),
        (1e9, 1, 64, 1),
        (math.e, 1, 64, 9),
        (math.e**18, 40, 40, 20),
        (math.e, 5, 5, 5),
    ],
)
def test_the_interval(condition, taken, longest, expected):
    # ln(eps^(-1/4)) = 9.01 in float64
    assert choose_interval(condition, taken, longest, 2.0**-52) == expected


# ---------------------------------------------------------------- files and command line


def test_saved_and_loaded(tmp_path):
    system = matrix_system(np.diag([2.0, 0.0]))
    rates = tqs.growth_rates(system, horizon=32, initial=start(system, 2), count=2)
    rates.save(tmp_path / "rates.json")
    again = tqs.GrowthRates.load(tmp_path / "rates.json")
    assert again.outcome is rates.outcome
    np.testing.assert_array_equal(again.exponents, rates.exponents)
    np.testing.assert_array_equal(again.samples, rates.samples)
    assert again.directions is None
    assert again.direction is None
    assert again.to_json() == rates.to_json()
    assert str(again) == str(rates)
    document = rates.to_json()
    for key, value in (("outcome", "fine"), ("exponents", [1.0]), ("version", 2)):
        (tmp_path / "bad.json").write_text(json.dumps(document | {key: value}))
        with pytest.raises(tqs.FileFormatError):
            tqs.GrowthRates.load(tmp_path / "bad.json")


def test_the_command_line(run, tmp_path, capfd):
    out = tmp_path / "rates.json"
    henon = "tqs_fast.systems.flows:henon"
    options = ["--initial-count", "4", "--horizon", "100", "--transient", "20", "--json", "-o", str(out)]
    printed = json.loads(run("growth", henon, *options).stdout)
    assert printed["format"] == "tqs-fast/growth-rates"
    assert printed["outcome"] == "converged"
    assert printed["sum"] == pytest.approx(math.log(0.3))
    assert tqs.GrowthRates.load(out).to_json() == printed
    cli.growth.growth(henon, method="krylov", horizon=8, count=1, initial_count=4, out=tmp_path / "again.json")
    shown = capfd.readouterr().out
    assert "rate/step" in shown
    assert "krylov, 8 steps" in shown
    assert "written to" in shown
