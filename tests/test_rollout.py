"""`tqs.rollout`: trajectories, tangents against central differences in float64, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tqs_fast as tqs
from cases.modules import CASES
from networks import cells_system, linear_system, looped, rotation
from tqs_fast.systems import draw
from tqs_fast.systems.tree import tree_leaves, tree_map

HORIZON = 4
# Central differences in float64 with this step: truncation ~ h^2 |y'''| / 6, rounding ~ 2^-52 |y| / h, both near 1e-10
# for quantities of size 1; four steps of a nonlinear loop amplify third derivatives, hence the tolerance.
ENGINES = ("torch", "native")
STEP = 1e-5
TOLERANCE = 1e-7


def random_like(tree, count, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw_leaf(leaf):
        if not leaf.is_floating_point():
            return leaf.new_zeros((count, *leaf.shape))
        return torch.randn(count, *leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)

    return tree_map(draw_leaf, tree)


def weight_directions(system, count, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.1 * torch.randn(count, *p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for name, p in system.module.named_parameters()
    }


def differences(system, state, k, *, tangents=None, weights=None, inputs=None, horizon=HORIZON):
    """Central difference of the outputs in direction k, by the torch engine."""
    ends = []
    for sign in (1.0, -1.0):
        moved = state
        if tangents is not None:
            pieces = iter(zip(tree_leaves(state), tree_leaves(tangents), strict=True))
            moved = tree_map(
                lambda _, p=pieces, s=sign: (lambda x, v: x + (s * STEP * v[k]).to(x.dtype))(*next(p)), state
            )
        twin = copy.copy(system)
        if weights:
            twin.module = copy.deepcopy(system.module)
            with torch.no_grad():
                for name, parameter in twin.module.named_parameters():
                    parameter += sign * STEP * weights[name][k]
        ends.append(tqs.rollout(twin, moved, horizon=horizon, inputs=inputs, engine="torch").outputs)
    return (ends[0] - ends[1]) / (2 * STEP)


def assert_near(actual, expected):
    """Every element to TOLERANCE of the largest, and all together ten times better."""
    scale = expected.abs().max()
    assert float(scale) > 0
    assert float((actual - expected).abs().max() / scale) < TOLERANCE
    assert float((actual - expected).norm() / expected.norm()) < TOLERANCE / 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tangents_of_every_module_kind(case):
    torch.manual_seed(0)
    module = case.make_module().eval()
    torch.manual_seed(1)
    system, _ = looped(module, case.make_input(2), lambda m, *given: m(*given, **case.kwargs))
    system = tqs.in_float64(system)
    state = system.initial_state(2, torch.Generator())
    tangents, weights = random_like(state, 2, seed=3), weight_directions(system, 2)
    path = tqs.rollout(system, state, horizon=HORIZON, tangents=tangents, weight_tangents=weights, engine="torch")
    for k in range(2):
        expected = differences(system, state, k, tangents=tangents, weights=weights)
        assert_near(path.tangent_outputs[:, k], expected)


def test_float32_goes_through_the_same_ways():
    """An LSTM has no forward-mode rule in oneDNN's float32 kernel: the elementary kernels take over, and it is said."""
    torch.manual_seed(0)
    inner = nn.LSTM(3, 8, 2, batch_first=True)
    single, state = looped(inner, (torch.randn(2, 4, 3),), lambda m, x: m(x)[0])
    tangents = random_like(state, 3, seed=2)
    path = tqs.rollout(single, state, horizon=3, tangents=tangents, engine="torch")
    assert "elementary" in path.provenance["tangents"]
    assert torch.backends.mkldnn.enabled
    double = tqs.in_float64(single)
    exact = tqs.rollout(double, tree_map(torch.Tensor.double, state), horizon=3, tangents=tangents, engine="torch")
    # float32 through three loops of two LSTM layers of eight units
    torch.testing.assert_close(path.tangent_outputs.double(), exact.tangent_outputs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path.outputs.double(), exact.outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_linear_system_in_closed_form(engine):
    matrix = rotation(0.4, 0.97).double()
    system = tqs.in_float64(linear_system(matrix.float()))
    system.module.map.weight.data.copy_(matrix)
    state, tangents = torch.randn(3, 2).double(), torch.randn(5, 3, 2).double()
    path = tqs.rollout(system, state, horizon=6, tangents=tangents, engine=engine)
    power = torch.linalg.matrix_power(matrix, 6)
    assert path.outputs.shape == (6, 3, 2)
    assert path.tangent_outputs.shape == (6, 5, 3, 2)
    torch.testing.assert_close(path.state, state @ power.T)
    torch.testing.assert_close(path.tangents, tangents @ power.T)
    torch.testing.assert_close(path.tangent_outputs[-1], tangents @ power.T)
    torch.testing.assert_close(path.outputs[0], state @ matrix.T)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_tangents_it_is_the_plain_rollout(engine):
    system = cells_system()
    states = draw(tqs.Attractor(count=3, spin_up=4), system, horizon=5)
    path = tqs.rollout(system, states.state, horizon=5, engine=engine)
    assert path.tangents is None
    assert path.tangent_outputs is None
    assert set(path.state) == {"value", "h", "pair"}
    torch.testing.assert_close(path.outputs[-1], path.state["value"], rtol=0, atol=0)
    seeded = tqs.rollout(system, states.state, horizon=5, tangents=random_like(states.state, 2, seed=0), engine=engine)
    torch.testing.assert_close(seeded.outputs, path.outputs, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_tangents_are_linear_and_samples_and_tangents_are_independent(engine):
    system = tqs.in_float64(cells_system())
    state = draw(tqs.Attractor(count=3, spin_up=4), system, horizon=5).state
    one, two = random_like(state, 2, seed=0), random_like(state, 2, seed=1)
    pairs = iter(zip(tree_leaves(one), tree_leaves(two), strict=True))
    both = tree_map(lambda _: (lambda a, b: 2 * a - 3 * b)(*next(pairs)), one)
    rolled = [tqs.rollout(system, state, horizon=5, tangents=seeds, engine=engine) for seeds in (one, two, both)]
    results = [path.tangent_outputs for path in rolled]
    torch.testing.assert_close(results[2], 2 * results[0] - 3 * results[1], rtol=1e-12, atol=1e-12)
    alone = tqs.rollout(
        system,
        tree_map(lambda leaf: leaf[1:2], state),
        horizon=5,
        tangents=tree_map(lambda leaf: leaf[1:, 1:2], one),
        engine=engine,
    )
    torch.testing.assert_close(alone.tangent_outputs[:, 0, 0], results[0][:, 1, 1], rtol=1e-12, atol=1e-12)


def test_blocks_inputs_and_integer_leaves():
    """A driven system that emits two values a step and counts its steps in an integer leaf."""
    torch.manual_seed(0)

    def step(module, state, given):
        memory = torch.tanh(module(state["memory"]) + given)
        output = torch.stack([memory, memory**2], dim=1)
        return {"memory": memory, "clock": state["clock"] + 1}, output

    system = tqs.System(
        nn.Linear(3, 3),
        step=step,
        initial_state=lambda n, g: {
            "memory": torch.randn(n, 3, generator=g),
            "clock": torch.zeros(n, 1, dtype=torch.int64),
        },
        inputs=lambda n, t, g: torch.randn(n, t, 3, generator=g),
        block=2,
    )
    system = tqs.in_float64(system)
    generator = torch.Generator().manual_seed(0)
    state, inputs = system.initial_state(2, generator), system.inputs(2, 3, generator)
    tangents = random_like(state, 3, seed=5)
    path = tqs.rollout(system, state, horizon=5, tangents=tangents, inputs=inputs)
    assert path.outputs.shape == (5, 2, 3)
    assert path.tangent_outputs.shape == (5, 3, 2, 3)
    assert path.state["clock"].tolist() == [[3], [3]]
    assert path.tangents["clock"].shape == (3, 2, 1)
    assert not bool(path.tangents["clock"].any())
    assert_near(path.tangent_outputs[:, 1], differences(system, state, 1, tangents=tangents, inputs=inputs, horizon=5))


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def opaque_system():
    return tqs.System(
        nn.Linear(2, 2),
        step=lambda m, z: (Opaque.apply(m(z)), z),
        initial_state=lambda n, g: torch.randn(n, 2, generator=g),
    )


def test_what_cannot_be_differentiated_is_said():
    with pytest.raises(tqs.ArgumentError, match="cannot differentiate a step") as raised:
        tqs.rollout(opaque_system(), torch.randn(2, 2), horizon=2, tangents=torch.randn(1, 2, 2), engine="torch")
    assert "jvp" in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_what_cannot_be_batched_goes_one_by_one():
    """A step that reads a value of its state: vmap refuses it once tangents are batched, jvp does not."""

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            (x,) = inputs
            ctx.save_for_forward(x)

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return tangent * x.cos()

    system = tqs.System(
        nn.Linear(2, 2),
        step=lambda m, z: (Counted.apply(m(z)), z),
        initial_state=lambda n, g: torch.randn(n, 2, generator=g),
    )
    system = tqs.in_float64(system)
    state, tangents = torch.randn(2, 2).double(), torch.randn(3, 2, 2).double()
    path = tqs.rollout(system, state, horizon=2, tangents=tangents, engine="torch")
    assert "one by one" in path.provenance["tangents"]
    assert_near(path.tangent_outputs[1:, 1], differences(system, state, 1, tangents=tangents, horizon=2)[1:])


def exploding():
    return linear_system(torch.eye(2) * 1e30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": torch.zeros(2, 3)}, r"\[rollout\] state: expected shape \[N, 2\]"),
        ({"state": torch.full((2, 2), torch.nan)}, r"state: nan at \[0, 0\]"),
        ({"state": torch.zeros(0, 2)}, r"N >= 1"),
        ({"state": [torch.zeros(2, 2)]}, "state: expected a tensor"),
        ({"horizon": 0}, "horizon"),
        ({"horizon": True}, "horizon"),
        ({"engine": "fast"}, "expected engine"),
        ({"inputs": torch.zeros(2, 3, 1)}, "takes no inputs"),
        ({"tangents": torch.zeros(2, 2)}, r"tangents: expected shape \[K, 2, 2\]"),
        ({"tangents": torch.zeros(1, 3, 2)}, r"tangents: expected shape \[K, 2, 2\]"),
        ({"tangents": torch.zeros(0, 2, 2)}, "K >= 1"),
        ({"tangents": torch.full((1, 2, 2), torch.inf)}, "tangents: inf"),
        ({"weight_tangents": {"map.bias": torch.zeros(1, 2)}}, "no floating parameter 'map.bias'"),
        ({"weight_tangents": {"map.weight": torch.zeros(1, 2)}}, r"weight_tangents\['map.weight'\]"),
        ({"tangents": torch.ones(2, 2, 2), "weight_tangents": {"map.weight": torch.ones(3, 2, 2)}}, r"got \[2, 3\]"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"state": torch.zeros(2, 2), "horizon": 2} | arguments
    with pytest.raises(tqs.ArgumentError, match=message) as raised:
        tqs.rollout(linear_system(rotation()), given.pop("state"), **given)
    assert str(raised.value).count("\n") == 0


def test_divergence_names_step_sample_and_tangent():
    state = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(tqs.DivergenceError, match=r"after step 1 for 1 of 2 initial conditions \(first: 1\)"):
        tqs.rollout(exploding(), state, horizon=4, engine="torch")
    with pytest.raises(tqs.DivergenceError, match=r"trajectory of initial condition 1 is not finite from step 1"):
        tqs.rollout(exploding(), state, horizon=4, engine="native")
    tangents = torch.tensor([[[1e-30, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1e10]]])
    with pytest.raises(tqs.DivergenceError, match="tangent 1 of initial condition 1 is not finite after step 0"):
        tqs.rollout(exploding(), torch.zeros(2, 2), horizon=1, tangents=tangents, engine="torch")
    with pytest.raises(tqs.DivergenceError, match="tangent 1 of initial condition 1 is not finite from step 0"):
        tqs.rollout(exploding(), torch.zeros(2, 2), horizon=1, tangents=tangents, engine="native")


@pytest.mark.parametrize("engine", ENGINES)
def test_weight_tangents_alone_and_the_module_is_untouched(engine):
    system = tqs.in_float64(cells_system())
    before = copy.deepcopy(system.module.state_dict())
    state = draw(tqs.Attractor(count=2, spin_up=4), system, horizon=3).state
    weights = {"gru.weight_hh": weight_directions(system, 2)["gru.weight_hh"]}
    path = tqs.rollout(system, state, horizon=3, weight_tangents=weights, engine=engine)
    full = {n: weights.get(n, torch.zeros(2, *p.shape).double()) for n, p in system.module.named_parameters()}
    assert_near(path.tangent_outputs[:, 1], differences(system, state, 1, weights=full, horizon=3))
    for name, tensor in system.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_in_float64_leaves_the_system_alone():
    system = tqs.load_system("lorenz-gru")
    twin = tqs.in_float64(system)
    assert {p.dtype for p in system.module.parameters()} == {torch.float32}
    assert {p.dtype for p in twin.module.parameters()} == {torch.float64}
    state = twin.initial_state(2, torch.Generator().manual_seed(0))
    assert {leaf.dtype for leaf in tree_leaves(state)} == {torch.float64}
    assert tqs.rollout(twin, state, horizon=2).outputs.dtype == torch.float64
