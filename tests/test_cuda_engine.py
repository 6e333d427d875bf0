"""The native engine on a GPU, or on an emulated one (torch_cuda.py): every op, captured networks,
and what a runtime must keep to. The engine of the processor and the NumPy oracle say what is right."""

from __future__ import annotations

import ctypes
import itertools
import math
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import networks_positions
import tqs_fast as tqs
from capturing import converted
from cases.networks import CASES as NETWORKS
from cases.ops import CASES
from checking import same_bits
from growth_cases import gru_system, matrix_system
from programs import Native, draw
from test_growth_native import SYSTEMS, prepare
from test_program_ops import TANGENTS, check_values_and_tangents
from tqs_fast import _cuda_weights, kernels
from tqs_fast._native import core
from tqs_fast.capture import capture
from tqs_fast.engines.native_call import Place
from tqs_fast.engines.native_program import NativeProgram, Noise
from tqs_fast.growth.native_stretching import NativeStretching
from tqs_fast.systems import flows
from tqs_fast.systems.tree import tree_leaves, tree_map

EMULATED = core.cuda_architectures() == "emulated"
GPU = Place(torch.device("cuda:0"), 0)

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)

SAMPLES = 3


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ops(case, precision):
    """As test_program_ops.test_values_and_tangents, with its bounds."""
    data = draw(case, SAMPLES, TANGENTS)
    check_values_and_tangents(Native(case, precision, data.values, GPU), case, precision, data)


# ---------------------------------------------------------------- networks

STEPS = 5  # the first two and those that a graph replays


class Rollouts:
    """One captured system on the processor and on the GPU, from the same states."""

    def __init__(self, system: tqs.System, dtype: torch.dtype, count: int = SAMPLES, steps: int = STEPS) -> None:
        generator = torch.Generator().manual_seed(1)
        module = system.module.to(dtype)
        program = capture(system, module=module, dtype=dtype)
        self.there = NativeProgram(program, place=GPU)
        self.program, self.steps, self.values = program, steps, steps * system.block
        self.states = tree_leaves(converted(system.initial_state(count, generator), dtype))
        inputs = None if system.inputs is None else converted(system.inputs(count, steps, generator), dtype)
        self.inputs = [] if inputs is None else tree_leaves(inputs)
        self.generator = generator

    @cached_property
    def here(self) -> NativeProgram:
        return NativeProgram(self.program)

    def normal(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=like.dtype)

    def varied(self):
        """The constants that parameters change."""
        return [c for c in self.program.constants if c.parameters]

    def lanes(self):
        """No change; noise on the first, on the last and on all constants; another last constant."""
        of = self.varied()

        def noise(number, constant):
            return Noise(number, 1, 1e-2, 0, constant.tensor.numel())

        other = of[-1].tensor * 1.01 + self.normal(*of[-1].tensor.shape, like=of[-1].tensor) * 1e-2
        return [
            {},
            {of[0].buffer: noise(1, of[0])},
            {of[-1].buffer: noise(2, of[-1])},
            {c.buffer: noise(3 + i, c) for i, c in enumerate(of)},
            {of[-1].buffer: other.detach()},
        ]

    def ensemble(self, native, lanes, samples=slice(None)):
        states, inputs = [x[samples] for x in self.states], [x[samples] for x in self.inputs]
        outputs, final = native.ensemble(states, inputs, steps=self.steps, values=self.values, lanes=lanes)
        return [outputs, *final]

    def tangents(self, native, seeds, weight_seeds, samples=slice(None)):
        states, inputs = [x[samples] for x in self.states], [x[samples] for x in self.inputs]
        seeds = [None if s is None else s[:, samples] for s in seeds]
        result = native.tangents(
            states, inputs, steps=self.steps, values=self.values, seeds=seeds, weight_seeds=weight_seeds
        )
        return [result.outputs, *result.states, result.tangent_outputs, *result.state_tangents]

    def directions(self, count: int):
        """Seeds of all float states, and weight seeds: none, the first, the last constant, all."""
        seeds = [self.normal(count, *leaf.shape, like=leaf) for leaf in self.states]
        of = self.varied()
        chosen = itertools.cycle(([], of[:1], of[-1:], of))
        weights = [{c.buffer: self.normal(*c.tensor.shape, like=c.tensor) for c in next(chosen)} for _ in range(count)]
        return seeds, weights


