"""Programs of 16 bits on a GPU, or on an emulated one (torch_cuda.py). Values are stored in bfloat16
or float16, computed in float32 and rounded when they are stored: the NumPy oracle in float64, on inputs of 16 bits,
says what is right to one rounding."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from cases.networks import CASES as NETWORKS
from cases.ops import CASES
from packing import plan_for
from programs import DTYPES, Case, Data, Native, difference, draw, evaluate
from rounding import rounding_plan
from test_cuda_engine import GPU, Rollouts, same
from test_cuda_program import chain_of
from test_program_ops import TANGENTS, root_mean_square
from tqs_fast._native import core
from tqs_fast.capture import capture
from tqs_fast.engines.lane import Drawn, materialise
from tqs_fast.engines.native_program import NativeProgram, Noise
from tqs_fast.systems.precision import cast
from tqs_fast.systems.system import iterate
from tqs_fast.systems.tree import tree_map

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)

# The roundoff u, half the least number; infinity from `most` on.
STORED = {
    "bfloat16": (2.0**-8, 2.0**-134, 2.0**128),
    "float16": (2.0**-11, 2.0**-25, 65520.0),
    "float32": (2.0**-24, 2.0**-150, 2.0**128),
    "float64": (2.0**-53, 0.0, np.inf),
}
SAMPLES = 3
HALVES = ("bfloat16", "float16")
by_precision = pytest.mark.parametrize("precision", HALVES)


# ---------------------------------------------------------------- ops


def narrowed(case: Case) -> Case:
    """With what has a packed weight in the precision of the test, but its bias."""
    if case.kind != "packed_linear":
        return case
    return replace(
        case,
        inputs=(replace(case.inputs[0], precision=None), case.inputs[1]),
        outputs=(replace(case.outputs[0], precision=None),),
    )


def data_of(case: Case, precision: str) -> Data:
    """Drawn as ever and rounded to 16 bits; outputs and tangents of that."""
    drawn = draw(case, SAMPLES, TANGENTS)

    def rounded(given):
        return [
            x if x is None else torch.from_numpy(x).to(DTYPES[view.precision or precision]).double().numpy()
            for view, x in zip(case.inputs, given, strict=True)
        ]

    values, seeds = rounded(drawn.values), rounded(drawn.seeds)
    moved = [difference(case, values, [s if s is None else s[k] for s in seeds]) for k in range(TANGENTS)]
    return Data(values, seeds, evaluate(case, values), [np.stack(parts) for parts in zip(*moved, strict=True)])


def close_but_for_storing(got, expected, precision, roundings, noise=0.0):
    """Assert |error| <= u |expected|, the rounding of what is stored, and float32's bound (test_program_ops.close)."""
    assert got.shape == expected.shape
    u, least, most = STORED[precision]
    expected = np.where(np.abs(expected) >= most, np.copysign(np.inf, expected), expected)
    assert (np.isnan(got) == np.isnan(expected)).all(), "NaN at other places"
    finite = np.isfinite(expected)
    assert (got[~finite] == expected[~finite])[~np.isnan(expected[~finite])].all(), "infinities differ"
    got, expected = got[finite], expected[finite]
    computed = (roundings * 2.0**-24 + noise) * (np.abs(expected) + root_mean_square(expected))
    bound = u * (np.abs(expected) + computed) + computed + least
    error = np.abs(got - expected)
    worst = int(np.argmax(error - bound)) if error.size else 0
    assert (error <= bound).all(), (
        f"{(error > bound).sum()} of {error.size} out of bound; worst {worst}: got {got[worst]!r}, expected "
        f"{expected[worst]!r}, error {error[worst]:.3e}, bound {bound[worst]:.3e}"
    )


def tied(case: Case, data: Data) -> bool:
    """Whether rounding made elements alike that were drawn apart: there is no derivative then."""
    drawn = draw(case, SAMPLES, TANGENTS).values
    pairs = zip(case.inputs, drawn, data.values, strict=True)
    return any(view.draw in ("apart", "aside") and bool((x != y).any()) for view, x, y in pairs)


def on_tensor_cores(case: Case) -> bool:
    """Attention that rounds its weights to 16 bits, too: test_cuda_attention.py has what that allows."""
    return case.kind == "attention" and all(x.sizes[-1] % 8 == 0 and x.steps[-1] == 1 for x in case.inputs[:3])


# Chains of 120 and of 220 registers: too long for two Packs, and for shared memory.
LONG = (chain_of(120), chain_of(220))
ROWS_OF_OPS = [(c, HALVES[i % 2]) for i, c in enumerate((*CASES, *LONG)) if not on_tensor_cores(c)]


