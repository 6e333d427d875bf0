"""Adjoint against exact Jacobians in float64, its sums and its shares of families and groups, and what it refuses."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves as every_leaf

import tqs_fast as tqs
from networks import cells_system, linear_system, rotation
from tqs_fast.engines import roll_reference, weight_adjoints
from tqs_fast.engines.weight_adjoints import WeightAdjoints
from tqs_fast.scoring.adjoint import expected_damage, squared_error
from tqs_fast.scoring.adjoint_norms import FINEST, squared_norms
from tqs_fast.scoring.methods import stream
from tqs_fast.scoring.task import Task, prepare
from tqs_fast.systems.system import input_at

torch.manual_seed(0)


def driven_gru() -> tqs.System:
    """A stacked state with an integer leaf and a memory of inputs, which no weight can move."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRUCell(3, 4), nn.Linear(4, 2)

    def step(module, state, given):
        hidden = module.cell(torch.cat([state["seen"], state["y"][:, :1]], 1), state["hidden"])
        y = module.out(hidden).tanh() + 0.1 * (state["count"] % 2)[:, None]
        return {"hidden": hidden, "count": state["count"] + 1, "y": y, "seen": given}, y

    def state(n, g):
        real = {"hidden": torch.randn(n, 4, generator=g), "y": torch.randn(n, 2, generator=g)}
        return real | {"count": torch.arange(n), "seen": torch.randn(n, 2, generator=g)}

    return tqs.System(Net(), step=step, initial_state=state, inputs=lambda n, t, g: torch.randn(n, t, 2, generator=g))


def transformer() -> tqs.System:
    """Attention over a window; blocks of three values; a weight wider than one group, and one that is tied."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(2, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.wide, self.narrow = nn.Linear(8, 40), nn.Linear(40, 8)
            self.again = nn.Linear(8, 8)
            self.tied = nn.Linear(8, 8)
            self.tied.weight = self.again.weight
            self.head = nn.Linear(8, 6)

        def forward(self, window):
            h = self.embed(window)
            h = h + self.attention(h, h, h, need_weights=False)[0]
            h = h + self.narrow(self.wide(h).tanh())
            h = self.tied(self.again(h).tanh())
            return (0.5 * window[:, -1:] + self.head(h[:, -1]).reshape(-1, 3, 2)).tanh()

    return tqs.Forecaster(Net(), 5, channels=2, block=3)


def runge_kutta() -> tqs.System:
    """A learned flow, stepped by the classical fourth-order method: every weight is used four times a step."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 3)

        def forward(self, z):
            return self.outer(self.inner(z).sin()) - 0.3 * z

    def step(module, z):
        h = 0.2
        k1 = module(z)
        k2 = module(z + h / 2 * k1)
        k3 = module(z + h / 2 * k2)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + module(z + h * k3))
        return z, z

    return tqs.System(Flow(), step=step, initial_state=lambda n, g: torch.randn(n, 3, generator=g))


SYSTEMS = {"gru": driven_gru, "transformer": transformer, "runge-kutta": runge_kutta}
WAYS = {"together": 2**40, "in turn": 0}


def task_of(system: tqs.System, *, horizon=7, families=2, row_blocks=1, seed=3, memory_limit=None) -> Task:
    count = [3, 1][:families]
    if isinstance(system, tqs.Forecaster):
        initial = [tqs.Synthetic(count=n, kinds=("seasonal",)) for n in count]
    else:
        initial = [tqs.Attractor(count=n, spin_up=0) for n in count]
    return prepare(
        system, horizon=horizon, initial=initial, engine="auto", layers=None, row_blocks=row_blocks, seed=seed,
        memory_limit=memory_limit, tie=None,
    )  # fmt: skip