def agree(got, expected, tolerance):
    """Elements differ by at most `tolerance` of the largest of their tensor (at least 1)."""
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * max(1.0, float(y.abs().max())), equal_nan=True)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_networks(case):
    """Ensembles and tangents of every network, in float64: what is left is the order of sums."""
    both = Rollouts(case.make(), torch.float64)
    lanes = both.lanes()
    agree(both.ensemble(both.there, lanes), both.ensemble(both.here, lanes), 1e-11)
    seeds, weights = both.directions(4)
    agree(both.tangents(both.there, seeds, weights), both.tangents(both.here, seeds, weights), 1e-10)


ROWS = {case.name: case for case in NETWORKS}


@pytest.mark.parametrize("name", ["GRU-carried", "LSTM-2-layers", "TCN", "llama", "tokens"])
def test_networks_in_float32(name):
    both = Rollouts(ROWS[name].make(), torch.float32)
    lanes = both.lanes()
    agree(both.ensemble(both.there, lanes), both.ensemble(both.here, lanes), 1e-4)
    seeds, weights = both.directions(3)
    agree(both.tangents(both.there, seeds, weights), both.tangents(both.here, seeds, weights), 1e-3)


# ---------------------------------------------------------------- what a runtime must keep to


@pytest.mark.parametrize("name", ["GRU-carried", "llama", "fourier"])
def test_the_same_bits_for_any_chunks_and_from_run_to_run(name):
    both = Rollouts(ROWS[name].make(), torch.float32)
    lanes = both.lanes()
    whole = both.ensemble(both.there, lanes)
    same(both.ensemble(both.there, lanes), whole)
    for lane in range(len(lanes)):
        same(both.ensemble(both.there, [lanes[lane]]), [leaf[lane : lane + 1] for leaf in whole])
    pieces = [both.ensemble(both.there, lanes, slice(n, n + 1)) for n in range(SAMPLES)]
    leaves = zip(*(piece[1:] for piece in pieces), strict=True)
    same([torch.cat([piece[0] for piece in pieces], 2), *(torch.cat(leaf, 1) for leaf in leaves)], whole)
    seeds, weights = both.directions(3)
    whole = both.tangents(both.there, seeds, weights)
    for k in range(3):
        alone = both.tangents(both.there, [s[k : k + 1] for s in seeds], [weights[k]])
        leaves = len(both.states)
        same(alone[: leaves + 1], whole[: leaves + 1])
        same(alone[leaves + 1 :], [whole[leaves + 1][:, k : k + 1], *(x[k : k + 1] for x in whole[leaves + 2 :])])


def test_large_layers_go_to_the_library(monkeypatch):
    """Also where a graph replays them, and the same bits from run to run."""
    size = 640  # with 128 samples 10^8 operations: what float64 is worth a call of cuBLASLt from

    class Layer(torch.nn.Linear):
        def forward(self, x):
            return torch.tanh(super().forward(x)) + x

    def initial(count, generator):
        return torch.randn(count, size, generator=generator)

    torch.manual_seed(1)
    system = tqs.System(Layer(size, size), step=lambda m, x: (m(x), x[:, :3]), initial_state=initial)
    case = Rollouts(system, torch.float64, count=128, steps=3)
    with_library = case.ensemble(case.there, [{}])
    agree(with_library, case.ensemble(case.here, [{}]), 1e-11)
    same(case.ensemble(case.there, [{}]), with_library)
    use, workspace = case.there.last_use, 2**25 if kernels.info()["cuda"]["cublas_lt"] else 0
    monkeypatch.setenv("TQS_CUBLASLT", "0")
    alone = case.ensemble(case.there, [{}])
    agree(alone, with_library, 1e-11)
    for name in ("tile_bytes", "predicted_bytes"):
        assert use[name] - case.there.last_use[name] == workspace
    if EMULATED:  # whose library adds in another order
        assert any(not torch.equal(x, y) for x, y in zip(alone, with_library, strict=True))


def test_tf32_is_used_where_torch_was_asked_for_it():
    """By the switch as it is when a rollout begins, on a GPU alone."""
    torch.manual_seed(1)

    def initial(count, generator):
        return torch.randn(count, 640, generator=generator)

    system = tqs.System(torch.nn.Linear(640, 640), step=lambda m, x: (m(x), x[:, :3]), initial_state=initial)
    state = initial(128, None)

    def run(precision):
        torch.set_float32_matmul_precision(precision)
        try:
            return tqs.rollout(system, state, horizon=1, engine="native").state.cpu()
        finally:
            torch.set_float32_matmul_precision("highest")

    same([run("high")], [run("highest")])
    system.module.to(GPU.device)
    exact, rounded, again = [run(precision) for precision in ("highest", "high", "highest")]
    assert 1e-5 < float((exact - rounded).abs().max() / exact.abs().max()) < 2.0**-9
    same([again], [exact])


