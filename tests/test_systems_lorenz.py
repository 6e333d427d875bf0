"""The shipped Lorenz-63 network, the flow it was trained on, and its training script."""

from __future__ import annotations

import importlib.util
import sys
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tqs_fast.errors import ArgumentError
from tqs_fast.systems import Attractor, draw, iterate, load_system, lorenz63, lorenz_contexts
from tqs_fast.systems.lorenz_gru import LorenzGRU

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_lorenz_gru.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_lorenz_gru", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_integration_is_fourth_order(monkeypatch: pytest.MonkeyPatch) -> None:
    start = np.array([[1.0, 2.0, 20.0], [-5.0, -4.0, 25.0]])
    exact = None
    errors = []
    for substeps in (64, 2, 4, 8):
        monkeypatch.setattr(lorenz63, "SUBSTEPS", substeps)
        end = lorenz63.integrate(start, 10)[:, -1]
        if exact is None:
            exact = end
        else:
            errors.append(np.abs(end - exact).max())
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all((ratios > 12) & (ratios < 20)), ratios


def test_flow_keeps_its_fixed_point_and_its_statistics() -> None:
    wing = np.sqrt(lorenz63.BETA * (lorenz63.RHO - 1))
    fixed = np.array([[wing, wing, lorenz63.RHO - 1]])
    np.testing.assert_allclose(lorenz63.integrate(fixed, 5)[:, -1], fixed, rtol=1e-12)
    scaled = lorenz63.standardise(lorenz63.trajectories(256, 1000, seed=1))
    np.testing.assert_allclose(scaled.mean(axis=(0, 1)), 0, atol=0.05)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, atol=0.01)


def test_shipped_weights_are_small_and_float32() -> None:
    path = files("tqs_fast.systems").joinpath("data", "lorenz_gru.safetensors")
    assert len(path.read_bytes()) <= 300_000
    assert {value.dtype for value in load_system("lorenz-gru").module.state_dict().values()} == {torch.float32}


def test_shipped_weights_predict_and_stay_on_the_attractor(script: ModuleType) -> None:
    """2000 free steps, 36 Lyapunov times, from 64 true states. An untrained network has a valid time of 0.1."""
    figures = script.validate(load_system("lorenz-gru").module)
    assert figures["valid_time"] > 4.0
    # sampling: a few dozen wing changes per trajectory leave 2 % on the mean of x and well below 1 % on the spread
    np.testing.assert_allclose(figures["std"], figures["true_std"], rtol=0.05)
    np.testing.assert_allclose(figures["mean"], figures["true_mean"], atol=0.1)
    assert figures["largest"] < 3.5


def test_attractor_states_are_where_the_flow_lives() -> None:
    system = load_system("lorenz-gru")
    value = draw(Attractor(256, spin_up=500), system, horizon=1, seed=4).state["value"]
    # 256 independent states: the spread of each coordinate is known to about 5 %, the mean to 6 %
    np.testing.assert_allclose(value.std(dim=0), 1, atol=0.2)
    np.testing.assert_allclose(value.mean(dim=0), 0, atol=0.25)
    # The default spin-up reaches the attractor, though states that began together are not yet spread by its measure.
    # Distances to 128,000 true samples, in standard deviations; a few stay larger where the flow is seldom.
    true = torch.from_numpy(lorenz63.standardise(lorenz63.trajectories(64, 2000, seed=5))).float().reshape(-1, 3)
    distance = [
        torch.cdist(draw(Attractor(256, spin_up), system, horizon=1, seed=4).state["value"], true).amin(dim=1)
        for spin_up in (0, None)
    ]
    assert distance[0].median() > 0.1
    assert distance[1].median() < 0.02
    assert distance[1].quantile(0.95) < 0.1


def test_contexts_from_the_true_flow_forecast_it() -> None:
    """The network follows the true trajectory from the state it was driven to; from empty memory it does worse."""
    count, steps = 32, 50
    system = load_system("lorenz-gru")
    contexts = lorenz_contexts(count, seed=9)
    states = draw(contexts, system, horizon=steps)
    assert states.families == ("lorenz-63",)
    start = states.state["value"].double().numpy() * lorenz63.STD + lorenz63.MEAN
    truth = lorenz63.standardise(lorenz63.integrate(start, steps))[:, 1:]

    def error(state: dict[str, torch.Tensor]) -> float:
        path = torch.stack([output[:, 0] for _, output in iterate(system, state, None, steps)], dim=1)
        return float(np.sqrt(np.mean((path.double().numpy() - truth) ** 2)))

    driven = error(states.state)
    empty = error({name: value * (name == "value") for name, value in states.state.items()})
    assert driven < 0.1
    assert empty > 2 * driven
    again = lorenz_contexts(count, seed=9).windows["value"]
    assert torch.equal(again, contexts.windows["value"])
    assert not torch.equal(again, lorenz_contexts(count, seed=10).windows["value"])
    with pytest.raises(ArgumentError, match=r"^\[lorenz_contexts\] count must be at least 1, got 0"):
        lorenz_contexts(0)


def test_training_script_learns_and_repeats(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    written = []
    try:
        for name in ("one", "two"):
            path = tmp_path / name / "weights.safetensors"
            monkeypatch.setattr(sys, "argv", ["train_lorenz_gru.py", "--steps", "5", "--output", str(path)])
            script.main()
            written.append(path.read_bytes())
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert written[0] == written[1]
    LorenzGRU().load_state_dict(load_file(path))
    printed = capsys.readouterr().out
    assert "valid_time" in printed
    losses = [float(line.split("loss ")[1]) for line in printed.splitlines() if line.startswith("step")]
    assert losses[1] != losses[0]
