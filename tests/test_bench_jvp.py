"""The networks of bench_jvp: every form and way gives the tangents of float64 differences; wrong ones are caught."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import bench_jvp
import harness
from jvp import truth
from jvp.recurrent import gru, lstm
from jvp.rotary import rotary
from jvp.selective_scan import selective_scan
from jvp.transformer import transformer

TANGENTS, STEPS = 3, 5
SMALL = {"width": 16, "heads": 2, "hidden": 24, "layers": 2, "context": 8, "channels": 3}
with warnings.catch_warnings():
    # torch loads its forward-mode rules on first use, and scripts some of them.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
    NETWORKS = {
        "gru": gru(TANGENTS, width=12, channels=3),
        "lstm": lstm(TANGENTS, width=12, channels=3, count=2),
        "transformer": transformer(TANGENTS, count=2, **SMALL),
        "rotary-window": transformer(TANGENTS, rotary=True, count=2, **SMALL),
        "rotary": rotary(TANGENTS, filled=3, count=2, **SMALL),
        "selective-scan": selective_scan(TANGENTS, width=8, inner=12, states=4, rank=2, context=6, channels=3, count=2),
    }
EXACT = 64 * 2.0**-24  # a few hundred roundings of random sign on the way of any value
# Forward differences: rounding of outputs of size 1 over epsilon, and epsilon / 2 times a curvature of the size of the
# tangents themselves.
DIFFERENCES = 64 * 2.0**-24 / bench_jvp.EPSILON + bench_jvp.EPSILON

CASES = [
    (name, form, way)
    for name, network in NETWORKS.items()
    for form, written in network.forms.items()
    for way in written.ways
    if "compiled" not in way
    # torch.func on nn.LSTM and on the fused attention: what the bench reports as failed.
    and not (way == "func rollout" and form == "plain" and name in ("lstm", "transformer", "rotary", "rotary-window"))
]


@cache
def truth_of(name):
    return truth.find_truth(NETWORKS[name].plain, STEPS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only wait for each other at these sizes, and spin meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "form", "way"), CASES, ids=lambda part: part.replace(" ", "_"))
def test_every_way_gives_the_float64_tangents(name, form, way):
    if "jax" in way:
        pytest.importorskip("jax")
    contestant = bench_jvp.build(way, NETWORKS[name].forms[form], STEPS)
    error = truth_of(name).error(contestant.read(contestant.call()))
    assert error <= (DIFFERENCES if "differences" in way else EXACT)


@pytest.mark.parametrize("name", NETWORKS)
def test_truth_is_certain(name):
    expected = truth_of(name)
    assert expected.uncertainty <= 1e-7
    assert expected.outputs.shape == (STEPS, 1 if name == "gru" else 2, 3)
    assert expected.tangents.shape == (STEPS, TANGENTS, *expected.outputs.shape[1:])
    assert float(expected.tangents.abs().amin(dim=(0, 1, 2)).max()) > 0


def test_truth_rejects_what_differences_cannot_measure():
    network = gru(TANGENTS, width=12, channels=3)
    step = network.plain.system.step

    def rough(module, state):
        state, output = step(module, state)
        return state, output + 1e-6 * (output * 1e6).round().sin()

    network.plain.system.step = rough
    with pytest.raises(ArithmeticError, match="disagree"):
        truth.find_truth(network.plain, STEPS)


@pytest.mark.parametrize("fault", ["sign", "tangent", "step", "nan", "primal"])
def test_planted_faults_are_wrong(fault):
    expected = truth_of("gru")
    outputs, tangents = expected.outputs.float(), expected.tangents.float()
    assert expected.error((outputs, tangents)) <= 2.0**-23
    if fault == "sign":
        tangents[STEPS - 1, 0] *= -1
    elif fault == "tangent":
        tangents[:, TANGENTS - 1] = 0
    elif fault == "step":
        tangents[1] = tangents[0]
    elif fault == "nan":
        tangents[2, 0, 0, 0] = torch.nan
    else:
        outputs[3] += 0.01
    assert not expected.error((outputs, tangents)) <= truth.EXACT


def test_a_way_that_fails_is_a_result():
    row, call = bench_jvp.prepare("func rollout", NETWORKS["lstm"].plain, STEPS, truth_of("lstm"))
    assert call is None
    assert "mkldnn_rnn_layer" in row["failed"]


def test_a_wrong_way_is_not_timed():
    row, call = bench_jvp.prepare("by hand", gru(TANGENTS, width=12, channels=3, seed=1).plain, STEPS, truth_of("gru"))
    assert row["wrong"]
    assert call is None


@pytest.mark.parametrize("form", ["padded", "cached"])
def test_a_window_of_fixed_size_is_exact_until_values_leave_it(form):
    network = NETWORKS["rotary"]
    written = network.forms[form]
    fits = SMALL["context"] - 3  # values that may join the three at the start
    for steps, same in ((fits + 1, True), (fits + 2, False)):
        growing = truth.roll(network.plain, network.plain.system.module, network.plain.state, steps)
        other = truth.roll(written, written.system.module, written.state, steps)
        assert bool(((growing - other).abs() <= 1e-5).all()) is same


def test_the_limit_counts_matrix_products():
    width, channels = 12, 3
    products = 3 * width * channels + 3 * width * width + width * channels
    assert bench_jvp.count_flops(NETWORKS["gru"].plain, STEPS) == 2 * products * STEPS
    transformers = NETWORKS["transformer"].forms
    assert bench_jvp.count_flops(transformers["trimmed explicit"], 1) < bench_jvp.count_flops(
        transformers["explicit"], 1
    )


def test_ratio_interval():
    rng = np.random.default_rng(0)
    pace = rng.uniform(1, 2, 40)  # of the machine, from round to round
    seconds = {"a": list(pace * rng.normal(1, 0.02, 40)), "b": list(2 * pace * rng.normal(1, 0.02, 40))}
    found = harness.ratio(seconds, "a", "b")
    assert found["min"] <= found["low"] < 0.5 < found["high"] <= found["max"]
    assert found["high"] - found["low"] < 0.03


def test_interleaved_draws_the_order_and_fills_samples():
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = harness.interleaved(functions, 6, harness.one_call(functions), least=0.0)
    assert {name: len(samples) for name, samples in seconds.items()} == {"a": 6, "b": 6, "c": 6}
    rounds = ["".join(calls[start : start + 3]) for start in range(3, len(calls), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
