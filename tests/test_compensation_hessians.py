"""Hessians of planned weights: what each kind of layer multiplies, and how trajectories weigh it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tqs_fast as tqs
from cases.modules import CASES, TiedHead
from networks import linear_system
from tqs_fast.errors import ArgumentError, DivergenceError
from tqs_fast.quantization.weights import find_weights
from tqs_fast.rewriting.hessians import PROBES, collect_hessians


class Fixed(nn.Module):
    """A step that forgets its state: every rollout of one step calls `inner` on the same input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def one_call(inner: nn.Module, call, *inputs: torch.Tensor) -> tqs.System:
    """A system whose step is `call(inner, *inputs)`, with the inputs as its state."""

    def step(module, state):
        returned = call(module.inner, *state)
        return state, returned.reshape(returned.shape[0], -1).double().float()

    return tqs.System(
        Fixed(inner),
        step=step,
        initial_state=lambda count, generator: tuple(x[:1].expand(count, *x.shape[1:]) for x in inputs),
    )


def hessians(system: tqs.System, initial, *, horizon: int = 1, weighting: str = "output", seed: int = 3):
    settings = tqs.Compensation(horizon=horizon, weighting=weighting, seed=seed)
    return collect_hessians(system.module, find_weights(system.module), system, settings, initial)


def of_inputs(inner: nn.Module, call, *inputs: torch.Tensor):
    """By weight name, [(first, end, H)] of one call."""
    with torch.random.fork_rng():
        found = hessians(one_call(inner, call, *inputs), tqs.Contexts(inputs))
    return {name.removeprefix("inner."): parts for name, parts in found.of_weight.items()}


def gram(x: torch.Tensor) -> np.ndarray:
    x = x.detach().reshape(-1, x.shape[-1]).double()
    return (x.T @ x).numpy()


def check(parts, *expected: tuple[int, int, torch.Tensor]) -> None:
    """Ranges of rows and the inputs that they see."""
    assert [(first, end) for first, end, _ in parts] == [(first, end) for first, end, _ in expected]
    for (_, _, found), (_, _, x) in zip(parts, expected, strict=True):
        np.testing.assert_allclose(found, gram(x), rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_linear():
    x = torch.randn(6, 5, 7)
    check(of_inputs(nn.Linear(7, 3), lambda m, x: m(x), x)["weight"], (0, 3, x))


def test_convolutions_see_their_patches():
    x = torch.randn(4, 6, 20)
    conv = nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2)
    patches = F.pad(x, (1, 1)).unfold(2, 5, 2)[..., ::2].movedim(1, 2).flatten(2)
    check(of_inputs(conv, lambda m, x: m(x), x)["weight"], (0, 8, patches))
    x = torch.randn(3, 4, 7, 9)
    square = nn.Conv2d(4, 6, (2, 3), padding=(1, 0), groups=2)
    unfolded = F.unfold(x, (2, 3), padding=(1, 0)).mT  # [N, L, 24]
    found = of_inputs(square, lambda m, x: m(x), x)["weight"]
    check(found, (0, 3, unfolded[..., :12]), (3, 6, unfolded[..., 12:]))


def test_a_depthwise_convolution_has_a_hessian_per_channel():
    x = torch.randn(2, 5, 11)
    found = of_inputs(nn.Conv1d(5, 5, 4, groups=5), lambda m, x: m(x), x)["weight"]
    check(found, *[(c, c + 1, x[:, c].unfold(1, 4, 1)) for c in range(5)])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_matrices_see_the_hidden_states(kind):
    x = torch.randn(5, 9, 4)
    net = getattr(nn, kind)(4, 6, num_layers=2, batch_first=True)
    found = of_inputs(net, lambda m, x: m(x)[0], x)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    first = getattr(nn, kind)(4, 6, batch_first=True)
    first.load_state_dict({name: value for name, value in net.state_dict().items() if name.endswith("_l0")})
    lower, upper = first(x)[0], net(x)[0]
    zero = torch.zeros(5, 1, 6)
    check(found["weight_ih_l0"], (0, 6 * gates, x))
    check(found["weight_hh_l0"], (0, 6 * gates, torch.cat([zero, lower[:, :-1]], dim=1)))
    check(found["weight_ih_l1"], (0, 6 * gates, lower))
    check(found["weight_hh_l1"], (0, 6 * gates, torch.cat([zero, upper[:, :-1]], dim=1)))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_an_lstm_projection_sees_what_it_projects():
    x, net = torch.randn(5, 7, 3), nn.LSTM(3, 6, proj_size=2, batch_first=True)
    found = of_inputs(net, lambda m, x: m(x)[0], x)
    hidden = net(x)[0]
    check(found["weight_hh_l0"], (0, 24, torch.cat([torch.zeros(5, 1, 2), hidden[:, :-1]], dim=1)))
    (_, end, seen) = found["weight_hr_l0"][0]
    assert (end, seen.shape) == (2, (6, 6))
    weight = net.weight_hr_l0.detach().double().numpy()
    np.testing.assert_allclose(weight @ seen @ weight.T, gram(hidden), rtol=1e-4)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(kind):
    x, h = torch.randn(8, 3), torch.randn(8, 5)
    cell = getattr(nn, kind)(3, 5)
    found = of_inputs(
        cell, lambda m, x, h: m(x, (h, h) if kind == "LSTMCell" else h)[0].reshape(-1, 5)[:1].expand(len(x), 5), x, h
    )
    rows = cell.weight_hh.shape[0]
    check(found["weight_ih"], (0, rows, x))
    check(found["weight_hh"], (0, rows, h))