@pytest.mark.parametrize(("case", "precision"), ROWS_OF_OPS, ids=str)
def test_ops(case, precision):
    """Every row in one of the precisions: kernels differ in how they load and store alone."""
    case = narrowed(case)
    data = data_of(case, precision)
    native = Native(case, precision, data.values, GPU)
    names = [view.precision or precision for view in case.outputs]
    for y, expected, name in zip(native.ensemble(data.values), data.outputs, names, strict=True):
        close_but_for_storing(y[0], expected, name, case.roundings)
    if not case.seeded() or tied(case, data):
        return
    outputs, tangents = native.tangents(data.values, data.seeds)
    for y, expected, name in zip(outputs, data.outputs, names, strict=True):
        close_but_for_storing(y, expected, name, case.roundings)
    for dy, expected, y, name in zip(tangents, data.tangents, data.outputs, names, strict=True):
        finite = np.isfinite(y)
        scale = root_mean_square(y[finite]) / max(root_mean_square(expected[:, finite]), 1e-3)
        close_but_for_storing(dy, expected, name, case.roundings, noise=1e-10 * (1 + scale))


def test_the_processor_refuses_them():
    case = CASES[0]
    with pytest.raises(tqs.ArgumentError, match=r"16 bits are computed on a GPU only; move the module there"):
        Native(case, "bfloat16", draw(case, SAMPLES, TANGENTS).values)


# ---------------------------------------------------------------- networks


class Halved:
    """A system of 16 bits on the GPU, and with the same weights and states in float32 on the processor."""

    def __init__(self, make, precision: str) -> None:
        dtype = DTYPES[precision]
        self.there = Rollouts(make(), dtype)
        self.system = make()
        self.system.module.to(dtype).float()
        self.here = Rollouts(self.system, torch.float32)
        self.here.states, self.here.inputs = ([x.float() for x in y] for y in (self.there.states, self.there.inputs))
        self.dtype = dtype

    def by_torch(self, dtype: torch.dtype) -> torch.Tensor:
        """Outputs `[T, N, C]`, all in `dtype`."""
        module = copy.deepcopy(self.system.module).to(dtype)
        generator = torch.Generator()
        states, series = (iter([x.to(dtype) for x in y]) for y in (self.there.states, self.there.inputs))
        state = tree_map(lambda _: next(states), self.system.initial_state(1, generator))
        drawn = self.system.inputs
        inputs = None if drawn is None else tree_map(lambda _: next(series), drawn(1, 1, generator))
        steps = iterate(self.system, state, inputs, self.there.steps, module=module)
        return torch.cat([output for _, output in steps], dim=1).transpose(0, 1)


def distance(got, expected) -> float:
    """Root mean square of the difference over that of `expected`."""
    return float((got.double() - expected.double()).square().mean().sqrt() / expected.double().square().mean().sqrt())


ROWS = {case.name: case for case in NETWORKS}


@by_precision
@pytest.mark.parametrize("name", ["GRU-carried", "LSTM-2-layers", "TCN", "llama", "attention-by-hand"])
def test_networks(name, precision):
    """Torch, which rounds after every operation, says how far rounding to 16 bits takes a rollout from the one in
    float32 with the same weights. A program, which rounds after every node, is not further off, but for chance in 30
    numbers: twice. Tangents are rounded as often, and those of a trajectory that is off: twice that."""
    both = Halved(ROWS[name].make, precision)
    rounding = distance(both.by_torch(both.dtype), both.by_torch(torch.float32))
    assert 0 < rounding < 0.1
    last = both.there.varied()[-1]
    other = (last.tensor * 1.1).to(both.dtype)
    lanes = [{}, {last.buffer: other}]
    twin = both.here.varied()[-1]
    assert twin.parameters == last.parameters
    got = both.there.ensemble(both.there.there, lanes)[0]
    expected = both.here.ensemble(both.here.here, [{}, {twin.buffer: other.float()}])[0]
    assert got.dtype == both.dtype
    for lane in range(len(lanes)):
        assert distance(got[lane], expected[lane]) <= 2 * rounding
    seeds, _ = both.there.directions(2)
    count = len(both.there.states) + 1
    slopes = both.there.tangents(both.there.there, seeds, [])[count]
    wanted = both.here.tangents(both.here.here, [s.float() for s in seeds], [])[count]
    assert distance(slopes, wanted) <= 4 * rounding


@pytest.mark.parametrize("name", ["GRU-carried", "llama"])
def test_the_same_bits_for_any_chunks_and_from_run_to_run(name):
    both = Rollouts(ROWS[name].make(), torch.bfloat16)
    lanes = both.lanes()
    whole = both.ensemble(both.there, lanes)
    widened(both.ensemble(both.there, lanes), whole)
    for lane in range(len(lanes)):
        widened(both.ensemble(both.there, [lanes[lane]]), [leaf[lane : lane + 1] for leaf in whole])
    pieces = [both.ensemble(both.there, lanes, slice(n, n + 1)) for n in range(SAMPLES)]
    widened([torch.cat([piece[0] for piece in pieces], 2)], whole[:1])


