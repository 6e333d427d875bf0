"""Initial conditions: families, reproducibility, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tqs_fast.errors import ArgumentError, DivergenceError
from tqs_fast.systems import (
    Attractor,
    Contexts,
    Forecaster,
    Recurrent,
    States,
    Synthetic,
    System,
    draw,
    in_float64,
    iterate,
)
from tqs_fast.systems.tree import Tree, tree_leaves

CONTEXT = 24


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def logistic(rate: float) -> Recurrent:
    """x -> rate x (1 - x): chaotic at 4, a fixed point at 2.5 and a cycle of two at 3.2; diverges above 4."""
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(rate)

    def step(module: torch.nn.Module, state: Tree) -> tuple[Tree, torch.Tensor]:
        x = state["x"]
        following = module(x) * (1 - x)
        return {"x": following}, following

    def start(count: int, generator: torch.Generator) -> Tree:
        return {"x": 0.1 + 0.8 * torch.rand(count, 1, generator=generator)}

    return Recurrent(module, step=step, initial_state=start, name="logistic")


def accumulator() -> Recurrent:
    """A driven system whose state is the sum of its inputs: what was consumed can be read off."""

    def step(module: torch.nn.Module, state: Tree, chunk: torch.Tensor) -> tuple[Tree, torch.Tensor]:
        return state + chunk, state + chunk

    return Recurrent(
        torch.nn.Linear(1, 1),
        step=step,
        initial_state=lambda count, generator: torch.zeros(count, 1),
        inputs=lambda count, steps, generator: torch.randn(count, steps, 1, generator=generator),
        name="accumulator",
    )


def forecaster(channels: int = 1, dtype: torch.dtype = torch.float32) -> Forecaster:
    """Rotates (last, last but one) by a fixed angle: an undamped oscillation."""
    module = torch.nn.Linear(1, 1, bias=False).to(dtype)
    module.weight.data.fill_(2 * np.cos(0.7))

    def predict(module: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
        return module(window[:, -1, :, None])[..., 0] - window[:, -2]

    def start(count: int, generator: torch.Generator) -> Tree:
        return torch.randn(count, CONTEXT, channels, generator=generator).to(dtype)

    return Forecaster(module, CONTEXT, channels=channels, predict=predict, initial_state=start, name="oscillator")


def assert_same(one: States, two: States) -> None:
    for a, b in zip(tree_leaves(one.state), tree_leaves(two.state), strict=True):
        assert torch.equal(a, b)


ALL = [Attractor(5), Synthetic(4), Contexts(torch.ones(3, CONTEXT, 1), name="real")]


def test_families_are_kept_apart() -> None:
    states = draw([*ALL, Attractor(2)], forecaster(), horizon=10, seed=3)
    assert states.families == ("attractor", "synthetic", "real", "attractor-2")
    assert states.family_of.dtype == np.int64
    assert states.family_of.tolist() == [0] * 5 + [1] * 4 + [2] * 3 + [3] * 2
    assert states.count == 14
    assert states.state.shape == (14, CONTEXT, 1)
    assert states.inputs is None
    described = json.loads(json.dumps(states.description))
    assert [one["method"] for one in described] == ["attractor", "synthetic", "contexts", "attractor"]
    assert [one["count"] for one in described] == [5, 4, 3, 2]
    assert [one["spin_up"] for one in described] == [64, 0, 0, 64]
    assert [one["seed"] for one in described] == [3, 3, None, 3]


def test_two_families_of_one_method_differ() -> None:
    states = draw([Attractor(3), Attractor(3)], forecaster(), horizon=10)
    assert not torch.equal(states.state[:3], states.state[3:])


@pytest.mark.parametrize("system", [forecaster(), logistic(4.0), accumulator()], ids=lambda system: system.name)
def test_same_seed_same_states_for_any_number_of_threads(system: System) -> None:
    drawn = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        drawn.append(draw(Attractor(6), system, horizon=10, seed=11))
        assert torch.get_num_threads() == threads
    assert_same(drawn[0], drawn[1])
    assert_same(drawn[0], drawn[2])
    other = draw(Attractor(6), system, horizon=10, seed=12)
    assert not torch.equal(tree_leaves(other.state)[0], tree_leaves(drawn[0].state)[0])


def test_attractor_is_where_the_float_model_lands() -> None:
    system = logistic(4.0)
    start = draw(Attractor(4, spin_up=0), system, horizon=1, seed=5)
    landed = draw(Attractor(4, spin_up=9), system, horizon=1, seed=5)
    path = list(iterate(system, start.state, None, 9))
    assert torch.equal(path[-1][0]["x"], landed.state["x"])


def test_default_spin_up_fills_the_window_with_forecasts() -> None:
    long = Forecaster(
        torch.nn.Linear(1, 1), 300, block=3, predict=lambda module, window: -window[:, -3:], name="sign flip"
    )
    assert draw(Attractor(2), long, horizon=3).description[0]["spin_up"] == 100
    assert draw(Attractor(2), logistic(4.0), horizon=3).description[0]["spin_up"] == 64


def test_driven_spin_up_consumes_the_first_inputs() -> None:
    system = accumulator()
    fresh = draw(Attractor(3, spin_up=0), system, horizon=20, seed=2)
    # the generator is used in the same order, so that the longer stream is another; its own sums are what must agree
    states = draw(Attractor(3, spin_up=8), system, horizon=20, seed=2)
    assert fresh.inputs is not None
    assert states.inputs is not None
    assert states.inputs.shape == (3, 20, 1)
    assert fresh.inputs.shape == (3, 20, 1)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([2, 0]).generate_state(1, np.uint64)[0]))
    stream = torch.randn(3, 28, 1, generator=generator)
    assert torch.equal(states.inputs, stream[:, 8:])
    torch.testing.assert_close(states.state, stream[:, :8].sum(dim=1))


@pytest.mark.parametrize(("rate", "message"), [(2.5, "died to a constant"), (4.5, "diverged")])
def test_bad_spin_up_is_refused(rate: float, message: str) -> None:
    with pytest.raises(
        DivergenceError, match=rf"^\[spin_up\] logistic: \d of 6 initial conditions .* {message}.*use Contexts \(states"
    ):
        draw(Attractor(6), logistic(rate), horizon=10)


def test_a_bad_spin_up_advises_synthetic_states_only_where_there_are_some() -> None:
    system = forecaster()
    system.module.weight.data.fill_(torch.inf)
    with pytest.raises(DivergenceError, match="use Contexts or Synthetic initial"):
        draw(Attractor(6, spin_up=64), system, horizon=10)
    draw(Synthetic(2), system, horizon=1)


def test_a_cycle_is_not_a_constant() -> None:
    draw(Attractor(6), logistic(3.2), horizon=10)


def test_one_dead_initial_condition_is_named() -> None:
    """Number 2 starts at the fixed point 0."""
    system = logistic(4.0)
    start = system.initial_state

    def one_dead(count: int, generator: torch.Generator) -> Tree:
        x = start(count, generator)["x"]
        x[2] = 0.0
        return {"x": x}

    system.initial_state = one_dead
    with pytest.raises(DivergenceError, match=r"1 of 6 initial conditions \(number 2\) died"):
        draw(Attractor(6), system, horizon=10)


def test_a_few_that_come_to_rest_are_set_aside_and_counted() -> None:
    """Of 16 + 2 candidates number 3 starts at the fixed point 0: numbers 0 to 16 without it are kept."""
    system = logistic(4.0)
    start = system.initial_state

    def one_dead(count: int, generator: torch.Generator) -> Tree:
        x = start(count, generator)["x"]
        x[3] = 0.0
        return {"x": x}

    healthy = draw(Attractor(18), system, horizon=4)
    system.initial_state = one_dead
    states = draw(Attractor(16), system, horizon=4)
    assert states.description[0]["set_aside"] == 1
    kept = [i for i in range(17) if i != 3]
    assert torch.equal(states.state["x"], healthy.state["x"][kept])
    assert draw(Attractor(16), logistic(4.0), horizon=4).description[0]["set_aside"] == 0


def test_a_driven_system_may_rest_with_its_input() -> None:
    system = accumulator()

    def one_silent(count: int, steps: int, generator: torch.Generator) -> Tree:
        inputs = torch.randn(count, steps, 1, generator=generator)
        inputs[1] = 0.0
        return inputs

    system.inputs = one_silent
    draw(Attractor(3), system, horizon=10)
    system.inputs = lambda count, steps, generator: torch.zeros(count, steps, 1)
    with pytest.raises(DivergenceError, match=r"3 of 3 initial conditions .* died"):
        draw(Attractor(3), system, horizon=10)


def test_a_constant_channel_beside_a_lively_one_is_fine() -> None:
    system = logistic(4.0)
    step = system.step
    system.step = lambda module, state: (
        step(module, state)[0],
        torch.cat([step(module, state)[1], torch.ones(6, 1)], dim=1),
    )
    draw(Attractor(6), system, horizon=10)


@pytest.mark.parametrize("kind", ["random_walk", "seasonal", "gaussian_process", "trend"])
def test_synthetic_windows_are_standardised_and_different(kind: str) -> None:
    windows = draw(Synthetic(6, (kind,)), forecaster(channels=2), horizon=1).state
    assert windows.shape == (6, CONTEXT, 2)
    assert windows.dtype == torch.float32
    torch.testing.assert_close(windows.mean(dim=1), torch.zeros(6, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(windows.std(dim=1, correction=0), torch.ones(6, 2), atol=1e-5, rtol=0)
    # two lines are alike by nature: compare what is left when neighbours are subtracted twice
    series = windows.permute(0, 2, 1).reshape(12, CONTEXT).diff(n=2 if kind == "trend" else 0, dim=1)
    assert torch.corrcoef(series).fill_diagonal_(0).abs().max() < 0.999


def test_synthetic_kinds_take_turns_and_have_their_character() -> None:
    long = Forecaster(torch.nn.Linear(1, 1), 2048, predict=lambda module, window: window[:, -1])
    windows = draw(Synthetic(40), long, horizon=1).state[..., 0].double()
    walk, seasonal, process, trend = (windows[kind::4] for kind in range(4))
    power = torch.fft.rfft(seasonal).abs().square()[:, 1:]
    # three sinusoids, three overtones, a trend: a few lines hold most of the power
    assert (power.topk(20, dim=1).values.sum(dim=1) / power.sum(dim=1)).median() > 0.8
    steps = walk.diff(dim=1)
    # the steps of a random walk are white, those of a smooth process are not
    assert (steps[:, 1:] * steps[:, :-1]).mean(dim=1).abs().div(steps.var(dim=1)).max() < 0.1
    smooth = process.diff(dim=1)
    assert (smooth[:, 1:] * smooth[:, :-1]).mean(dim=1).div(smooth.var(dim=1)).min() > 0.9
    # at least 96 % of the variance of a trend is a parabola
    powers = torch.linspace(-1, 1, 2048, dtype=torch.float64)[:, None] ** torch.arange(3)
    left = trend.T - powers @ torch.linalg.lstsq(powers, trend.T).solution
    assert left.square().mean(dim=0).max() < 0.04
    assert left.square().mean(dim=0).min() > 1e-5
    names = draw([Synthetic(4), Synthetic(2, ("seasonal",))], long, horizon=1).families
    assert names == ("synthetic", "seasonal")


def test_synthetic_follows_the_dtype_of_the_system() -> None:
    assert draw(Synthetic(2), forecaster(dtype=torch.bfloat16), horizon=1).state.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_random_windows_follow_the_dtype_of_the_module(dtype: torch.dtype) -> None:
    """The same numbers, rounded: the step of a module in another precision meets windows that it can multiply."""
    system = Forecaster(torch.nn.Linear(1, 1).to(dtype), CONTEXT, predict=lambda module, window: module(window[:, -1]))
    windows = system.initial_state(3, torch.Generator().manual_seed(4))
    expected = torch.randn(3, CONTEXT, 1, generator=torch.Generator().manual_seed(4))
    assert windows.dtype == dtype
    assert torch.equal(windows, expected.to(dtype))
    draw(Attractor(3, spin_up=1), system, horizon=1)


def test_a_step_that_writes_into_what_it_is_given_is_refused() -> None:
    """Every rollout begins at the drawn states; a step that moves them gave damages of 4 at 8 bits."""

    def in_state(module: torch.nn.Module, state: Tree, chunk: torch.Tensor) -> tuple[Tree, torch.Tensor]:
        state += chunk
        return state, state.clone()

    def in_input(module: torch.nn.Module, state: Tree, chunk: torch.Tensor) -> tuple[Tree, torch.Tensor]:
        chunk[:] = chunk + state
        return chunk.clone(), chunk.clone()

    def in_a_copy(module: torch.nn.Module, state: Tree, chunk: torch.Tensor) -> tuple[Tree, torch.Tensor]:
        state = state.clone()
        state += chunk
        return state, state.clone()

    system = accumulator()
    for step in (in_state, in_input):
        system.step = step
        with pytest.raises(ArgumentError, match="accumulator: the step writes into the state or the input"):
            draw(Attractor(3), system, horizon=2)
    system.step = in_a_copy
    assert_same(draw(Attractor(3), system, horizon=2), draw(Attractor(3), accumulator(), horizon=2))


def test_synthetic_inputs_of_a_driven_system() -> None:
    states = draw(Synthetic(3), accumulator(), horizon=7)
    assert states.inputs is not None
    assert states.inputs.shape == (3, 7, 1)
    assert torch.equal(states.state, torch.zeros(3, 1))


def test_synthetic_needs_windows_or_inputs() -> None:
    with pytest.raises(ArgumentError, match=r"^\[draw\] Synthetic .* logistic is neither; use Attractor"):
        draw(Synthetic(), logistic(4.0), horizon=1)


def test_contexts_become_the_dtype_of_the_system_and_are_copied() -> None:
    windows = np.random.default_rng(0).normal(size=(4, CONTEXT, 1))
    state = draw(Contexts(windows), forecaster(), horizon=1).state
    assert state.dtype == torch.float32
    np.testing.assert_allclose(state.numpy(), windows, rtol=1e-6)
    tensor = torch.zeros(2, CONTEXT, 1)
    draw(Contexts(tensor), forecaster(), horizon=1).state.add_(1)
    assert torch.equal(tensor, torch.zeros(2, CONTEXT, 1))


def test_contexts_state_tree_and_inputs() -> None:
    states = draw(Contexts({"x": np.full((3, 1), 0.3)}), logistic(4.0), horizon=4)
    assert states.state["x"].dtype == torch.float32
    driven = draw(Contexts(torch.zeros(2, 1), inputs=np.ones((2, 9, 1))), accumulator(), horizon=5)
    assert driven.inputs is not None
    assert driven.inputs.shape == (2, 5, 1)


def test_contexts_nan_only_on_request() -> None:
    windows = torch.zeros(2, CONTEXT, 1)
    windows[1, 3] = torch.nan
    with pytest.raises(ArgumentError, match=r"windows: nan at \[1, 3, 0\].*allow_nan=True"):
        draw(Contexts(windows), forecaster(), horizon=1)
    assert draw(Contexts(windows, allow_nan=True), forecaster(), horizon=1).state.isnan().sum() == 1
    windows[0, 0] = -torch.inf
    with pytest.raises(ArgumentError, match=r"windows: -inf at \[0, 0, 0\]$"):
        draw(Contexts(windows, allow_nan=True), forecaster(), horizon=1)


@pytest.mark.parametrize(
    ("system", "contexts", "message"),
    [
        (forecaster(), Contexts(torch.zeros(4, CONTEXT + 1, 1)), r"expected shape \[N, 24, 1\], got \[4, 25, 1\]"),
        (forecaster(), Contexts(torch.zeros(4, CONTEXT)), r"expected shape \[N, 24, 1\], got \[4, 24\]"),
        (forecaster(), Contexts(torch.zeros(0, CONTEXT, 1)), "one number N >= 1"),
        (forecaster(), Contexts([[1.0]]), "expected a tensor or an array, got list"),
        (forecaster(), Contexts(np.array(["a"])), "expected numbers, got an array of dtype <U1"),
        (forecaster(), Contexts(torch.zeros(4, CONTEXT, 1), inputs=torch.zeros(4, 9, 1)), "takes no inputs"),
        (logistic(4.0), Contexts(torch.zeros(4, 1)), r"expected a dict with keys \['x'\], got Tensor"),
        (logistic(4.0), Contexts({"y": torch.zeros(4, 1)}), r"expected a dict with keys \['x'\], got keys \['y'\]"),
        (accumulator(), Contexts(torch.zeros(4, 1)), r"is driven; give inputs as a tree of \[N, >= 8"),
        (accumulator(), Contexts(torch.zeros(4, 1), torch.zeros(4, 7, 1)), r"expected inputs of shape \[4, >= 8"),
        (accumulator(), Contexts(torch.zeros(4, 1), torch.zeros(3, 9, 1)), r"expected inputs of shape \[4, >= 8"),
        (accumulator(), Contexts(torch.zeros(4, 1), torch.zeros(4, 9, 2)), r"expected shape \[N, steps, 1\]"),
    ],
)
def test_contexts_that_do_not_fit(system: System, contexts: Contexts, message: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^\[Contexts\] .*{message}"):
        draw(contexts, system, horizon=8)


def test_contexts_check_tuples_and_integers() -> None:
    def start(count: int, generator: torch.Generator) -> Tree:
        return torch.zeros(count, 1), torch.zeros(count, 3, dtype=torch.int64)

    system = System(torch.nn.Linear(1, 1), step=lambda module, state: (state, state[0]), initial_state=start)
    state = draw(Contexts([torch.ones(2, 1), np.ones((2, 3), dtype=np.int32)]), system, horizon=1).state
    assert isinstance(state, tuple)
    assert state[1].dtype == torch.int64
    with pytest.raises(ArgumentError, match="expected 2 items in a tuple or list, got 1 items"):
        draw(Contexts([torch.ones(2, 1)]), system, horizon=1)
    with pytest.raises(ArgumentError, match=r"windows\[1\]: expected integers"):
        draw(Contexts([torch.ones(2, 1), torch.ones(2, 3)]), system, horizon=1)
    with pytest.raises(ArgumentError, match=r"one number N >= 1 of initial conditions, got \[1, 2\]"):
        draw(Contexts([torch.ones(2, 1), torch.ones(1, 3).long()]), system, horizon=1)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"^\[Attractor\] count must be an integer of at least 1, got 0"):
        Attractor(0)
    with pytest.raises(ArgumentError, match=r"^\[Attractor\] spin_up must be an integer of at least 0, got -1"):
        Attractor(4, spin_up=-1)
    with pytest.raises(ArgumentError, match=r"^\[Synthetic\] count must be an integer of at least 1, got 2.5"):
        Synthetic(2.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^\[Synthetic\] kinds must be some of .*got \('walk',\)"):
        Synthetic(4, ("walk",))
    with pytest.raises(ArgumentError, match=r"^\[draw\] initial is an empty sequence"):
        draw([], forecaster(), horizon=1)
    with pytest.raises(ArgumentError, match=r"^\[draw\] expected Attractor, Contexts or Synthetic, .*got int"):
        draw([3], forecaster(), horizon=1)  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match=r"^\[draw\] horizon must be an integer of at least 1, got 0"):
        draw(Attractor(2), forecaster(), horizon=0)
    with pytest.raises(ArgumentError, match=r"^\[draw\] seed must be an integer of at least 0, got -1"):
        draw(Attractor(2), forecaster(), horizon=1, seed=-1)


def test_templates_are_drawn_once_and_by_each_twin():
    drawn: list[int] = []

    def start(count: int, generator: torch.Generator) -> torch.Tensor:
        drawn.append(count)
        return torch.zeros(count, 2)

    system = System(torch.nn.Linear(2, 2), step=lambda module, state: (module(state), state), initial_state=start)
    twin = in_float64(system)
    before = len(drawn)
    for _ in range(3):
        assert system.state_template.dtype == torch.float32
        assert twin.state_template.dtype == torch.float64
    assert len(drawn) == before + 2
    assert system.input_template is None
