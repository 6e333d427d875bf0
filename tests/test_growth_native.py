"""The native loop of growth rates: against the torch engine, NumPy's QR, itself on other threads, and long runs."""

from __future__ import annotations

import math
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from growth_cases import gru_oracle, gru_system, matrix_system, start
from tqs_fast._native import core
from tqs_fast.growth.native_stretching import NativeStretching
from tqs_fast.growth.stretching import TorchStretching, orthonormalise, pick_samples
from tqs_fast.growth.vector import StateVector
from tqs_fast.reference import growth as oracle
from tqs_fast.systems import draw, flows
from tqs_fast.systems.tree import tree_leaves

ROUNDING = 2.0**-52


def silent(done):
    pass


def prepare(system, count, directions, *, initial=None, steps=1, seed=0):
    states = draw(initial or tqs.Attractor(count=count, spin_up=8), system, horizon=steps, seed=seed)
    size = StateVector(states.state).size
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randn(count, size, min(directions, size), generator=generator, dtype=torch.float64)
    return states, torch.linalg.qr(frame)[0]


# ---------------------------------------------------------------- orthonormalize


def factored(frame):
    """(Q, logs, condition) of one frame [D, K] by the native routine."""
    size, directions = frame.shape
    rows, logs = torch.from_numpy(frame.T.copy()), np.empty(directions)
    condition = core.orthonormalize(frame=rows.data_ptr(), size=size, directions=directions, logs=logs.ctypes.data)
    return rows.numpy().T, logs, condition


@pytest.mark.parametrize(
    ("size", "directions"),
    [(1, 1), (2, 1), (2, 2), (3, 3), (7, 4), (8, 8), (9, 3), (16, 5), (17, 17), (33, 2), (64, 64), (131, 8)],
)
@pytest.mark.parametrize("graded", [0.0, 4.0])
def test_orthonormalize(size, directions, graded):
    generator = np.random.default_rng(size * 100 + directions)
    frame = generator.standard_normal((size, directions)) * np.exp(graded * generator.standard_normal(directions))
    q, logs, condition = factored(frame)
    expected_q, r = np.linalg.qr(frame)
    # Householder is backward stable column by column: 8 D K roundings, times the condition for Q itself
    bound = 8 * size * directions * ROUNDING
    np.testing.assert_allclose(q.T @ q, np.eye(directions), rtol=0, atol=bound)
    upper = q.T @ frame
    np.testing.assert_allclose(np.tril(upper / np.linalg.norm(frame, axis=0), -1), 0, atol=bound)
    np.testing.assert_allclose(q, expected_q, rtol=0, atol=bound * condition)
    np.testing.assert_allclose(logs, np.log(np.abs(np.diag(r))), rtol=0, atol=bound * condition)
    scaled = r / np.linalg.norm(r, axis=0)
    expected = np.linalg.norm(np.linalg.inv(scaled)) / math.sqrt(directions)
    assert condition == pytest.approx(expected, rel=bound * condition)
    assert condition >= np.linalg.cond(scaled) / directions * (1 - 1e-9)


def test_orthonormalize_of_dependent_and_extreme_columns():
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 3)))
    for column in (np.zeros(6), q[:, 0]):
        basis, logs, condition = factored(np.stack([q[:, 0], column, q[:, 2]], axis=1))
        assert logs[1] < math.log(1e-15)
        assert condition > 1e14
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-14)
    assert factored(np.zeros((4, 2)))[2] == math.inf
    for size in (1e-300, 1e-160, 1e160, 1e300):
        basis, logs, condition = factored(q * size)
        np.testing.assert_allclose(logs, math.log(size), rtol=1e-14)
        assert condition == pytest.approx(1, rel=1e-12)
        np.testing.assert_allclose(np.abs(basis), np.abs(q), atol=1e-14)


def test_both_engines_factor_alike():
    frame = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = [factored(each.numpy()) for each in frame]
    basis, logs, condition = orthonormalise(frame)
    np.testing.assert_allclose(np.stack([each[0] for each in ours]), basis, atol=1e-14)
    np.testing.assert_allclose(np.stack([each[1] for each in ours]), logs, atol=1e-14)
    np.testing.assert_allclose([each[2] for each in ours], condition, rtol=1e-13)


# ---------------------------------------------------------------- the loop


