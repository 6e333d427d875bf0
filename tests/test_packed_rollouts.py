"""Quantized models in native programs: capture, products with packed weights, rollouts, tangents and evaluation."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

import networks_positions
import tqs_fast as tqs
from capturing import TOLERANCE, check_program
from cases.modules import CASES, ModuleCase
from cases.ops import packed_linear
from networks import cells_system, looped
from packing import assert_within, exact_and_bound, flat, plan_for, twin
from programs import Native, View, evaluate, generator_of
from tqs_fast import kernels, ops
from tqs_fast.capture import capture, describe, sizes
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.engines.prepared import prepared
from tqs_fast.rewriting import PackedTensor
from tqs_fast.systems.system import advance, input_at
from tqs_fast.systems.tree import tree_leaves, tree_map

ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["isa"] != "cuda"})
FLOAT32 = 2.0**-24
by_isa = pytest.mark.parametrize("isa", ISAS)

# Every family of drop-ins, in forms that take another way through capture.
NAMES = (
    "Linear",
    "Conv1d-groups",
    "Conv1d-depthwise",
    "Conv2d-same",
    "LSTM-2-layers",
    "LSTM-projection",
    "GRU-state",
    "LSTMCell",
    "GRUCell",
    "RNNCell-relu-no-bias",
    "MultiheadAttention-causal",
    "MultiheadAttention-sizes",
    "TransformerEncoderLayer-norm-first",
)


@pytest.fixture(autouse=True)
def restore():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    kernels.use_isa(None)


def holding(system: tqs.System, module: nn.Module) -> tqs.System:
    other = copy.copy(system)
    other.module = module
    return other


def quantized(system: tqs.System, bits=(8, 4, 3, 2), quantizer=None) -> tqs.System:
    plan = plan_for(system.module, bits, quantizer)
    return holding(system, tqs.quantize(system.module, plan))


def case_named(name: str) -> ModuleCase:
    return next(case for case in CASES if case.name == name)


def looped_case(case: ModuleCase, module: nn.Module) -> tuple[tqs.System, object]:
    system, state = looped(module, case.make_input(3), lambda module, *given: module(*given, **case.kwargs))
    system.initial_state = lambda count, generator: tree_map(lambda leaf: leaf[:count], state)
    return system, state


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("name", NAMES)
def test_native_products_are_those_of_the_dequantized_twin(name):
    """One step on every instruction set, next to the twin in float64 (bound: tests/packing.py)."""
    case = case_named(name)
    module = case.make_module()
    plan = plan_for(module, [8, 3, 4, 2], tqs.Quantizer(32, symmetric=False))
    system, state = looped_case(case, tqs.quantize(module, plan))
    program = capture(system)
    assert ("packed_linear" in {node.kind for node in program.nodes}) == (name != "Conv1d-depthwise")
    leaves = tree_leaves(state)

    def step(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        given = iter(inputs)
        with torch.no_grad():
            return flat(system.step(module, tree_map(lambda _: next(given), state))[1])

    exact, bound = exact_and_bound(step, twin(module, plan), tuple(leaves), FLOAT32)
    assert bound < 1e-3 * float(exact.abs().max())
    for isa in ISAS:
        kernels.use_isa(isa)
        outputs, _ = NativeProgram(program).ensemble(leaves, [], steps=1, values=1)
        assert_within(flat(outputs[0, 0]), exact, bound)


@pytest.mark.parametrize("name", ["Embedding", "Embedding-tied", "Conv1d-circular", "MultiheadAttention-extra-keys"])
def test_programs_follow_the_packed_module(name):
    """By the oracle, which takes states of integers."""
    case = case_named(name)
    module = case.make_module()
    system, _ = looped_case(case, tqs.quantize(module, plan_for(module, [3, 8])))
    check_program(system, torch.float32, TOLERANCE[torch.float32])


class Codebook(nn.Module):
    """The nearest of some vectors, by the largest product; a packed embedding whose rows the state chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 24)
        self.out = nn.Linear(24, 24)

    def forward(self, x):
        return 0.7 * x + 0.3 * self.out(self.table((x @ torch.eye(24, 40)).argmax(-1)))