def same(got, expected):
    for x, y in zip(got, expected, strict=True):
        same_bits(x.numpy(), y.numpy())


def test_constants_are_there_before_a_program_is(monkeypatch):
    """Whatever stream they came by: packed weights are read on another one, rollouts may be enqueued on a third."""
    done = []
    synchronize, program = torch.cuda.Stream.synchronize, core.Program
    monkeypatch.setattr(torch.cuda.Stream, "synchronize", lambda stream: done.append("waited") or synchronize(stream))
    monkeypatch.setattr(core, "Program", lambda *given, **named: done.append("bound") or program(*given, **named))
    NativeProgram(capture(driven()), place=GPU)
    assert done == ["waited", "bound"]


def test_memory_is_predicted_and_its_limit_kept():
    both = Rollouts(ROWS["llama"].make(), torch.float32)
    begin = {"steps": both.steps, "lanes": both.lanes()}
    outputs, _ = both.here.ensemble(both.states, [], steps=both.steps, values=both.values)
    begin |= {"reference": outputs[0], "scale": torch.ones(outputs.shape[-1])}
    whole = both.there.errors(both.states, [], **begin)
    use = both.there.last_use
    assert use["tile_lanes"] == 5
    assert use["tile_samples"] == SAMPLES
    assert use["tile_bytes"] <= use["predicted_bytes"] <= 1.1 * use["tile_bytes"]
    limit = use["tile_bytes"] // 3
    same([both.there.errors(both.states, [], memory_limit=limit, **begin)], [whole])
    use = both.there.last_use
    assert use["tile_lanes"] * use["tile_samples"] < 5 * SAMPLES
    assert use["tile_bytes"] <= limit
    with pytest.raises(tqs.ArgumentError, match="a memory limit of 1000 bytes is too small"):
        both.there.errors(both.states, [], memory_limit=1000, **begin)


