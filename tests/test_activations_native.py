"""int8 activations in native programs: the bits of the torch product, straight-through tangents, evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import networks_positions
import tqs_fast as tqs
from cases.ops import packed_linear
from networks import cells_system
from packing import plan_for, twin
from programs import Native, View, generator_of
from rounding import int8_plan, rounded
from test_packed_rollouts import ISAS, by_isa, case_named, holding, looped_case
from tqs_fast import kernels, ops
from tqs_fast.capture import capture, describe
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.engines.prepared import prepared
from tqs_fast.reference.program import run_program
from tqs_fast.systems.tree import tree_leaves, tree_map

FLOAT32 = 2.0**-24


@pytest.fixture(autouse=True)
def restore():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    kernels.use_isa(None)


def rounding(system: tqs.System, bits=(8, 4, 3, 2), quantizer=None) -> tqs.System:
    return holding(system, tqs.quantize(system.module, int8_plan(system.module, bits, quantizer)))


def products_system(width: int = 40) -> tqs.System:
    """Nothing but products, of which the next step rounds the result: one wrong bit and rollouts part."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(width, 50), nn.Linear(50, width))

    def step(module: nn.Module, state: torch.Tensor):
        after = module(state)
        return after, after

    return tqs.System(module, step=step, initial_state=lambda n, g: torch.randn(n, width, generator=g))


@pytest.mark.parametrize("name", ["Linear", "Linear-3d", "Conv1d-groups", "Conv2d-same"])
def test_products_have_the_bits_of_torch(name):
    case = case_named(name)
    system, state = looped_case(case, case.make_module())
    small = rounding(system, [4], tqs.Quantizer(32, symmetric=False))
    program, leaves = capture(small), tree_leaves(state)
    expected = small.step(small.module, state)[1]
    expected = expected[:, :-1]  # without the memory, which is no product
    assert [node.ints["int8"] for node in program.nodes if node.kind == "packed_linear"]
    assert all(node.ints["int8"] == (1,) for node in program.nodes if node.kind == "packed_linear")
    assert "int4 group_size=32 int8 activations" in describe(program)
    for isa in ISAS:
        kernels.use_isa(isa)
        outputs, _ = NativeProgram(program).ensemble(leaves, [], steps=1, values=1)
        assert torch.equal(outputs[0, 0, :, :-1], expected)


def test_rollouts_of_products_have_the_bits_of_torch():
    """On every instruction set, whatever the number of samples in a tile."""
    small = rounding(products_system())
    state = small.initial_state(37, torch.Generator().manual_seed(1))
    expected = tqs.rollout(small, state, horizon=12, engine="torch").outputs
    for isa in ISAS:
        kernels.use_isa(isa)
        assert torch.equal(tqs.rollout(small, state, horizon=12, engine="native").outputs, expected)


def test_the_oracle_rounds_rows():
    """The interpreter of programs, next to an oracle of the tests' own."""
    torch.manual_seed(0)
    module = nn.Linear(75, 75)
    system = tqs.System(
        module,
        step=lambda module, state: (module(state), module(state)),
        initial_state=lambda n, g: torch.randn(n, 75, generator=g),
    )
    small = rounding(system, [4])
    x = system.initial_state(1, torch.Generator().manual_seed(1))
    (after,), output = run_program(capture(small), [x])
    weight = small.module.weight.double().numpy()
    expected = rounded(x.numpy()) @ weight.T + module.bias.detach().double().numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    x[0, 3] = torch.nan
    assert np.isnan(run_program(capture(small), [x])[1]).all()
    assert np.array_equal(after.shape, (1, 75))


@pytest.mark.parametrize("name", ["LSTM-2-layers", "GRU-state", "GRUCell", "MultiheadAttention-causal"])
def test_other_modules_agree_with_torch(name):
    """As far as roundings that fall the other way allow: a hundredth of a number between -1 and 1, and few."""
    case = case_named(name)
    system, state = looped_case(case, case.make_module())
    small = rounding(system, [8])
    (got,) = NativeProgram(capture(small)).ensemble(tree_leaves(state), [], steps=1, values=1)[0]
    expected = small.step(small.module, state)[1]
    plain = holding(system, tqs.quantize(system.module, plan_for(system.module, [8])))
    error, effect = (got[0] - expected).abs(), (plain.step(plain.module, state)[1] - expected).abs()
    assert error.max() < 2e-2
    assert error.median() < 1e-6 < 1e-5 < effect.median()


# ---------------------------------------------------------------- tangents and lanes


@by_isa
def test_tangents_are_those_of_the_float_product(isa):
    """One product: the derivative does not depend on where it is taken, so both have the same bits."""
    kernels.use_isa(isa)
    torch.manual_seed(0)
    module = nn.Linear(40, 40)
    system = tqs.System(
        module,
        step=lambda module, state: (module(state), module(state)),
        initial_state=lambda n, g: torch.randn(n, 40, generator=g),
    )
    small = rounding(system, [4])
    plain = holding(system, tqs.quantize(module, plan_for(module, [4])))
    generator = torch.Generator().manual_seed(1)
    state, seeds = torch.randn(7, 40, generator=generator), torch.randn(3, 7, 40, generator=generator)
    biases = {"bias": torch.randn(3, 40, generator=generator)}
    paths = [
        tqs.rollout(of, state, tangents=seeds, weight_tangents=biases, horizon=3, engine="native")
        for of in (small, plain)
    ]
    assert torch.equal(paths[0].tangent_outputs, paths[1].tangent_outputs)
    assert paths[0].tangent_outputs.abs().max() > 0.1
    alone = tqs.rollout(small, state, horizon=3, engine="native").outputs
    assert torch.equal(paths[0].outputs, alone)
    assert not torch.equal(paths[1].outputs, alone)