def window_system():
    """A sliding window of five values of two channels."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(10, 8), nn.Linear(8, 2)

        def forward(self, window):
            return 1.4 * torch.sin(self.second(torch.tanh(2 * self.first(window.flatten(1)))))

    return tqs.Forecaster(Net(), context_length=5, channels=2, name="window")


def driven_system():
    torch.manual_seed(0)

    def step(module, state, given):
        hidden = module(given, state["hidden"])
        return {"hidden": hidden, "last": given}, hidden

    return tqs.Recurrent(
        nn.GRUCell(3, 6),
        step=step,
        initial_state=lambda n, g: {"hidden": torch.zeros(n, 6), "last": torch.zeros(n, 3)},
        inputs=lambda n, t, g: torch.randn(n, t, 3, generator=g),
        name="driven",
    )


SYSTEMS = {
    "lorenz-63": flows.lorenz63,
    "henon": flows.henon,
    "gru": gru_system,
    "lorenz-gru": lambda: tqs.in_float64(tqs.load_system("lorenz-gru")),
    "window": lambda: tqs.in_float64(window_system()),
    "driven": lambda: tqs.in_float64(driven_system()),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_native_equals_torch(name):
    system = SYSTEMS[name]()
    # of the driven system's state only the hidden units are left of themselves
    states, frame = prepare(system, 5, 4, steps=40)
    given = {"steps": 23, "interval": 4, "blocks": 3, "first": 7, "report": silent}
    native = NativeStretching(system, states.state).run(states.state, states.inputs, frame, **given)
    torch_ = TorchStretching(system).run(states.state, states.inputs, frame, **given)
    assert native.steps.tolist() == torch_.steps.tolist() == [8, 8, 7]
    assert native.diverged.tolist() == [-1] * 5
    # Rounding of 23 steps, amplified by the condition of the frame and the growth of the trajectory's own rounding.
    bound = 1e-11 * float(torch_.condition.max())
    np.testing.assert_allclose(native.logs, torch_.logs, rtol=0, atol=bound)
    np.testing.assert_allclose(native.condition, torch_.condition, rtol=bound)
    np.testing.assert_allclose(native.frame, torch_.frame, rtol=0, atol=100 * bound)
    for ours, theirs in zip(tree_leaves(native.state), tree_leaves(torch_.state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_gru_against_an_independent_qr():
    system = gru_system()
    step, jacobian = gru_oracle(system)
    states, frame = prepare(system, 3, 5)
    run = NativeStretching(system, states.state).run(
        states.state, None, frame, first=0, steps=40, interval=5, blocks=8, report=silent
    )
    for n in range(3):
        logs, final, basis = oracle.qr_logs(step, jacobian, states.state[n].numpy(), frame[n].numpy(), 40)
        np.testing.assert_allclose(run.logs[:, n], logs.reshape(8, 5, 5).sum(axis=1), atol=1e-9)
        np.testing.assert_allclose(run.state[n], final, atol=1e-10)
        np.testing.assert_allclose(np.abs(run.frame[n].numpy().T @ basis), np.eye(5), atol=1e-7)


@pytest.mark.parametrize("name", ["gru", "window", "driven"])
def test_the_same_bits_for_any_threads_and_any_company(name):
    """Results of a sample do not depend on threads, tiles, or the samples beside it."""
    system = SYSTEMS[name]()
    states, frame = prepare(system, 7, 3, steps=30)
    engine = NativeStretching(system, states.state)
    given = {"steps": 30, "interval": 3, "blocks": 5, "first": 0, "report": silent}
    threads = torch.get_num_threads()
    try:
        runs = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            runs.append(engine.run(states.state, states.inputs, frame, **given))
    finally:
        torch.set_num_threads(threads)
    for n in range(7):
        trees = [pick_samples(tree, np.array([n])) for tree in (states.state, states.inputs)]
        runs.append(engine.run(*trees, frame[n : n + 1], **given))
        np.testing.assert_array_equal(runs[-1].logs[:, 0], runs[0].logs[:, n])
        assert torch.equal(runs[-1].frame[0], runs[0].frame[n])
    for run in runs[1:3]:
        np.testing.assert_array_equal(run.logs, runs[0].logs)
        np.testing.assert_array_equal(run.condition, runs[0].condition)
        assert torch.equal(run.frame, runs[0].frame)


def test_failed_samples_do_not_disturb_the_others():
    system = flows.logistic()
    state = torch.tensor([[0.3], [1.5], [0.7], [-2.0]]).double()
    frame = torch.ones(4, 1, 1).double()
    given = {"steps": 40, "interval": 2, "blocks": 8, "first": 3, "report": silent}
    engines = (NativeStretching(system, state), TorchStretching(system))
    both = [engine.run(state, None, frame, **given) for engine in engines]
    good = NativeStretching(system, state).run(state[::2], None, frame[::2], **given)
    np.testing.assert_array_equal(both[0].logs[:, ::2], good.logs)
    for run in both:
        np.testing.assert_allclose(run.logs[:, ::2], good.logs, rtol=1e-12)
        assert np.isnan(run.logs[:, 1::2]).any(axis=0).all()
        assert run.alive.tolist() == [True, False, True, False]
    assert both[0].diverged.tolist() == both[1].diverged.tolist()
    assert both[0].diverged[0] == -1 < 3 < both[0].diverged[1]


def test_a_frame_that_overflows():
    system = matrix_system(1e40 * np.eye(2))
    state, frame = torch.zeros(1, 2).double(), torch.eye(2).double()[None]
    run = NativeStretching(system, state).run(
        state, None, frame, first=0, steps=64, interval=16, blocks=4, report=silent
    )
    assert run.condition.tolist() == [math.inf]
    assert run.diverged.tolist() == [-1]
    assert np.isnan(run.logs).all()


def test_float32_pushes_in_float32_and_adds_up_in_float64():
    system = flows.lorenz63()
    single = tqs.systems.precision.in_precision(system, "float32")
    for twin, tolerance in ((single, 1e-3), (system, 1e-9)):
        rates = tqs.growth_rates(
            twin, horizon=300, initial=tqs.Attractor(count=4), count=3, engine="native",
            precision="float32" if twin is single else "float64",
        )  # fmt: skip
        # the volume contracts at a rate that hardly depends on the trajectory
        assert rates.sum / 0.01 == pytest.approx(-(11 + 8 / 3), abs=tolerance * 100 + 2e-3)
        assert rates.provenance["engine"]["name"] == "native"


def test_which_engine_is_said():
    rates = tqs.growth_rates(flows.henon(), horizon=32, initial=start(flows.henon(), 1))
    assert rates.provenance["engine"] == {
        "name": "native",
        "reason": "the step was captured",
        "tangents": "native tangent rollout",
    }
    counting = tqs.System(
        nn.Linear(1, 1),
        step=lambda m, s: ({"z": m(s["z"]), "t": s["t"] + 1}, s["z"]),
        initial_state=lambda n, g: {"z": torch.randn(n, 1, generator=g), "t": torch.zeros(n, 1, dtype=torch.int64)},
    )
    state = tqs.Contexts(counting.initial_state(1, torch.Generator().manual_seed(0)))
    rates = tqs.growth_rates(counting, horizon=8, initial=state)
    assert rates.provenance["engine"]["name"] == "torch"
    assert "integers in its state" in rates.provenance["engine"]["reason"]
    with pytest.raises(tqs.CaptureError, match="integers in its state"):
        tqs.growth_rates(counting, horizon=8, initial=state, engine="native")
    rates = tqs.growth_rates(flows.henon(), horizon=8, method="krylov", initial=start(flows.henon(), 1))
    assert rates.provenance["engine"] == {
        "name": "native",
        "reason": "the step and its transpose were captured",
        "tangents": "native tangent rollout",
        "adjoints": "native rollout of the transposed step",
    }


def test_a_growing_context_has_no_rate():
    system = tqs.Forecaster(nn.Flatten(), context_length=3, growing=True)
    with pytest.raises(tqs.ArgumentError, match="grows with every step"):
        tqs.growth_rates(system, horizon=4, initial=tqs.Contexts(torch.randn(1, 3, 1)))


def test_other_threads_run_meanwhile_and_ctrl_c_ends_it():
    """A run of hours: Python counts on while it runs, and stops within one step of being told to."""
    system = flows.lorenz63()
    states, frame = prepare(system, 4, 3)
    engine = NativeStretching(system, states.state)
    engine.run(states.state, None, frame, first=0, steps=2, interval=1, blocks=1, report=silent)
    counted = 0

    def interrupt():
        nonlocal counted
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            counted += 1
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            engine.run(states.state, None, frame, first=0, steps=2**33, interval=8, blocks=32, report=silent)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert counted > 1000


# ---------------------------------------------------------------- known exponents, longer


def within(rates, expected, unit, errors=2.0):
    values, spread = rates.exponents / unit, rates.stderr / unit
    assert (np.abs(values - expected) <= errors * spread).all(), (values, spread)


def test_lorenz_63_at_length():
    h = 0.01
    initial = tqs.Attractor(count=32, spin_up=5000)
    rates = tqs.growth_rates(flows.lorenz63(h), horizon=10_000, transient=1000, initial=initial, engine="native")
    within(rates, [0.9056, 0.0, -14.5723], h)
    assert rates.stderr[0] / h < 0.01
    assert rates.kaplan_yorke == pytest.approx(2.062, abs=2e-3)
    assert rates.outcome is tqs.Outcome.CONVERGED


def test_rossler_at_length():
    h = 0.05
    initial = tqs.Attractor(count=32, spin_up=2000)
    rates = tqs.growth_rates(flows.rossler(h), horizon=10_000, transient=4000, initial=initial, engine="native")
    # Sprott, 2003; an error of 0.0002 in the last digit given there
    within(rates, [0.0714, 0.0, -5.3943], h, errors=2.5)
    assert rates.stderr[0] / h < 2e-3