def jacobian(task: Task) -> list[torch.Tensor]:
    """∂(outputs [T, N, C]) / ∂(each weight), row by row through the whole unrolled rollout."""
    system = task.system

    def outputs(values):
        module = copy.deepcopy(system.module)
        names = dict(zip([weight.name for weight in task.weights], values, strict=True))

        class Step(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module

            def forward(self, *given):
                return system.step(self.inner, *given)

        replaced, state, blocks = {f"inner.{name}": value for name, value in names.items()}, task.states.state, []
        for t in range(system.steps(task.horizon)):
            given = () if task.states.inputs is None else (input_at(task.states.inputs, t),)
            state, y = torch.func.functional_call(Step(), replaced, (state, *given))
            blocks.append(y if y.dim() == 3 else y[:, None])
        return torch.cat(blocks, 1)[:, : task.horizon].transpose(0, 1)

    return list(torch.autograd.functional.jacobian(lambda *values: outputs(values), task.parameters))


def signs(task: Task, probe: int, channels: int) -> torch.Tensor:
    """±1 `[T, N, C]` as documented."""
    shape = (task.horizon, task.states.count, channels)
    drawn = tqs.kernels.uniform(int(np.prod(shape)), seed=task.seed, stream=stream("Adjoint", probe))
    return torch.from_numpy(np.where(drawn < 0.5, -1.0, 1.0).reshape(shape))


def oracle(task: Task, probes: int) -> list[np.ndarray]:
    """(G_fᵀv)² of every weight element, [F, P, rows, columns] per layer: family f alone, scaled as a damage."""
    reference = roll_reference(task.system, task.states, task.horizon)
    T, _, C = reference.outputs.shape
    of_weight = []
    for J in jacobian(task):
        squares = []
        for f in range(len(task.states.families)):
            rows = torch.from_numpy(task.states.family_of == f)
            scale = 1 / (reference.scale * (int(rows.sum()) * T * C) ** 0.5) * rows[:, None]
            v = torch.stack([signs(task, k, C) for k in range(probes)]) * scale
            squares.append(torch.tensordot(v, J, dims=3).square().flatten(2))
        of_weight.append(torch.stack(squares).numpy())
    return [of_weight[w][:, :, block.first : block.end] for w, block in zip(task.weight_of, task.blocks, strict=True)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_norms_equal_those_of_the_exact_jacobian(name, way, monkeypatch):
    """Families, row blocks, blocks of values that overshoot the horizon, integer leaves, inputs, tied weights."""
    monkeypatch.setattr(weight_adjoints, "TOGETHER", WAYS[way])
    task = task_of(tqs.in_float64(SYSTEMS[name]()), row_blocks=3)
    found = squared_norms(
        task, roll_reference(task.system, task.states, task.horizon, keep_states=True), 3, lambda *_: None
    )
    assert ("together" in found.how) == (way == "together")
    assert len({block.weight.name for block in task.blocks}) == len(task.weights)
    for block, norms, squares in zip(task.blocks, found.of_block, oracle(task, 3), strict=True):
        expected = np.add.reduceat(squares, np.arange(0, squares.shape[3], FINEST), axis=3)
        np.testing.assert_allclose(norms, expected, rtol=1e-9, atol=1e-20, err_msg=block.name)


def test_a_tied_weight_is_there_once():
    names = [layer.name for layer in tqs.score(transformer(), horizon=4, method=tqs.Adjoint(probes=1)).layers]
    assert "again.weight" in names
    assert "tied.weight" not in names


def test_the_jacobian_of_the_tests_equals_finite_differences():
    task = task_of(tqs.in_float64(driven_gru()))
    weight, J = task.parameters[0], jacobian(task)[0]
    moved = []
    for step in (1e-6, -1e-6):
        system = copy.copy(task.system)
        system.module = copy.deepcopy(task.system.module)
        with torch.no_grad():
            system.module.get_parameter(task.weights[0].name)[1, 2] += step
        moved.append(roll_reference(system, task.states, task.horizon).outputs)
    assert weight.shape == (12, 3)
    torch.testing.assert_close((moved[0] - moved[1]) / 2e-6, J[..., 1, 2], rtol=1e-6, atol=1e-9)


def test_probes_are_unbiased_and_state_their_error():
    """The mean of many probes is ‖G‖_F² of the exact Jacobian; its stated standard error covers the difference."""
    system = tqs.in_float64(cells_system(width=4))
    arguments = {"horizon": 6, "initial": tqs.Attractor(count=2, spin_up=3), "seed": 1}
    table = tqs.score(system, method=tqs.Adjoint(probes=600), **arguments)
    task = prepare(system, engine="auto", layers=None, row_blocks=1, memory_limit=None, tie=None, **arguments)
    reference = roll_reference(system, task.states, 6)
    np.testing.assert_allclose(table.stderr, table.probe_stderr)
    np.testing.assert_allclose(
        table.relative_error, tqs.score(system, method=tqs.Residual(), **arguments).relative_error, rtol=1e-12
    )
    for number, J in enumerate(jacobian(task)):
        scaled = J / reference.scale.reshape(1, 1, -1, 1, 1)
        norms = scaled.square().sum(dim=(0, 1, 2)) / (6 * 2 * 3)
        rows = task.rows(number)
        gain = float(norms.sum() * rows.square().mean())
        for column, bits in enumerate(table.bits):
            error = (table.quantizer.dequantized(rows, bits).double() - rows).square()  # at most 128 columns: one group
            expected = float((norms.sum(dim=1) * error.mean(dim=1)).sum())
            found, stderr = table.damage[number, column], table.probe_stderr[number, column]
            assert abs(found - expected) < 4.5 * stderr
            assert stderr < 0.15 * found
        # the spread of Gᵀv over v is at most that of one direction, a relative variance of 2
        assert table.gain[number] == pytest.approx(gain, rel=4.5 * (2 / 600) ** 0.5)


def test_one_set_of_norms_serves_every_group_size():
    weight = torch.randn(5, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    squares = np.random.default_rng(0).random((2, 3, 5, 150))
    norms = np.add.reduceat(squares, np.arange(0, 150, FINEST), axis=3)
    for size in (0, 32, 64, 128):
        quantizer = tqs.Quantizer(group_size=size)
        for bits in (2, 8):
            error = (quantizer.dequantized(weight, bits).double() - weight).square().numpy()
            sums = squared_error(weight, quantizer, bits)
            np.testing.assert_allclose(sums, np.add.reduceat(error, np.arange(0, 150, FINEST), axis=1), rtol=1e-14)
            expected = np.zeros((2, 3))
            for first in range(0, 150, size or 150):
                part = slice(first, first + (size or 150))
                expected += (error[:, part].mean(axis=1) * squares[..., part].sum(axis=3)).sum(axis=2)
            np.testing.assert_allclose(expected_damage(norms, sums, 150, size), expected, rtol=1e-12)


def test_families_weigh_the_same_and_are_reported_apart():
    task = task_of(tqs.in_float64(runge_kutta()))
    initial = [tqs.Attractor(count=3, spin_up=0), tqs.Attractor(count=1, spin_up=0)]
    table = tqs.score(task.system, horizon=7, method=tqs.Adjoint(probes=3), initial=initial, seed=3)
    for number, squares in enumerate(oracle(task, 3)):
        weight = task.rows(number)
        error = (table.quantizer.dequantized(weight, 4).double() - weight).square().numpy().mean(axis=1)
        of_family = (squares.sum(axis=3) * error).sum(axis=2).mean(axis=1)
        np.testing.assert_allclose(table.damage_of_family[:, number, 2], of_family, rtol=1e-9)
        assert table.damage[number, 2] == pytest.approx(of_family.mean(), rel=1e-9)
        assert table.curve[number, 2] == pytest.approx(of_family.mean(), rel=1e-9)
    assert np.isnan(table.growth_rate).all()
    one = tqs.score(task.system, horizon=7, method=tqs.Adjoint(probes=1), initial=initial)
    assert np.isnan(one.probe_stderr).all()


@pytest.mark.parametrize("way", WAYS)
def test_scores_do_not_depend_on_repetition_threads_or_memory(way, monkeypatch):
    monkeypatch.setattr(weight_adjoints, "TOGETHER", WAYS[way])
    system = cells_system()
    arguments = {"horizon": 10, "initial": tqs.Attractor(count=4, spin_up=4), "method": tqs.Adjoint()}
    first = tqs.score(system, **arguments)
    assert tqs.score(system, **arguments).to_json() == first.to_json()
    assert (tqs.score(system, seed=1, **arguments).damage != first.damage).all()
    size = 4 * sum(layer.parameters for layer in first.layers)
    for limit, passes in ((size, 4), (3 * size, 2), (4 * size, 1)):
        chunked = tqs.score(system, memory_limit=limit, **arguments)
        assert chunked.provenance["cost"]["forward_steps"] == 10 * (1 + passes)
        np.testing.assert_allclose(chunked.samples, first.samples, rtol=1e-4)
    with pytest.raises(tqs.ArgumentError, match="too small for the gradients of one probe"):
        tqs.score(system, memory_limit=size - 1, **arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = tqs.score(system, **arguments)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(two.samples, first.samples, rtol=1e-4)


class Live(TorchDispatchMode):
    """Most bytes alive at one time in tensors of whole copies of a weight that are touched while the mode is on."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes, self.live, self.most = nbytes, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in every_leaf(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.nbytes() % self.nbytes == 0 and storage.data_ptr() not in self.live:
                    key = storage.data_ptr()
                    self.live[key] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, key, None)
        self.most = max(self.most, sum(self.live.values()))
        return result


def test_no_more_copies_of_a_gradient_than_probes(monkeypatch):
    """Of 6 equal weights: themselves, 3 sums each, and the gradient of the one that is just being added."""
    monkeypatch.setattr(weight_adjoints, "TOGETHER", 0)
    width = 37
    module = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(6)))
    weight_bytes = 4 * width * width

    def step(module, state):
        state = module(state).tanh()
        return state, state

    system = tqs.System(module, step=step, initial_state=lambda n, g: torch.randn(n, width, generator=g))
    adjoints = WeightAdjoints(system, [f"{i}.weight" for i in range(6)])
    with Live(weight_bytes) as live:
        adjoints.pull([torch.ones(2, width)] * 5, None, lambda t: torch.ones(3, 2, 1, width), count=3)
    assert live.most == (6 + 3 * 6 + 1) * weight_bytes
    assert all(weight.grad is None for weight in module.parameters())


def test_the_module_is_left_as_it_was():
    system = cells_system()
    before = {name: p.clone() for name, p in system.module.named_parameters()}
    for parameter in system.module.parameters():
        parameter.requires_grad_(False)
    table = tqs.score(system, horizon=5, method=tqs.Adjoint(probes=2), initial=tqs.Attractor(count=2, spin_up=0))
    assert (table.damage > 0).all()
    for name, parameter in system.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_half_precision_weights_are_summed_in_float32():
    float32 = cells_system()
    halved = tqs.System(
        copy.deepcopy(float32.module).to(torch.bfloat16),
        step=float32.step,
        initial_state=lambda n, g: torch.utils._pytree.tree_map(lambda x: x.bfloat16(), float32.initial_state(n, g)),
    )
    arguments = {"horizon": 8, "initial": tqs.Attractor(count=4, spin_up=2), "method": tqs.Adjoint()}
    ratio = tqs.score(halved, **arguments).gain / tqs.score(float32, **arguments).gain
    assert (abs(np.log(ratio)) < 0.3).all()  # 8 bits of a number on the way, over 8 steps
    adjoints = WeightAdjoints(halved, ["encoder.weight"])
    state = halved.initial_state(2, torch.Generator().manual_seed(0))
    (total,) = adjoints.pull([state], None, lambda t: torch.ones(1, 2, 1, 3), count=1)
    assert total.dtype == torch.float32


class Doubled(torch.autograd.Function):
    """Refuses to be batched: it looks at values."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient if gradient.sum().item() == gradient.sum().item() else gradient


@pytest.mark.parametrize("later", [False, True], ids=["from the start", "in a later step"])
def test_what_cannot_be_batched_is_pulled_back_in_turn(later, monkeypatch):
    def step(module, state):
        moved = module.map(state["z"])
        used = not later or bool((state["t"] < 2).all())
        z = Doubled.apply(moved) if used else 2 * moved
        return {"z": z, "t": state["t"] + 1}, z

    def start(n, g):
        return {"z": torch.randn(n, 2, generator=g), "t": torch.zeros(n, 1, dtype=torch.int64)}

    module = linear_system(rotation(0.3, 0.49)).module
    system = tqs.System(module, step=step, initial_state=start)

    def step_plain(module, state):
        z = 2 * module.map(state["z"])
        return {"z": z, "t": state["t"] + 1}, z

    plain = tqs.System(module, step=step_plain, initial_state=start)
    arguments = {"horizon": 6, "initial": tqs.Attractor(count=3, spin_up=0), "method": tqs.Adjoint()}
    found, expected = tqs.score(system, **arguments), tqs.score(plain, **arguments)
    assert "one by one" in found.provenance["engine"]["reason"]
    assert "together" in expected.provenance["engine"]["reason"]
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-5)


class OnlyElementary(torch.autograd.Function):
    """Like cuDNN's LSTM out of training: no backward pass unless the elementary kernels are in use."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if torch.backends.mkldnn.enabled:
            raise RuntimeError("this kernel has no backward pass")
        return gradient


def test_a_way_that_fails_half_way_leaves_nothing(monkeypatch):
    """The gradient of the last layer has been added when the first one's refuses; it must not be added twice."""
    monkeypatch.setattr(weight_adjoints, "TOGETHER", 0)

    def system(between):
        def step(module, state):
            state = module[1](between(module[0](state))).tanh()
            return state, state

        module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
        module.load_state_dict({k: torch.linspace(-1, 1, v.numel()).reshape(v.shape) for k, v in weights.items()})
        return tqs.System(module, step=step, initial_state=lambda n, g: torch.randn(n, 2, generator=g))

    weights = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)).state_dict()
    arguments = {"horizon": 1, "initial": tqs.Attractor(count=3, spin_up=0), "method": tqs.Adjoint()}
    found = tqs.score(system(OnlyElementary.apply), **arguments)
    expected = tqs.score(system(lambda x: x), **arguments)
    assert found.provenance["engine"]["reason"] == "torch.autograd, one by one, elementary kernels"
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: z.detach(), tqs.ArgumentError, "no gradient of the outputs .* reaches map.weight"),
        (lambda z: z.round(), tqs.ArgumentError, "use Residual or Noise"),
        (lambda z: z + (z - z).abs().sqrt(), tqs.DivergenceError, "not finite"),
        (lambda z: torch.from_numpy(z.detach().numpy() * 1), tqs.ArgumentError, "no gradient"),
    ],
    ids=["detached", "rounded", "square root of 0", "numpy"],
)
def test_a_step_without_a_gradient_is_refused(change, error, message):
    def step(module, state):
        state = change(module.map(state))
        return state, state

    module = linear_system(rotation(0.3)).module
    system = tqs.System(module, step=step, initial_state=lambda n, g: 4 * torch.randn(n, 2, generator=g))
    with pytest.raises(error, match=message):
        tqs.score(system, horizon=5, method=tqs.Adjoint(), initial=tqs.Attractor(count=4, spin_up=0))