def test_results_of_tiles_of_any_size():
    """Lanes and samples come together wherever they are cut."""
    both, cut = Rollouts(driven(), torch.float64, count=3), set()
    lanes, (seeds, weights) = both.lanes(), both.directions(5)
    how = {"steps": both.steps, "values": both.values}

    def ensemble(limit):
        outputs, final = both.there.ensemble(both.states, both.inputs, lanes=lanes, memory_limit=limit, **how)
        return [outputs, *final], both.there.last_use

    def tangents(limit):
        found = both.there.tangents(
            both.states, both.inputs, seeds=seeds, weight_seeds=weights, memory_limit=limit, **how
        )
        return [found.outputs, found.tangent_outputs, *found.states, *found.state_tangents], found.use

    for run in (ensemble, tangents):
        whole, use = run(0)
        assert (use["tile_lanes"], use["tile_samples"]) == (5, 3)
        for sixteenths in range(15, 3, -1):
            found, smaller = run(use["tile_bytes"] * sixteenths // 16)
            same(found, whole)
            cut.add((smaller["tile_lanes"] < 5, smaller["tile_samples"] < 3))
    assert {(True, False), (False, True), (True, True)} & cut
    assert any(samples for _, samples in cut)


@pytest.mark.skipif(not EMULATED, reason="only the emulator counts copies")
def test_copies_do_not_grow_with_lanes_and_tangents():
    both, copies = Rollouts(driven(), torch.float64), []
    seeds, weights = both.directions(6)
    for count in (2, 6):
        counted("emulated_copies")
        both.tangents(both.there, [leaf[:count] for leaf in seeds], weights[:1] * count)
        both.ensemble(both.there, [{}, both.lanes()[1]] * count)
        copies.append(counted("emulated_copies"))
    assert abs(copies[1] - copies[0]) < 4  # a copy to the device is one, or two where it goes over the end of a page


def here_and_there(monkeypatch, run):
    """`run()` on the processor and on the GPU, both captured anew."""
    here = run()
    with monkeypatch.context() as patched:
        patched.setattr(Place, "of", classmethod(lambda cls, module: GPU))
        if EMULATED:
            patched.setattr(_cuda_weights, "on_device", lambda tensor: True)
            patched.setattr(_cuda_weights, "_place", lambda tensor: (0, 0))
        return here, run()


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("make", networks_positions.CAUSAL, ids=lambda make: make.__name__)
def test_growing_contexts(monkeypatch, make, block):
    state, seeds = torch.randn(3, 7, 2).double(), torch.randn(2, 3, 7, 2).double()

    def run():
        torch.manual_seed(0)
        system = tqs.in_float64(tqs.Forecaster(make(block), 7, channels=2, block=block, growing=True))
        rolled = tqs.rollout(system, state, horizon=9, tangents=seeds, engine="native")
        return [rolled.outputs, rolled.tangent_outputs, rolled.state, rolled.tangents]

    graph_launches()
    here, there = here_and_there(monkeypatch, run)
    agree(there, here, 1e-10)
    if EMULATED:  # all steps but the first, which has a prologue of its own, and the next, which is recorded after it
        assert graph_launches() == -(-9 // block) - 2


def graph_launches():
    """Since the last call, of the emulated runtime."""
    return counted("emulated_graph_launches")


def counted(name):
    if not EMULATED:
        return None
    count = getattr(ctypes.CDLL(core.__file__), name)
    count.restype = ctypes.c_int64
    return count()


@pytest.mark.parametrize("name", ["MLP-silu-batchnorm", "driven"])
def test_steps_are_recorded_together(name):
    """Of long rollouts, two as one: they have the bits of steps recorded one by one, as those of short ones are."""
    both = Rollouts(driven() if name == "driven" else ROWS[name].make(), torch.float64, count=2, steps=67)
    lanes, (seeds, weights) = both.lanes(), both.directions(2)

    def run(native, steps):
        both.steps = both.values = steps
        return [*both.ensemble(native, lanes), *both.tangents(native, seeds, weights)]

    graph_launches()
    long, leaves = run(both.there, 67), 1 + len(both.states)
    if EMULATED:  # twice 65 or 66 steps, of which one may be left
        assert graph_launches() in (64, 65, 66)
    agree(long, run(both.here, 67), 1e-9)
    short = run(both.there, 40)
    same([short[0], short[leaves]], [long[0][:, :40], long[leaves][:40]])
    same([short[2 * leaves]], [long[2 * leaves][:40]])


def driven() -> tqs.System:
    """By a series of inputs."""
    torch.manual_seed(0)
    return tqs.System(
        torch.nn.Linear(4, 3),
        step=lambda m, z, u: (m(torch.cat([z, u], 1)).tanh(), z),
        initial_state=lambda n, g: torch.randn(n, 3, generator=g),
        inputs=lambda n, steps, g: torch.randn(n, steps, 1, generator=g),
    )


def test_steps_between_frames_are_recorded_together(monkeypatch):
    """Frames of a long run have the bits of the same run in pieces, whose steps are recorded one by one."""

    def run():
        states, frame = prepare(SYSTEMS["gru"](), 2, 3, steps=40)
        state, engine = states.state, NativeStretching(SYSTEMS["gru"](), states.state)
        how = {"first": 0, "interval": 4, "blocks": 1, "report": lambda done: None}
        graph_launches()
        long = engine.run(state, None, frame, steps=144, **how)
        launches = graph_launches()
        for _ in range(4):
            done = engine.run(state, None, frame, steps=36, **how)
            state, frame = done.state, done.frame
        return launches, long, done

    launches, long, done = here_and_there(monkeypatch, run)[1]
    same([*tree_leaves(long.state), long.frame], [*tree_leaves(done.state), done.frame])
    if EMULATED:  # one of one step up to 60, of two up to 124, of four
        assert 80 < launches < 110


@pytest.mark.skipif(not EMULATED, reason="only the emulator sees what waits")
def test_the_host_is_but_some_steps_ahead():
    """So that a rollout that is to end does, whatever its length."""
    both, waiting = Rollouts(driven(), torch.float64, steps=60), []
    for steps in (20, 40, 60):
        both.steps = both.values = steps
        counted("emulated_longest_queue")
        both.ensemble(both.there, [{}])
        waiting.append(counted("emulated_longest_queue"))
    assert waiting[0] == waiting[1] == waiting[2]


@pytest.mark.parametrize("method", [tqs.Residual(), tqs.Noise(probes=2), tqs.Tangent(probes=2)], ids=str)
def test_scores(monkeypatch, method):
    def run():
        system = tqs.in_float64(tqs.load_system("lorenz-gru"))
        table = tqs.score(system, horizon=5, initial=tqs.Attractor(count=2), method=method, layers="*_hh*")
        assert table.provenance["engine"]["name"] == "native"
        return table.gain

    here, there = here_and_there(monkeypatch, run)
    np.testing.assert_allclose(there, here, rtol=1e-8)


@pytest.mark.parametrize("name", ["lorenz-gru", "lorenz-63"])
def test_growth_rates(monkeypatch, name):
    def run():
        system = flows.lorenz63() if name == "lorenz-63" else tqs.in_float64(tqs.load_system(name))
        return tqs.growth_rates(
            system, count=3, horizon=12, initial=tqs.Attractor(count=2), transient=0, engine="native"
        )

    here, there = here_and_there(monkeypatch, run)
    np.testing.assert_allclose(there.exponents, here.exponents, rtol=1e-8)


def stretch(make, directions=4, count=5, sample=slice(None), steps=23):
    """A frame pushed through some steps, orthonormalised after every fourth: the Stretching."""
    states, frame = prepare(make(), count, directions, steps=40)
    state, inputs = (None if x is None else tree_map(lambda leaf: leaf[sample], x) for x in states_of(states))
    engine = NativeStretching(make(), state)
    return engine.run(
        state, inputs, frame[sample], first=7, steps=steps, interval=4, blocks=3, report=lambda done: None
    )


def states_of(states):
    return states.state, states.inputs


def parts(done):
    numbers = (done.logs, done.condition, done.diverged.astype(float))
    return [*map(torch.from_numpy, numbers), *tree_leaves(done.state), done.frame]


@pytest.mark.parametrize("name", SYSTEMS)
def test_frames_stay_on_the_device(monkeypatch, name):
    """Windows that slide, inputs, states of several leaves: the frames of the processor, to rounding."""
    here, there = here_and_there(monkeypatch, lambda: stretch(SYSTEMS[name]))
    agree(parts(there), parts(here), 1e-9)
    assert np.isfinite(there.logs).all()


def test_frames_of_single_precision_and_of_more_directions_than_the_device_takes(monkeypatch):
    def window():
        return tqs.systems.precision.in_precision(SYSTEMS["window"](), "float32")

    here, there = here_and_there(monkeypatch, lambda: stretch(window, steps=8))
    agree(parts(there), parts(here), 1e-3)
    here, there = here_and_there(monkeypatch, lambda: stretch(lambda: gru_system(80), 75, count=1, steps=4))
    agree(parts(there), parts(here), 1e-6)


@pytest.mark.parametrize("name", ["gru", "window"])
def test_frames_have_the_same_bits_for_any_samples(monkeypatch, name):
    def run():
        runs = [stretch(SYSTEMS[name]), stretch(SYSTEMS[name])]
        return runs + [stretch(SYSTEMS[name], sample=slice(n, n + 1)) for n in range(5)]

    whole, again, *alone = here_and_there(monkeypatch, run)[1]
    same(parts(again), parts(whole))
    for n, one in enumerate(alone):
        same_bits(one.logs[:, 0], whole.logs[:, n])
        same_bits(one.condition, whole.condition[n : n + 1])
        same([one.frame], [whole.frame[n : n + 1]])


def test_frames_and_states_that_overflow(monkeypatch):
    """The first sample by its frame, the second by its state: said as on the processor."""

    def run():
        state, frame = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.eye(2).double().expand(2, 2, 2)
        engine = NativeStretching(matrix_system(1e40 * np.eye(2)), state)
        return engine.run(state, None, frame, first=0, steps=64, interval=16, blocks=4, report=lambda done: None)

    for done in here_and_there(monkeypatch, run):
        assert done.condition.tolist()[0] == math.inf
        assert done.diverged.tolist() == [-1, 15]
        assert np.isnan(done.logs).all()


def test_a_rollout_that_is_not_finite_is_located():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for layer in module:
            layer.weight.copy_(1e12 * torch.eye(2))
            layer.bias.zero_()
    module.to(GPU.device)
    system = tqs.System(module, step=lambda m, z: (m(z), m(z)), initial_state=lambda n, g: torch.ones(n, 2))
    state = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(tqs.DivergenceError, match=r"initial condition 1 is not finite from step 1 on, first in 1 \("):
        tqs.rollout(system, state, horizon=4, engine="native")


@pytest.mark.skipif(find_spec("fracast") is None, reason="needs the fracast package")
def test_a_trained_forecaster():
    """Products and convolutions of every size."""
    both = Rollouts(tqs.load_system("fracast"), torch.float32, count=1, steps=1)
    agree(both.ensemble(both.there, [{}]), both.ensemble(both.here, [{}]), 1e-4)