def test_tangents_agree_with_torch():
    small = rounding(cells_system(), [8])
    generator = torch.Generator().manual_seed(0)
    state = tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator), small.initial_state(3, generator))
    seeds = tree_map(lambda leaf: torch.randn(2, *leaf.shape, generator=generator), state)
    native, by_torch = (
        tqs.rollout(small, state, tangents=seeds, horizon=3, engine=engine) for engine in ("native", "torch")
    )
    torch.testing.assert_close(native.tangent_outputs, by_torch.tangent_outputs, rtol=0, atol=1e-3)
    assert by_torch.tangent_outputs.abs().max() > 0.5


@by_isa
def test_lanes_of_constants_and_biases(isa):
    """Lanes whose x or bias is a constant of their own, and tangents of such a constant."""
    kernels.use_isa(isa)
    case = packed_linear("of a constant", View((5, 20), source="constant"), 19, 8, bias="constant")
    object.__setattr__(case, "ints", {"weight": (0,), "int8": (1,)})
    generator = generator_of(case)
    xs = [generator.standard_normal(100).astype(np.float32) for _ in range(2)]
    biases = [generator.standard_normal(19).astype(np.float32) for _ in range(2)]
    runtime = Native(case, "float32", [xs[0], biases[0]])
    native = runtime.program
    packed = native.program.packed[0]
    parts = (packed.codes, packed.scales, packed.zeros, packed.bits, packed.group_size, 20)

    def product(x, bias, activation="int8"):
        bias = None if bias is None else torch.from_numpy(bias)
        return ops.qgemm(torch.from_numpy(x).reshape(5, 20), *parts, bias, activation).reshape(-1)

    of_x, of_bias = (constant.buffer for constant in native.program.constants)
    lanes = [
        {},
        {of_x: torch.from_numpy(xs[1])},
        {of_bias: torch.from_numpy(biases[1])},
        {of_x: torch.from_numpy(xs[1]), of_bias: torch.from_numpy(biases[1])},
    ]
    start = [torch.zeros(2, 95)]
    _, (rolled,) = native.ensemble(start, [], steps=1, values=1, lanes=lanes)
    for lane, (x, bias) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        assert torch.equal(rolled[lane], product(xs[x], biases[bias]).expand(2, -1)), lane
    moved = [{of_x: torch.from_numpy(xs[1])}, {of_bias: torch.from_numpy(biases[1])}, {}]
    result = native.tangents(start, [], steps=1, values=1, weight_seeds=moved)
    (tangents,) = result.state_tangents
    assert torch.equal(result.states[0], product(xs[0], biases[0]).expand(2, -1))
    assert torch.equal(tangents[0], product(xs[1], None, "float").expand(2, -1))
    assert torch.equal(tangents[1], torch.from_numpy(biases[1]).repeat(2, 5))
    assert not tangents[2].any()


def test_a_growing_context_keeps_what_it_computed():
    torch.manual_seed(0)
    system = tqs.Forecaster(networks_positions.CAUSAL[0](1), 7, channels=2, growing=True)
    small = rounding(system, [8], tqs.Quantizer(32))
    state = torch.randn(3, 7, 2)
    cached = tqs.rollout(small, state, horizon=5, engine="native")
    plain = tqs.rollout(small, state, horizon=5, engine="torch")
    assert any(node.ints.get("int8") == (1,) for node in prepared(small, state, horizon=5).program.nodes)
    torch.testing.assert_close(cached.outputs, plain.outputs, rtol=0, atol=0.05)


def test_other_attributes_are_refused():
    case = packed_linear("wrong", View((2, 20)), 19)
    object.__setattr__(case, "ints", {"weight": (0,), "int8": (2,)})
    with pytest.raises(tqs.ArgumentError, match="expected `int8` to be 0 or 1"):
        Native(case, "float32", [None, np.zeros(19)])


# ---------------------------------------------------------------- float64, evaluation, growth


def test_float64_systems_multiply_in_float32():
    small = tqs.in_float64(rounding(products_system()))
    state = small.initial_state(5, torch.Generator().manual_seed(0))
    paths = [tqs.rollout(small, state, horizon=4, engine=engine).outputs for engine in ("native", "torch")]
    assert paths[0].dtype == torch.float64
    assert torch.equal(*paths)


def test_evaluation_by_both_engines():
    """Damage with int8 activations is more than with float ones (at 8 bits), and both engines say so alike."""
    system = tqs.load_system("lorenz-gru")
    plan = int8_plan(system.module, [8])
    small = tqs.quantize(system.module, plan)
    initial = tqs.Attractor(count=16, spin_up=8)
    native, by_torch = (
        tqs.evaluate(system, small, horizon=8, initial=initial, engine=engine) for engine in ("native", "torch")
    )
    assert native.provenance["engine"]["name"] == "native"
    assert native.damage == pytest.approx(by_torch.damage, rel=0.2)
    plain = tqs.evaluate(system, twin(system.module, plan), horizon=8, initial=initial, engine="native")
    assert native.damage > 1.1 * plain.damage