def test_bad_arguments():
    with pytest.raises(tqs.ArgumentError, match="probes must be at least 1"):
        tqs.Adjoint(probes=0)
    with pytest.raises(tqs.ArgumentError, match="bits must be increasing"):
        tqs.Adjoint(bits=(4, 2))


def test_it_ranks_the_layers_of_lorenz_gru_as_residual_does_where_errors_are_small():
    """8 bits, where the first order holds; a seventh of a unit of gain is what 64 initial conditions leave."""
    system = tqs.load_system("lorenz-gru")
    arguments = {"horizon": 24, "initial": tqs.Attractor(count=64)}
    adjoint = tqs.score(system, method=tqs.Adjoint(probes=8, bits=(8,)), **arguments)
    tangent = tqs.score(system, method=tqs.Tangent(probes=8, bits=(8,)), **arguments)
    residual = tqs.score(system, method=tqs.Residual(bits=(8,)), **arguments)
    assert spearmanr(adjoint.gain, tangent.gain)[0] > 0.85
    assert np.median(abs(np.log(adjoint.gain / tangent.gain))) < 0.5
    assert spearmanr(adjoint.damage[:, 0], residual.damage[:, 0])[0] > 0.6
    assert abs(np.log(np.median(adjoint.damage / residual.damage))) < 0.7