def test_rows_chosen_by_the_state():
    torch.manual_seed(0)
    system = tqs.System(
        Codebook(),
        step=lambda module, state: (module(state), module(state)),
        initial_state=lambda n, g: torch.randn(n, 24, generator=g),
    )
    for quantizer in (tqs.Quantizer(32), tqs.Quantizer(0, symmetric=False)):
        small = quantized(system, [4], quantizer)
        state = system.initial_state(5, torch.Generator().manual_seed(1))
        paths = [tqs.rollout(small, state, horizon=4, engine=engine).outputs for engine in ("native", "torch")]
        torch.testing.assert_close(*paths, rtol=1e-5, atol=1e-5)


def test_float64_programs_multiply_dequantized_weights():
    system = cells_system()
    small = tqs.in_float64(quantized(system))
    assert {node.kind for node in capture(small, dtype=torch.float64).nodes} == {"linear", "elementwise"}
    check_program(small, torch.float64, TOLERANCE[torch.float64])
    state = small.initial_state(3, torch.Generator().manual_seed(0))
    expected = tqs.rollout(holding(small, twin_in_float64(system)), state, horizon=5, engine="torch").outputs
    for engine in ("native", "torch"):
        path = tqs.rollout(small, state, horizon=5, engine=engine)
        torch.testing.assert_close(path.outputs, expected, rtol=1e-12, atol=1e-13)


def twin_in_float64(system: tqs.System, bits=(8, 4, 3, 2)) -> nn.Module:
    return twin(system.module, plan_for(system.module, bits)).double()


def test_a_weight_is_held_once():
    """However many nodes multiply by it (a recurrent layer over a window), whole or in part."""
    torch.manual_seed(0)
    case = case_named("LSTM-2-layers")
    system, _ = looped_case(case, case.make_module())
    small = quantized(system, [4])
    program = capture(small)
    packed = [part for part in small.module.modules() if isinstance(part, PackedTensor)]
    assert len(program.packed) == len(packed) == 4
    assert sum(node.kind == "packed_linear" for node in program.nodes) > 4
    assert {weight.codes.data_ptr() for weight in program.packed} == {
        part.blocks[0].codes.data_ptr() for part in packed
    }
    stored = sum(part.nbytes for part in packed)
    kept = sum(buffer.elements for buffer in program.buffers if buffer.kind == "constant")
    assert sizes(program)["constant_bytes"] == stored + 4 * kept
    assert "int4 group_size=128" in describe(program)
    kernels.use_isa("scalar")  # which prepacks codes as they are
    assert NativeProgram(program).packed_bytes == sum(weight.codes.numel() for weight in program.packed)


# ---------------------------------------------------------------- rollouts


def built_in(name: str) -> tuple[tqs.System, tqs.Plan]:
    if name != "lorenz-gru" and find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"needs the {name} package")
    system = tqs.load_system(name)
    return system, plan_for(system.module, (8, 4))


@pytest.mark.parametrize("name", ["lorenz-gru", "silero-vad"])
def test_built_in_systems_run_natively(name):
    """Two steps on every instruction set, next to the twin in float64."""
    system, plan = built_in(name)
    small = holding(system, tqs.quantize(system.module, plan))
    generator = torch.Generator().manual_seed(0)
    state = system.initial_state(2, generator)
    inputs = None if system.inputs is None else system.inputs(2, 2, generator)

    def roll(module: nn.Module, leaves: tuple[torch.Tensor, ...]) -> torch.Tensor:
        given = iter(leaves)
        now = tree_map(lambda _: next(given), state)
        driven = None if inputs is None else tree_map(lambda _: next(given), inputs)
        outputs = []
        for t in range(2):
            now, output = advance(small, now, input_at(driven, t), module=module)
            outputs.append(output)
        return flat(torch.cat(outputs, 1).transpose(0, 1))

    leaves = (*tree_leaves(state), *(() if inputs is None else tree_leaves(inputs)))
    exact, bound = exact_and_bound(roll, twin(system.module, plan), leaves, FLOAT32)
    for isa in ISAS:
        kernels.use_isa(isa)
        path = tqs.rollout(small, state, inputs=inputs, horizon=2)
        assert path.provenance["engine"] == "native", path.provenance["reason"]
        assert_within(flat(path.outputs), exact, bound)