def widened(got, expected):
    same([x.float() for x in got], [x.float() for x in expected])


# ---------------------------------------------------------------- what must not have 16 bits, and what must


def test_positions_are_exact():
    """bfloat16 has the integers up to 256 only."""

    def step(module, state):
        order = state.argsort(dim=1, descending=True)
        places = torch.arange(700).to(state.dtype)  # of 16 bits, as torch has them
        counted = (state > 0).cumsum(1)
        largest = state.argmax(1, keepdim=True)
        chosen = [state.gather(1, order[:, 690:]), state.gather(1, (largest + 1) % 700)]
        counts = [(counted[:, -1:] > 345).to(state), places[None, -1:] + 0 * chosen[1]]
        return module(state), torch.cat([*chosen, *counts], 1)

    system = tqs.System(torch.nn.Identity(), step=step, initial_state=lambda n, g: torch.zeros(n, 700).bfloat16())
    generator = torch.Generator().manual_seed(0)
    state = torch.stack([torch.randperm(700, generator=generator) for _ in range(2)]).bfloat16() - 350
    native = NativeProgram(capture(system), place=GPU)
    outputs, _ = native.ensemble([state], [], steps=1, values=1)
    expected = step(system.module, state)[1]
    widened([outputs[0, 0]], [expected])


@by_precision
def test_noise_on_weights_is_rounded_once(precision):
    dtype = DTYPES[precision]
    weight = torch.nn.Parameter(torch.randn(1, 900).to(dtype))
    module = torch.nn.ParameterList([weight])
    system = tqs.System(
        module, step=lambda m, z: (z + 0 * z, z + m[0]), initial_state=lambda n, g: torch.zeros(n, 900, dtype=dtype)
    )
    native = NativeProgram(capture(system), place=GPU)
    (constant,) = [c for c in native.program.constants if c.parameters]
    lanes = [{constant.buffer: Noise(3, 1, 0.3, 100, 700)}]
    outputs, _ = native.ensemble([torch.zeros(1, 900, dtype=dtype)], [], steps=1, values=1, lanes=lanes)
    expected = materialise(Drawn(3, 1, 0.3, 100, 700), weight)
    changed = outputs[0, 0] != expected
    # by way of float32 now and then to the other neighbour of a tie
    assert changed.double().mean() < 0.005
    torch.testing.assert_close(outputs[0, 0].double(), expected.double(), rtol=2 * STORED[precision][0], atol=1e-7)
    assert (outputs[0, 0] != weight)[0, 100:800].double().mean() > 0.9


# ---------------------------------------------------------------- the whole way


def in_halves(system: tqs.System, dtype: torch.dtype, device: torch.device = GPU.device) -> tqs.System:
    twin = copy.copy(system)
    twin.module = copy.deepcopy(system.module).to(device, dtype)
    twin.initial_state = lambda count, generator: cast(system.initial_state(count, generator), dtype)
    return twin


def test_scores():
    """Residuals at 2 and 4 bits by this engine and by that of torch. The root of a damage is a distance of two
    trajectories in spreads of the outputs; both are off by their roundings, a few of 2^-9 in the mean."""

    def run(engine):
        system = in_halves(tqs.load_system("lorenz-gru"), torch.bfloat16)
        method = tqs.Residual(bits=(2, 4))
        table = tqs.score(system, horizon=12, initial=tqs.Attractor(count=4), method=method, engine=engine)
        assert table.provenance["engine"]["name"] == engine
        return table.damage

    ours, theirs = run("native"), run("torch")
    np.testing.assert_allclose(np.sqrt(ours), np.sqrt(theirs), rtol=0, atol=2.0**-7)
    assert (ours[:, 0].argsort() == theirs[:, 0].argsort()).all()


def test_auto_takes_torch_on_the_processor():
    system = in_halves(tqs.load_system("lorenz-gru"), torch.bfloat16, torch.device("cpu"))
    rolled = tqs.rollout(system, system.initial_state(2, torch.Generator()), horizon=3)
    assert rolled.provenance["engine"] == "torch"
    assert "16 bits" in rolled.provenance["reason"]


