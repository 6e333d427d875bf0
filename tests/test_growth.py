"""Growth rates against known answers: exponents of maps and flows, sum rules, dense singular values, NumPy's QR."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from growth_cases import gru_oracle, gru_system, lorenz_jacobian, matrix_system, start
from tqs_fast.growth.stretching import TorchStretching
from tqs_fast.reference import growth as oracle
from tqs_fast.systems import flows

# Torch differentiates a step in milliseconds however many samples it has: runs are wide and short. bench_growth.py has
# the long ones.


@pytest.fixture(autouse=True)
def one_thread():
    """States this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_within(rates, expected, *, unit=1.0, errors=2.0):
    for i, (value, error, known) in enumerate(zip(rates.exponents, rates.stderr, expected, strict=True)):
        assert abs(value / unit - known) <= errors * error / unit, (i, value / unit, error / unit, known)


# ---------------------------------------------------------------- known exponents


def test_the_logistic_map():
    rates = tqs.growth_rates(flows.logistic(), horizon=200, initial=tqs.Attractor(count=512))
    assert_within(rates, [math.log(2)])
    assert rates.stderr[0] < 2e-3
    assert rates.outcome is tqs.Outcome.CONVERGED
    assert rates.kaplan_yorke == 1.0


def test_the_henon_map():
    rates = tqs.growth_rates(flows.henon(), horizon=200, transient=50, initial=tqs.Attractor(count=512))
    # 0.41922: Sprott, Chaos and Time-Series Analysis, 2003
    assert_within(rates, [0.41922, math.log(0.3) - 0.41922])
    assert rates.stderr[0] < 2e-3
    # The determinant is the constant -b. Each step's log|R_11| + log|R_22| is it to a few roundings of R.
    assert rates.sum == pytest.approx(math.log(0.3), rel=1e-12)
    assert rates.kaplan_yorke == pytest.approx(1 + 0.41922 / 1.62319, abs=2e-3)


def test_lorenz_63():
    h = 0.02
    system = flows.lorenz63(h)
    # 50 time units: states that start near one of the unstable foci take 1 / 0.094 of them to spiral out
    initial = tqs.Attractor(count=512, spin_up=2500)
    rates = tqs.growth_rates(system, horizon=200, transient=250, initial=initial, count=3)
    assert rates.outcome is tqs.Outcome.CONVERGED
    assert_within(rates, [0.9056, 0.0, -14.5723], unit=h)  # Sprott, 2003
    assert rates.stderr[0] / h < 0.03
    # Sum rule. Volume contracts at -(sigma + 1 + beta) = -13.6667 in the flow, which the Runge-Kutta map does not keep
    # to more than 1e-4: its own mean log |det J| over the same trajectories, by NumPy, is the number to meet.
    assert rates.sum / h == pytest.approx(-(10 + 1 + 8 / 3), rel=2e-3)


def test_the_sum_rule_along_the_same_trajectory():
    h = 0.02
    system = flows.lorenz63(h)
    state = torch.tensor([[1.0, 2.0, 20.0], [-4.0, -5.0, 22.0]]).double()
    steps = 100
    rates = tqs.growth_rates(system, horizon=steps, transient=0, initial=tqs.Contexts(state), count=3)
    path = tqs.rollout(system, state, horizon=steps).outputs.numpy()
    jacobian = lorenz_jacobian(h)
    for n in range(2):
        visited = np.concatenate([state[n : n + 1].numpy(), path[:-1, n]])
        expected = oracle.log_volume(jacobian, visited)
        # Trajectories part by rounding times e^(0.9 h steps); the determinant is nearly constant besides.
        assert rates.samples[n].sum() == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- linear maps