def test_fracast_runs_natively():
    """Next to torch: its step names dtypes, and has no float64 twin. 256 roundings of a window's range."""
    system, plan = built_in("fracast")
    small = holding(system, tqs.quantize(system.module, plan))
    state = system.initial_state(2, torch.Generator().manual_seed(0))
    path = tqs.rollout(small, state, horizon=2 * system.block)
    assert path.provenance["engine"] == "native", path.provenance["reason"]
    expected = tqs.rollout(small, state, horizon=2 * system.block, engine="torch").outputs
    span = (state.nan_to_num(-torch.inf).amax(1) - state.nan_to_num(torch.inf).amin(1)).max()
    torch.testing.assert_close(path.outputs, expected, rtol=0, atol=256 * FLOAT32 * float(span))


@by_isa
def test_tangents_of_states_and_biases(isa):
    kernels.use_isa(isa)
    system = cells_system()
    small = quantized(system)
    generator = torch.Generator().manual_seed(0)
    state = tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator), system.initial_state(3, generator))
    seeds = tree_map(lambda leaf: torch.randn(2, *leaf.shape, generator=generator), state)
    biases = {name: torch.randn(2, *p.shape, generator=generator) for name, p in small.module.named_parameters()}
    double = holding(tqs.in_float64(system), twin_in_float64(system))

    def roll(of: tqs.System, dtype: torch.dtype, engine: str) -> tqs.Rollout:
        cast = [tree_map(lambda leaf: leaf.to(dtype), tree) for tree in (state, seeds)]
        weights = {name: direction.to(dtype) for name, direction in biases.items()}
        return tqs.rollout(of, cast[0], tangents=cast[1], weight_tangents=weights, horizon=4, engine=engine)

    path, exact = roll(small, torch.float32, "native"), roll(double, torch.float64, "torch")
    torch.testing.assert_close(path.outputs.double(), exact.outputs, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(path.tangent_outputs.double(), exact.tangent_outputs, rtol=5e-5, atol=5e-5)
    with pytest.raises(tqs.ArgumentError, match=r"has no floating parameter 'encoder\.weight'"):
        tqs.rollout(small, state, weight_tangents={"encoder.weight": torch.ones(1, 16, 3)}, horizon=2)


@pytest.mark.parametrize("block", [1, 2])
def test_a_growing_context_keeps_what_it_computed(block):
    torch.manual_seed(0)
    system = tqs.Forecaster(networks_positions.CAUSAL[0](block), 7, channels=2, block=block, growing=True)
    small = quantized(system, [8, 4], tqs.Quantizer(32))
    state = torch.randn(3, 7, 2)
    cached = tqs.rollout(small, state, horizon=7, engine="native")
    plain = tqs.rollout(small, state, horizon=7, engine="torch")
    assert "packed_linear" in {node.kind for node in prepared(small, state, horizon=7).program.nodes}
    torch.testing.assert_close(cached.outputs, plain.outputs, rtol=1e-4, atol=1e-5)


def test_codes_changed_in_place_are_seen():
    small = quantized(cells_system())
    state = small.initial_state(3, torch.Generator().manual_seed(0))
    before = tqs.rollout(small, state, horizon=3, engine="native").outputs
    codes = next(part for part in small.module.modules() if isinstance(part, PackedTensor)).blocks[0].codes
    codes[0, 0] ^= 1 << 7
    after = tqs.rollout(small, state, horizon=3, engine="native").outputs
    assert not torch.equal(before, after)
    expected = tqs.rollout(small, state, horizon=3, engine="torch").outputs
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


@by_isa
def test_a_constant_with_variants_times_a_packed_weight(isa):
    """Lanes whose x is a constant of their own, and tangents of such a constant."""
    kernels.use_isa(isa)
    case = packed_linear("of a constant", View((5, 20), source="constant"), 19, 8, bias="absent")
    generator = generator_of(case)
    first, second, direction = (generator.integers(-400, 400, 100) / 128 for _ in range(3))
    native = Native(case, "float32", [first, None]).program
    (buffer,) = [constant.buffer for constant in native.program.constants]
    start = [torch.zeros(2, 95)]
    other = {buffer: torch.from_numpy(second).float()}
    _, (rolled,) = native.ensemble(start, [], steps=1, values=1, lanes=[{}, other])
    for lane, x in enumerate((first, second)):
        (expected,) = evaluate(case, [x, None])
        np.testing.assert_allclose(rolled[lane].numpy(), np.repeat(expected, 2, 0), rtol=1e-5, atol=1e-4)
    moved = [{buffer: torch.from_numpy(direction).float()}, {}]
    result = native.tangents(start, [], steps=1, values=1, weight_seeds=moved)
    (expected,) = evaluate(case, [direction, None])
    (tangents,) = result.state_tangents
    np.testing.assert_allclose(tangents[0].numpy(), np.repeat(expected, 2, 0), rtol=1e-5, atol=1e-4)
    assert not tangents[1].any()


# ---------------------------------------------------------------- what is refused


def test_weights_that_depend_on_the_state_are_refused():
    arguments = tuple(
        getattr(tqs.quantize(nn.Linear(8, 8), plan_for(nn.Linear(8, 8), [8])).packed["weight"].blocks[0], name)
        for name in ("codes", "scales", "zeros", "bits", "group_size", "in_features")
    )

    def multiply(module, state):
        codes = arguments[0] + (state[:1].mean() > 0).to(torch.uint8)
        after = ops.qgemm(module(state), codes, *arguments[1:])
        return after, after

    def dequantize(module, state):
        codes = arguments[0] + (state[:1].mean() > 0).to(torch.uint8)
        after = module(state) @ ops.dequantize(codes, *arguments[1:])
        return after, after

    for step in (multiply, dequantize):
        system = tqs.System(nn.Linear(8, 8), step=step, initial_state=lambda n, g: torch.randn(n, 8, generator=g))
        state = system.initial_state(1, torch.Generator())
        with pytest.raises(tqs.CaptureError, match="packed weight that depends on the state"):
            tqs.rollout(system, state, horizon=2, engine="native")


# ---------------------------------------------------------------- evaluation


def test_evaluate_runs_both_modules_by_one_engine():
    system = cells_system()
    small = quantized(system).module
    arguments = {"horizon": 9, "initial": tqs.Attractor(count=6, spin_up=4), "seed": 3}
    found = {name: tqs.evaluate(system, small, engine=name, **arguments) for name in ("auto", "native", "torch")}
    engines = {name: error.provenance["engine"] for name, error in found.items()}
    assert {name: engine["name"] for name, engine in engines.items()} == {
        "auto": "native",
        "native": "native",
        "torch": "torch",
    }
    assert engines["auto"]["reason"] == "the step was captured"
    expected = {"requested": "torch", "name": "torch", "reason": "asked for", "isa": kernels.isa(), "tf32": False}
    assert engines["torch"] == expected
    np.testing.assert_array_equal(found["auto"].samples, found["native"].samples)
    np.testing.assert_allclose(found["native"].samples, found["torch"].samples, rtol=1e-3)
    assert found["native"].ratio(found["torch"])[0] == pytest.approx(1, rel=1e-3)
    with pytest.raises(tqs.ArgumentError, match=r"\[evaluate\] expected engine to be one of auto, native, torch"):
        tqs.evaluate(system, small, engine="serial", **arguments)


def test_evaluate_falls_back_for_both_and_says_why():
    system = cells_system()
    small = quantized(system).module

    class Strange(nn.Linear):
        def forward(self, x):
            return torch.special.i0(super().forward(x)).log()

    small.out = Strange(16, 3)
    arguments = {"horizon": 3, "initial": tqs.Attractor(count=3, spin_up=4)}
    engine = tqs.evaluate(system, small, **arguments).provenance["engine"]
    assert engine["name"] == "torch"
    assert "i0" in engine["reason"]
    with pytest.raises(tqs.CaptureError, match="i0"):
        tqs.evaluate(system, small, engine="native", **arguments)
