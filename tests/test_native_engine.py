"""The native engine against the torch engine: scores, tangents, growing contexts, and what a runtime must keep to."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import networks_positions
import tqs_fast as tqs
from cases.networks import Upsampling
from tqs_fast._native import core
from tqs_fast.engines import Lane, choose_engine, roll_outputs
from tqs_fast.engines.native_call import Place
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.engines.prepared import prepared
from tqs_fast.systems import draw
from tqs_fast.systems.tree import tree_leaves, tree_map

# Rounding differs between the engines. It moves an output by a few units of 2^-24 of its scale a step, and a short
# rollout amplifies that by less than ten: errors (the square root of a damage) agree to ROUNDING, absolutely.
ROUNDING = 2e-6
SAME = 2e-3  # relative, of gains, whose errors are far above rounding


@pytest.fixture(scope="module")
def lorenz():
    return tqs.load_system("lorenz-gru")


def test_scores_equal_those_of_the_torch_engine(lorenz):
    arguments = {"horizon": 12, "initial": tqs.Attractor(count=3), "row_blocks": 2}
    native = tqs.score(lorenz, engine="native", **arguments)
    torch_lanes = tqs.score(lorenz, engine="torch", **arguments)
    assert native.provenance["engine"]["name"] == "native"
    np.testing.assert_allclose(np.sqrt(native.damage), np.sqrt(torch_lanes.damage), rtol=1e-5, atol=ROUNDING)
    np.testing.assert_allclose(np.sqrt(native.curve), np.sqrt(torch_lanes.curve), rtol=1e-5, atol=3 * ROUNDING)


@pytest.mark.parametrize("method", [tqs.Noise(probes=2), tqs.Tangent(probes=2)], ids=["noise", "tangent"])
def test_other_methods_too(lorenz, method):
    arguments = {"horizon": 8, "initial": tqs.Attractor(count=2), "method": method, "layers": "*_hh*"}
    native = tqs.score(lorenz, engine="native", **arguments)
    torch_lanes = tqs.score(lorenz, engine="torch", **arguments)
    np.testing.assert_allclose(native.gain, torch_lanes.gain, rtol=SAME)


def test_tangent_is_the_limit_of_noise(lorenz):
    arguments = {"horizon": 8, "initial": tqs.Attractor(count=2), "layers": "*_hh*"}
    system = tqs.in_float64(lorenz)
    tangent = tqs.score(system, method=tqs.Tangent(probes=2), **arguments)
    errors = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        noise = tqs.score(system, method=tqs.Noise(probes=2, epsilon=epsilon), **arguments)
        errors.append(np.abs(noise.gain / tangent.gain - 1).max())
    assert errors[2] < 1e-3
    assert errors[0] > errors[1] > errors[2]


def test_auto_falls_back_and_says_why():
    def mixing(module, state):
        state = (module(state) - state.mean(dim=0, keepdim=True)).tanh()
        return state, state

    module = torch.nn.Linear(3, 3)
    system = tqs.System(module, step=mixing, initial_state=lambda n, g: torch.randn(n, 3, generator=g))
    table = tqs.score(system, horizon=4, initial=tqs.Contexts(torch.randn(4, 3)))
    assert table.provenance["engine"]["name"] == "torch"
    assert "differs from the step" in table.provenance["engine"]["reason"]
    with pytest.raises(tqs.CaptureError, match="mixes initial conditions"):
        tqs.score(system, horizon=4, initial=tqs.Contexts(torch.randn(4, 3)), engine="native")


def test_threads_memory_and_company_do_not_change_a_bit(lorenz):
    """The same rollouts in other tiles: fewer samples, one lane at a time, more threads."""
    states = draw(tqs.Attractor(count=5), lorenz, horizon=6, seed=0)
    native = prepared(lorenz, states.state, horizon=6)
    leaves = tree_leaves(states.state)
    buffer = next(c.buffer for c in native.program.constants if "cell1.weight_hh" in c.parameters)
    weight = lorenz.module.cell1.weight_hh.detach()
    lanes = [{}, {buffer: 1.01 * weight}, {}, {buffer: 0.99 * weight}]
    whole, final = native.ensemble(leaves, [], steps=6, values=6, lanes=lanes)
    assert torch.equal(whole[0], whole[2])
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            again, _ = native.ensemble(leaves, [], steps=6, values=6, lanes=lanes)
            assert torch.equal(again, whole)
    finally:
        torch.set_num_threads(threads)
    for lane in range(4):
        for n in range(5):
            alone, state = native.ensemble([x[n : n + 1] for x in leaves], [], steps=6, values=6, lanes=[lanes[lane]])
            assert torch.equal(alone[0, :, 0], whole[lane, :, n])
            assert all(torch.equal(a[0, 0], b[lane, n]) for a, b in zip(state, final, strict=True))
    reference, scale = whole[0], torch.ones(3)
    errors = [
        native.errors(leaves, [], steps=6, lanes=lanes, reference=reference, scale=scale, memory_limit=limit)
        for limit in (0, 10 * native.arena_bytes)
    ]
    assert torch.equal(errors[0], errors[1])
    expected = (whole.double() - reference.double()).square().mean(dim=-1)
    torch.testing.assert_close(errors[0], expected, rtol=1e-12, atol=0)


def test_tangents_do_not_depend_on_their_company(lorenz):
    states = draw(tqs.Attractor(count=3), lorenz, horizon=5, seed=0).state
    native = prepared(lorenz, states, horizon=5)
    leaves = tree_leaves(states)
    seeds = [torch.randn(4, *leaf.shape) for leaf in leaves]
    whole = native.tangents(leaves, [], steps=5, values=5, seeds=seeds)
    for k in range(4):
        alone = native.tangents(leaves, [], steps=5, values=5, seeds=[seed[k : k + 1] for seed in seeds])
        assert torch.equal(alone.tangent_outputs[:, 0], whole.tangent_outputs[:, k])
    plain, _ = native.ensemble(leaves, [], steps=5, values=5)
    assert torch.equal(plain[0], whole.outputs)
    twice = native.tangents(leaves, [], steps=5, values=5, seeds=[2 * seed for seed in seeds])
    assert torch.equal(twice.tangent_outputs, 2 * whole.tangent_outputs)


def test_noise_drawn_in_place_is_the_noise_of_kernels(lorenz):
    """A lane whose noise the runtime draws equals a lane that is given the tensor."""
    arguments = {"horizon": 4, "initial": tqs.Attractor(count=2), "method": tqs.Noise(probes=2), "row_blocks": 2}
    drawn = tqs.score(lorenz, engine="native", **arguments)

    class Given(tqs.Noise):
        def variant(self, name, weight, number, seed):
            return super().variant(name, weight, number, seed).tensor(weight)

    given = tqs.score(lorenz, engine="native", **{**arguments, "method": Given(probes=2)})
    assert np.array_equal(drawn.damage, given.damage)


def test_a_changed_weight_is_captured_again(lorenz):
    torch.manual_seed(0)
    system = tqs.load_system("lorenz-gru")
    state = system.initial_state(2, torch.Generator().manual_seed(0))
    before = tqs.rollout(system, state, horizon=3, engine="native").outputs
    with torch.no_grad():
        system.module.out.bias += 1
    after = tqs.rollout(system, state, horizon=3, engine="native").outputs
    torch.testing.assert_close(after, tqs.rollout(system, state, horizon=3, engine="torch").outputs)
    assert not torch.equal(before, after)


# ---------------------------------------------------------------- growing contexts


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("make", networks_positions.CAUSAL, ids=lambda make: make.__name__)
def test_a_growing_context_equals_the_uncached_rollout(make, block):
    torch.manual_seed(0)
    system = tqs.in_float64(tqs.Forecaster(make(block), 7, channels=2, block=block, growing=True))
    state, seeds = torch.randn(3, 7, 2).double(), torch.randn(4, 3, 7, 2).double()
    cached = tqs.rollout(system, state, horizon=9, tangents=seeds, engine="native")
    plain = tqs.rollout(system, state, horizon=9, tangents=seeds, engine="torch")
    native = prepared(system, state, horizon=9)
    assert native.first is not native.program
    torch.testing.assert_close(cached.outputs, plain.outputs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cached.tangent_outputs, plain.tangent_outputs, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(cached.state, plain.state, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cached.tangents, plain.tangents, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("make", "reason"), networks_positions.NOT_CAUSAL)
def test_what_is_not_causal_is_refused_with_the_reason(make, reason):
    torch.manual_seed(0)
    system = tqs.Forecaster(make(1), 7, channels=2, growing=True)
    with pytest.raises(tqs.CaptureError, match=reason):
        tqs.rollout(system, torch.randn(3, 7, 2), horizon=4, engine="native")
    assert tqs.rollout(system, torch.randn(3, 7, 2), horizon=4).provenance["engine"] == "torch"


def test_scores_of_a_growing_context():
    torch.manual_seed(0)
    make = networks_positions.CAUSAL[0]
    system = tqs.in_float64(tqs.Forecaster(make(1), 7, channels=2, growing=True))
    initial = tqs.Contexts(torch.randn(3, 7, 2).double())
    native = tqs.score(system, horizon=6, initial=initial, engine="native")
    serial = tqs.score(system, horizon=6, initial=initial, engine="serial")
    np.testing.assert_allclose(native.damage, serial.damage, rtol=1e-6)


# ---------------------------------------------------------------- the runtime


def long_rollout(lorenz, steps):
    state = lorenz.initial_state(64, torch.Generator().manual_seed(0))
    native = prepared(lorenz, state, horizon=1)
    return lambda: native.ensemble(tree_leaves(state), [], steps=steps, values=1, lanes=[{}] * 4)


def test_python_runs_while_a_rollout_does(lorenz):
    run = long_rollout(lorenz, 3000)
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    before = counted[0]
    run()
    during = counted[0] - before
    stop.set()
    counter.join()
    assert during > 20


def test_ctrl_c_ends_a_rollout_between_steps(lorenz):
    run = long_rollout(lorenz, 10_000_000)  # hours
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    # A shell may start tests with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    long_rollout(lorenz, 2)()  # and the runtime is as it was


def test_memory_is_the_planned_arena(lorenz):
    """A tile takes its arena, its states and its scratch; none of them grows with the number of steps."""
    state = lorenz.initial_state(4, torch.Generator().manual_seed(0))
    native = prepared(lorenz, state, horizon=4)
    leaves = tree_leaves(state)
    seeds = [torch.randn(3, *leaf.shape) for leaf in leaves]
    used = {
        steps: native.tangents(leaves, [], steps=steps, values=1, seeds=seeds).use["tile_bytes"] for steps in (1, 50)
    }
    assert used[1] == used[50]
    use = native.tangents(leaves, [], steps=1, values=1, seeds=seeds).use
    planned = (1 + use["tile_lanes"]) * use["tile_samples"] * native.arena_bytes
    assert planned <= use["tile_bytes"] <= 2 * planned + 2**20


def test_tangents_of_a_large_network_share_a_trajectory():
    """Each tile runs the trajectory itself: sixteen tangents go together however large an activation is."""
    wide = tqs.System(
        torch.nn.Linear(1, 1),
        step=lambda module, state: (module(state[..., None])[..., 0].tanh(), state[:, :1]),
        initial_state=lambda n, g: torch.randn(n, 300_000, generator=g),
    )
    state = wide.initial_state(1, torch.Generator().manual_seed(0))
    native = prepared(wide, state, horizon=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        use = native.tangents([state], [], steps=1, values=1, seeds=[torch.ones(20, 1, 300_000)]).use
    finally:
        torch.set_num_threads(threads)
    assert native.arena_bytes > 2**20
    assert use["tile_lanes"] == 10  # two even tiles, of at most sixteen


def test_a_rollout_that_is_not_finite_is_located():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for layer in module:
            layer.weight.copy_(1e12 * torch.eye(2))
            layer.bias.zero_()
    system = tqs.System(module, step=lambda m, z: (m(z), m(z)), initial_state=lambda n, g: torch.ones(n, 2))
    state = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(tqs.DivergenceError, match=r"initial condition 1 is not finite from step 1 on, first in 1 \("):
        tqs.rollout(system, state, horizon=4, engine="native")


def test_programs_run_where_the_parameters_are(lorenz, monkeypatch):
    assert Place.of(torch.nn.Linear(2, 2)) == Place.of(torch.nn.Tanh()) == Place()
    with pytest.raises(tqs.CaptureError, match="the native engine runs on cpu and cuda, got meta"):
        Place.of(torch.nn.Linear(2, 2, device="meta"))
    apart = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta"))
    with pytest.raises(tqs.CaptureError, match="expected a module on one device, got cpu, meta"):
        Place.of(apart)
    if core.cuda_built():
        return
    monkeypatch.setattr(Place, "of", classmethod(lambda cls, module: Place(number=0)))
    state = lorenz.initial_state(2, torch.Generator().manual_seed(0))
    system = tqs.load_system("lorenz-gru")
    with pytest.raises(tqs.CaptureError, match="tqs-fast was built without CUDA"):
        tqs.rollout(system, state, horizon=2, engine="native")
    rolled = tqs.rollout(system, state, horizon=2)
    assert rolled.provenance["engine"] == "torch"
    assert "built without CUDA" in rolled.provenance["reason"]


@pytest.mark.parametrize(
    ("built", "devices", "torch_has", "why"),
    [
        (False, 0, True, "tqs-fast was built without CUDA"),
        (True, 1, False, "this PyTorch is one without CUDA"),
        (True, 0, True, "this machine shows 0 GPUs"),
        (True, 1, True, "this machine shows 1 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_missed_by_name(built, devices, torch_has, why, lorenz, monkeypatch):
    """Of a module of the CPU, what is said of where it lies is true."""
    monkeypatch.setattr(core, "cuda_built", lambda: built)
    monkeypatch.setattr(core, "cuda_device_count", lambda: devices)
    monkeypatch.setattr(torch.version, "cuda", "13.0" if torch_has else None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices if torch_has else 0)
    state = lorenz.initial_state(2, torch.Generator().manual_seed(0))
    for run in (
        lambda engine: tqs.rollout(lorenz, state, horizon=2, engine=engine),
        lambda engine: tqs.score(lorenz, horizon=2, initial=tqs.Attractor(count=2, spin_up=0), engine=engine),
    ):
        with pytest.raises(tqs.CaptureError, match=rf'brought to cuda:1: {why}.*; or use engine="native"') as raised:
            run("native:cuda:1")
        assert "lorenz-gru is on" not in str(raised.value)


def test_leaves_that_do_not_fit_are_refused(lorenz):
    state = lorenz.initial_state(2, torch.Generator().manual_seed(0))
    native = prepared(lorenz, state, horizon=2)
    assert isinstance(native, NativeProgram)
    with pytest.raises(tqs.ArgumentError, match="3 state and 0 input leaves, got 2 and 0"):
        native.ensemble(tree_leaves(state)[:2], [], steps=2, values=2)
    with pytest.raises(tqs.ArgumentError, match="elements per sample"):
        native.ensemble(tree_leaves(tree_map(lambda leaf: leaf[:, :2], state)), [], steps=2, values=2)


def test_transposed_convolutions_follow_their_weights():
    """Changed in lanes, and along tangents, beside torch: what they convolve with is derived from them."""
    torch.manual_seed(0)
    system = tqs.in_float64(tqs.Forecaster(Upsampling(), 5, channels=2))
    states = draw(tqs.Attractor(count=3, spin_up=0), system, horizon=4)
    names = ["line.weight", "cut.weight", "plane.weight", "point.weight"]
    parameters = [system.module.get_parameter(name) for name in names]
    lanes = [Lane({}), *(Lane({index: parameter.detach() * 1.5}) for index, parameter in enumerate(parameters))]
    ours, torchs = (
        choose_engine(engine, system, states, parameters, horizon=4)[0].trajectories(lanes)
        for engine in ("native", "torch")
    )
    torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-12)
    directions = {name: torch.randn(2, *system.module.get_parameter(name).shape).double() for name in names}
    path, plain = (
        tqs.rollout(system, states.state, horizon=4, weight_tangents=directions, engine=engine)
        for engine in ("native", "torch")
    )
    torch.testing.assert_close(path.tangent_outputs, plain.tangent_outputs, rtol=1e-10, atol=1e-12)
    for moved in (*(ours[1:] - ours[0]), *path.tangent_outputs.unbind(1)):
        assert float(moved.abs().max()) > 1e-4


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_trajectories_of_lanes_equal_those_of_changed_modules(engine):
    """Several weights changed in one lane, a block forecaster cut at the horizon."""
    torch.manual_seed(0)
    system = tqs.Forecaster(networks_positions.one_layer(3), 8, channels=networks_positions.CHANNELS, block=3)
    states = draw(tqs.Attractor(count=4, spin_up=0), system, horizon=7)
    names = ["layers.0.qkv.weight", "head.weight"]
    parameters = [system.module.get_parameter(name) for name in names]
    changed = [parameter.detach() * (1.1 + index) for index, parameter in enumerate(parameters)]
    lanes = [Lane({}), Lane({0: changed[0]}), Lane(dict(enumerate(changed)))]
    runner, _ = choose_engine(engine, system, states, parameters, horizon=7)
    outputs = runner.trajectories(lanes)
    assert outputs.shape == (3, 7, 4, networks_positions.CHANNELS)
    for lane, rolled in zip(lanes, outputs, strict=True):
        module = copy.deepcopy(system.module)
        for index, value in lane.changes.items():
            module.get_parameter(names[index]).data.copy_(value)
        expected = roll_outputs(system, states, 7, module=module)
        torch.testing.assert_close(rolled, expected, rtol=1e-4, atol=1e-5)
    assert float((outputs[1] - outputs[0]).abs().max()) > 0.01
    assert float((outputs[2] - outputs[1]).abs().max()) > 0.01