@by_precision
@pytest.mark.parametrize("activation", ["float", "int8"])
def test_packed_modules(precision, activation):
    """A quantized network is checked against torch when it is captured; here its rollout is, to rounding.

    Where rows are rounded to int8, a difference in the last place now and then makes a step of that grid: there the two
    may differ by as much as int8 rows change.
    """
    system = in_halves(ROWS["llama"].make(), DTYPES[precision])
    plan = plan_for(system.module, [8])
    state = system.initial_state(3, torch.Generator().manual_seed(0))

    def twin(plan):
        found = copy.copy(system)
        found.module = tqs.quantize(system.module, plan)
        return found

    def outputs(system, engine):
        return tqs.rollout(system, state, horizon=4, engine=engine).outputs

    small, limit = twin(plan), 16 * STORED[precision][0]
    if activation == "int8":
        small, plain = twin(rounding_plan(plan)), small
        limit = distance(outputs(small, "torch"), outputs(plain, "torch"))
    program = capture(small, dtype=DTYPES[precision])
    read = [program.values[node.inputs[0]] for node in program.nodes if node.kind == "packed_linear"]
    assert {program.buffers[value.buffer].precision for value in read} == {precision}
    ours = outputs(small, "native")
    assert ours.dtype == DTYPES[precision]
    assert distance(ours, outputs(small, "torch")) <= limit


@pytest.mark.parametrize("group_size", [128, 0])
def test_packed_layers_that_share_k(group_size):
    """16 outputs of 8192 inputs: blocks share K, and count each other in memory that held other things before."""
    torch.manual_seed(0)
    module = torch.nn.Linear(8192, 16).to(GPU.device, torch.bfloat16)
    small = tqs.quantize(module, plan_for(module, [4], tqs.Quantizer(group_size)))
    system = tqs.System(small, step=lambda m, z: (z, m(z)), initial_state=lambda n, g: torch.randn(n, 8192).bfloat16())
    state = system.initial_state(3, torch.Generator())
    ours, theirs = (tqs.rollout(system, state, horizon=3, engine=engine).outputs for engine in ("native", "torch"))
    assert distance(ours, theirs) <= 2 * STORED["bfloat16"][0]


def test_packed_layers_of_float32_have_the_same_bits_for_any_samples():
    """192 rows take tiles on a device of four multiprocessors, twelve do not."""
    torch.manual_seed(0)
    module = torch.nn.Linear(300, 128).to(GPU.device)
    small = tqs.quantize(module, plan_for(module, [3], tqs.Quantizer(64)))
    system = tqs.System(
        small, step=lambda m, z: (z, m(z).flatten(1)), initial_state=lambda n, g: torch.randn(n, 12, 300)
    )
    state = system.initial_state(16, torch.Generator())
    both = tqs.rollout(system, state, horizon=1, engine="native").outputs
    alone = tqs.rollout(system, state[3:4], horizon=1, engine="native").outputs
    assert torch.equal(both[:, 3:4], alone)


def test_a_rollout_that_is_not_finite_is_located():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for layer in module:
            layer.weight.copy_(200 * torch.eye(2))  # 200^2 fits float16, 200^3 does not; then inf * 0
            layer.bias.zero_()
    module.to(GPU.device, torch.float16)
    system = tqs.System(module, step=lambda m, z: (m(z), m(z)), initial_state=lambda n, g: torch.ones(n, 2).half())
    state = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).half()
    with pytest.raises(tqs.DivergenceError, match=r"initial condition 1 is not finite from step 1 on, first in 1 \("):
        tqs.rollout(system, state, horizon=4, engine="native")


def test_what_the_step_rounds_is_rounded():
    """A node rounds its outputs only, but where the step converts on from 16 bits."""

    def step(module, state):
        once = (state * module[0]).half()
        return state, torch.cat([(once.float() * 3 - state), (once + 1).float()], 1)

    weight = torch.nn.Parameter(torch.tensor(1.2345))
    system = tqs.System(torch.nn.ParameterList([weight]), step=step, initial_state=lambda n, g: torch.zeros(n, 50))
    state = torch.randn(2, 50)
    native = NativeProgram(capture(system), place=GPU)
    outputs, _ = native.ensemble([state], [], steps=1, values=1)
    expected = step(system.module, state)[1]
    torch.testing.assert_close(outputs[0, 0], expected, rtol=0, atol=2.0**-8)
    same([outputs[0, 0, :, :50]], [expected[:, :50].detach()])


def test_what_an_operation_works_out_in_float32_is_returned_in_16_bits():
    def step(module, state):
        worked_out = torch.cat([state.std(2), state.logsumexp(2), torch.linalg.vector_norm(state, dim=2)], 1)
        return state, module(worked_out)

    torch.manual_seed(0)
    module = torch.nn.Linear(12, 3).bfloat16()
    system = tqs.System(module, step=step, initial_state=lambda n, g: torch.zeros(n, 4, 30).bfloat16())
    state = (torch.randn(2, 4, 30) + 8).bfloat16()  # whose mean 16 bits would round
    outputs, _ = NativeProgram(capture(system), place=GPU).ensemble([state], [], steps=1, values=1)
    torch.testing.assert_close(outputs[0, 0], step(module, state)[1].detach(), rtol=0, atol=2.0**-5)