def orthogonal(size: int, seed: int = 0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def test_a_symmetric_map_has_the_logs_of_its_eigenvalues():
    values = np.array([2.0, 1.3, 1.0, 0.5, 0.1])
    basis = orthogonal(5)
    system = matrix_system(basis @ np.diag(values) @ basis.T)
    rates = tqs.growth_rates(system, horizon=300, transient=150, initial=start(system, 3), count=5)
    # after the transient the frame is that of eigenvectors to (1/1.3)^150
    np.testing.assert_allclose(rates.exponents, np.log(values), rtol=0, atol=1e-12)
    assert rates.stderr.max() < 1e-12


@pytest.mark.parametrize("matrix", [orthogonal(6), np.roll(np.eye(6), 1, axis=0)], ids=["orthogonal", "permutation"])
def test_a_rotation_grows_nothing(matrix):
    system = matrix_system(matrix)
    for method in ("qr", "krylov", "power"):
        rates = tqs.growth_rates(system, horizon=128, method=method, initial=start(system, 2), count=6)
        np.testing.assert_allclose(rates.exponents, 0, atol=1e-13)
        assert rates.outcome is tqs.Outcome.CONVERGED


def test_a_jordan_block():
    """z grows like t λ^t: the exponent is log λ, approached as (log t) / t: that it still drifts is noticed."""
    matrix = 0.9 * np.eye(3) + np.eye(3, k=1)
    system = matrix_system(matrix)
    steps = 400
    rates = tqs.growth_rates(system, horizon=steps, transient=steps, initial=start(system, 2), count=3)
    assert rates.sum == pytest.approx(3 * math.log(0.9), rel=1e-12)
    # two powers of t between t = steps and 2 steps
    bound = 2 * math.log(2) / steps
    assert abs(rates.exponents[0] - math.log(0.9)) < 1.1 * bound
    assert rates.outcome is tqs.Outcome.NOT_CONVERGED


def test_transient_growth_of_a_non_normal_map():
    """Both eigenvalues below 1, and yet errors grow tenfold first: the finite-time exponent sees it, the asymptotic one
    does not (Trefethen, SIAM Review 39(3), 1997)."""
    matrix = np.array([[0.9, 20.0], [0.0, 0.8]])
    system = matrix_system(matrix)
    for steps in (1, 5, 60):
        values = np.linalg.svd(np.linalg.matrix_power(matrix, steps), compute_uv=False)
        rates = tqs.growth_rates(system, horizon=steps, method="krylov", initial=start(system, 1), count=2)
        np.testing.assert_allclose(rates.exponents, np.log(values) / steps, atol=1e-12)
        assert (rates.exponents[0] > 0) == (values[0] > 1)
    assert np.linalg.svd(np.linalg.matrix_power(matrix, 5), compute_uv=False)[0] > 10
    asymptotic = tqs.growth_rates(system, horizon=400, transient=200, initial=start(system, 1), count=2)
    np.testing.assert_allclose(asymptotic.exponents, np.log([0.9, 0.8]), atol=1e-8)


# ---------------------------------------------------------------- against NumPy


def test_a_gru_against_an_independent_qr():
    system = gru_system()
    step, jacobian = gru_oracle(system)
    count, steps = 3, 40
    state = system.initial_state(count, torch.Generator().manual_seed(0))
    frame = torch.linalg.qr(torch.randn(count, 12, 5, generator=torch.Generator().manual_seed(1)).double())[0]
    found = {}
    for interval in (1, 5):
        run = TorchStretching(system).run(
            state, None, frame, first=0, steps=steps, interval=interval, blocks=8, report=lambda done: None
        )
        found[interval] = run
        for n in range(count):
            logs, final, basis = oracle.qr_logs(step, jacobian, state[n].numpy(), frame[n].numpy(), steps)
            # rounding grows with the largest exponent (0.2 here) over 40 steps: e^8 * 1e-16 * 40
            np.testing.assert_allclose(run.logs[:, n], logs.reshape(8, -1, 5).sum(axis=1), atol=1e-9)
            np.testing.assert_allclose(run.state[n], final, atol=1e-10)
            np.testing.assert_allclose(np.abs(run.frame[n].numpy().T @ basis), np.eye(5), atol=1e-7)
    assert found[1].condition.max() < found[5].condition.max() < 1e8


def dense(system, state, steps):
    """M of one sample, one basis vector after the other."""
    size = state.shape[-1]
    identity = torch.eye(size, dtype=torch.float64)[:, None].expand(size, 1, size)
    return tqs.rollout(system, state, horizon=steps, tangents=identity).tangents[:, 0].T.numpy()


@pytest.mark.parametrize("method", ["krylov", "power"])
def test_singular_values_against_a_dense_svd(method):
    system = gru_system()
    step, jacobian = gru_oracle(system)
    state = system.initial_state(3, torch.Generator().manual_seed(2))
    steps = 12
    rates = tqs.growth_rates(
        system, horizon=steps, method=method, initial=tqs.Contexts(state), count=4, tolerance=1e-8, iterations=4000
    )
    assert rates.outcome is tqs.Outcome.CONVERGED
    for n in range(3):
        matrix = oracle.tangent_map(step, jacobian, state[n].numpy(), steps)
        np.testing.assert_allclose(dense(system, state[n : n + 1], steps), matrix, atol=1e-10 * np.abs(matrix).max())
        _, values, right = np.linalg.svd(matrix)
        np.testing.assert_allclose(rates.samples[n], np.log(values[:4]) / steps, rtol=0, atol=1e-9)
        lead = rates.direction[n].numpy()
        assert abs(lead @ right[0]) == pytest.approx(1, abs=1e-9)
        assert np.linalg.norm(lead) == pytest.approx(1, abs=1e-12)
    assert rates.stderr == pytest.approx(rates.samples.std(axis=0, ddof=1) / math.sqrt(3))


def test_krylov_takes_fewer_products_than_power_iteration():
    system = gru_system(width=40, inner=6)
    products = {}
    for method in ("krylov", "power"):
        rates = tqs.growth_rates(system, horizon=6, method=method, initial=start(system, 1), count=3, iterations=2000)
        assert rates.outcome is tqs.Outcome.CONVERGED
        products[method] = rates.diagnostics["products"]["adjoint"]
    assert products["krylov"] < products["power"] / 2


def test_long_horizons_neither_overflow_nor_underflow():
    for factor in (1e20, 1e-20):
        system = matrix_system(factor * np.diag([1.0, 0.5]))
        for method, horizon in (("krylov", 40), ("qr", 64)):
            state = tqs.Contexts(torch.zeros(1, 2).double())
            rates = tqs.growth_rates(system, horizon=horizon, method=method, initial=state, count=2)
            np.testing.assert_allclose(rates.exponents, np.log(factor) + np.log([1.0, 0.5]), atol=1e-6)