def test_attention_projections_see_queries_keys_and_values_apart():
    q, kv = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    found = of_inputs(attention, lambda m, q, kv: m(q, kv, kv, need_weights=False)[0], q, kv)
    check(found["in_proj_weight"], (0, 8, q), (8, 24, kv))
    (_, _, seen) = found["out_proj.weight"][0]
    weight, bias = attention.out_proj.weight.detach().double(), attention.out_proj.bias.detach()
    mixed = attention(q, kv, kv, need_weights=False)[0].detach() - bias
    np.testing.assert_allclose(weight.numpy() @ seen @ weight.numpy().T, gram(mixed), rtol=1e-4, atol=1e-6)


def test_projections_used_together_and_apart_add_up():
    q, kv = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def twice(module, q, kv):
        return module(q, q, q, need_weights=False)[0] + module(q, kv, kv, need_weights=False)[0]

    found = of_inputs(attention, twice, q, kv)
    check(found["in_proj_weight"], (0, 8, torch.cat([q, q])), (8, 24, torch.cat([q, kv])))


def test_a_tied_weight_adds_up_over_its_uses_and_a_table_adds_nothing():
    head = TiedHead()
    tokens = torch.randint(0, 19, (4, 3))
    found = of_inputs(head, lambda m, tokens: m(tokens), tokens)["embedding.weight"]
    check(found, (0, 19, torch.tanh(head.embedding(tokens))))
    twice = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    twice[1].weight = twice[0].weight
    x = torch.randn(9, 4)
    check(of_inputs(twice, lambda m, x: m(x), x)["0.weight"], (0, 4, torch.cat([x, twice[0](x)])))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kind_is_seen(case):
    def call(module, *inputs):
        returned = module(*inputs, **case.kwargs)
        return returned[0] if isinstance(returned, tuple) else returned

    inner, inputs = case.make_module(), case.make_input(4)
    found = of_inputs(inner, call, *inputs)
    kinds = {
        weight.name: {attribute for _, attribute in weight.owners} | {weight.kind} for weight in find_weights(inner)
    }
    for name, parts in found.items():
        assert bool(parts) or kinds[name] == {"weight", "Embedding"}, name
        assert all(np.trace(hessian) > 0 for _, _, hessian in parts), name


def test_inputs_add_up_along_the_rollout():
    matrix = torch.tensor([[0.9, 0.2], [-0.3, 0.8]])
    system = linear_system(matrix)
    start = torch.randn(7, 2)
    found = hessians(system, tqs.Contexts(start), horizon=5)
    path = torch.stack([start @ torch.linalg.matrix_power(matrix.T, t) for t in range(5)])
    check(found.of_weight["map.weight"], (0, 2, path))
    assert found.inputs == {"map.weight": 35}


def test_trajectory_weights_against_the_closed_form():
    # z' = a z: the output error of step t moves y_s by a^(s-t), s >= t; all have the same unit.
    a, horizon, count = 0.8, 3, 4096
    system = linear_system(torch.tensor([[a]]))
    start = torch.randn(count, 1)
    found = hessians(system, tqs.Contexts(start), horizon=horizon, weighting="trajectory")
    ((_, _, hessian),) = found.of_weight["map.weight"]
    z = np.stack([start.double().numpy()[:, 0] * a**t for t in range(horizon)])
    unit = 1 / (np.stack([z[0] * a ** (t + 1) for t in range(horizon)]).std() ** 2 * count * horizon)
    reach = [sum(a ** (2 * (s - t)) for s in range(t, horizon)) for t in range(horizon)]
    expected = unit * sum(reach[t] * np.square(z[t]).sum() for t in range(horizon))
    assert hessian[0, 0] / PROBES == pytest.approx(expected, rel=0.05)


def test_trajectory_weights_see_what_does_not_depend_on_the_state():
    class Driven(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(2, 4)
            self.idle = nn.Linear(4, 4)
            self.out = nn.Linear(4, 3)

    def step(module, state, given):
        module.idle(state)
        state = module.cell(given, state)
        return state, module.out(state)

    system = tqs.Recurrent(
        Driven(),
        step=step,
        initial_state=lambda count, g: torch.zeros(count, 4),
        inputs=lambda count, steps, g: torch.randn(count, steps, 2, generator=g),
    )
    found = hessians(system, tqs.Attractor(count=8), horizon=6, weighting="trajectory").of_weight
    assert all(np.trace(found[name][0][2]) > 0 for name in ("cell.weight_ih", "cell.weight_hh", "out.weight"))
    assert found["idle.weight"] == []
    again = hessians(system, tqs.Attractor(count=8), horizon=6, weighting="trajectory").of_weight
    assert (again["cell.weight_ih"][0][2] == found["cell.weight_ih"][0][2]).all()


def test_rollouts_and_gradients_that_fail():
    with pytest.raises(DivergenceError, match="not finite"):
        hessians(linear_system(torch.tensor([[1e20]])), tqs.Contexts(torch.ones(2, 1)), horizon=3)

    def step(module, state):
        state = module.map(state).detach()
        return state, state

    system = linear_system(torch.tensor([[0.5]]))
    detached = tqs.System(system.module, step=step, initial_state=system.initial_state)
    with pytest.raises(ArgumentError, match="no gradient"):
        hessians(detached, tqs.Contexts(torch.randn(3, 1)), horizon=2, weighting="trajectory")
