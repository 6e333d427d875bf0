"""Scores against closed forms and NumPy, checkpoints, chunking, determinism and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from networks import cells_system, linear_system, rotation
from tqs_fast.scoring.checkpoint import Checkpoint
from tqs_fast.scoring.growth import growth_rate

START = torch.tensor([[1.0, 0.0], [0.3, -0.8], [-1.2, 0.4]])


def roll(matrix: np.ndarray, steps: int) -> np.ndarray:
    """[T, N, 2] in float64."""
    z, path = START.double().numpy(), []
    for _ in range(steps):
        z = z @ matrix.T
        path.append(z)
    return np.stack(path)


def test_damage_of_a_linear_map_equals_numpy():
    matrix = rotation(0.3) + torch.tensor([[0.0, 0.01], [0.02, 0.0]])
    quantizer = tqs.Quantizer(group_size=0)
    table = tqs.score(
        linear_system(matrix), horizon=12, initial=tqs.Contexts(START), method=tqs.Residual(quantizer=quantizer)
    )
    reference = roll(matrix.double().numpy(), 12)
    scale = reference.reshape(-1, 2).std(axis=0)
    for column, bits in enumerate(table.bits):
        rounded = quantizer.dequantized(matrix, bits).double().numpy()
        error = (roll(rounded, 12) - reference) / scale
        np.testing.assert_allclose(table.samples[0, column], (error**2).mean(axis=(0, 2)), rtol=1e-3, atol=1e-11)
        np.testing.assert_allclose(table.curve[0, column], (error**2).mean(axis=(1, 2)), rtol=1e-3, atol=1e-11)
        energy = ((rounded - matrix.double().numpy()) ** 2).sum() / (matrix.double().numpy() ** 2).sum()
        assert table.relative_error[0, column] == pytest.approx(energy, rel=1e-6)
    assert table.gain[0] == pytest.approx(table.damage[0, -1] / table.relative_error[0, -1])


def test_noise_gain_equals_the_exact_expectation():
    """Damage of A + δ averaged over isotropic δ, to first order: ‖∂Y/∂A‖_F² ‖δ‖² / 4, by float64 finite differences."""
    matrix, horizon = rotation(0.4, 0.97), 8
    table = tqs.score(
        linear_system(matrix), horizon=horizon, initial=tqs.Contexts(START), method=tqs.Noise(probes=400, epsilon=1e-3)
    )
    base = matrix.double().numpy()
    reference = roll(base, horizon)
    scale = reference.reshape(-1, 2).std(axis=0)
    squares = []
    for i in range(2):
        for j in range(2):
            step = np.zeros((2, 2))
            step[i, j] = 1e-6
            squares.append(((((roll(base + step, horizon) - roll(base - step, horizon)) / 2e-6) / scale) ** 2).mean())
    expected = sum(squares) / 4 * (base**2).sum()
    # 400 probes in 4 dimensions: the spread of a quadratic form is at most its mean, so 5 standard errors are 25 %.
    assert table.gain[0] == pytest.approx(expected, rel=0.25)
    assert table.damage[0] == pytest.approx(table.gain[0] * table.relative_error[0])
    # The spread of 400 probes, seen again in the spread of 20 tables of 20 probes each.
    few = [
        tqs.score(
            linear_system(matrix),
            horizon=horizon,
            initial=tqs.Contexts(START),
            method=tqs.Noise(probes=20, epsilon=1e-3),
            seed=seed,
        )
        for seed in range(1, 21)
    ]
    observed = np.std([t.damage[0, 0] for t in few], ddof=1)
    stated = np.sqrt(np.mean([t.probe_stderr[0, 0] ** 2 for t in few]))
    # The ratio of two such standard deviations has a relative spread of about 1/sqrt(2 * 19) = 16 %.
    assert 0.5 < observed / stated < 1.5
    assert (table.stderr >= table.probe_stderr).all()


def test_noise_has_the_stated_size_and_its_own_stream_per_layer_probe_and_seed():
    method, weight = tqs.Noise(probes=2, epsilon=0.03), torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    keys = [(name, k, seed) for name in ("a", "b") for k in (0, 1) for seed in (0, 1)]
    draws = [method.variant(name, weight, k, seed).tensor(weight) for name, k, seed in keys]
    for draw in draws:
        assert float((draw - weight).norm() / weight.norm()) == pytest.approx(0.03, rel=1e-5)
    assert len({draw.numpy().tobytes() for draw in draws}) == len(draws)
    assert torch.equal(draws[0], method.variant("a", weight, 0, 0).tensor(weight))


def test_growth_rate_of_known_curves():
    t = np.arange(40)
    assert growth_rate(1e-8 * np.exp(2 * 0.21 * t))[0] == pytest.approx(0.21)
    assert growth_rate(1e-3 * np.exp(-2 * 0.3 * t))[0] == pytest.approx(-0.3)
    saturating = np.minimum(1e-4 * np.exp(2 * 0.25 * t), 2.0)
    rate, (first, end) = growth_rate(saturating)
    assert rate == pytest.approx(0.25)
    assert (first, end) == (0, int(np.flatnonzero(saturating >= 0.1)[0]))
    assert np.isnan(growth_rate(np.zeros(10))[0])
    assert np.isnan(growth_rate(np.full(10, np.inf))[0])
    assert growth_rate(np.full(10, np.inf))[1] == (0, 0)


def test_growth_rate_of_an_unstable_map():
    """The error of a map with radius 1.05 obeys e_t ~ t · 1.05^t: its log slope exceeds log 1.05 and tends to it."""
    table = tqs.score(linear_system(rotation(0.3, 1.05)), horizon=60, initial=tqs.Contexts(START))
    assert np.log(1.05) < table.growth_rate[0] < np.log(1.05) + 0.1


def test_scores_do_not_depend_on_chunks_threads_or_repetition():
    system = cells_system()
    arguments = {"horizon": 10, "initial": tqs.Attractor(count=4, spin_up=4)}
    first = tqs.score(system, **arguments)
    again = tqs.score(system, **arguments)
    np.testing.assert_array_equal(first.samples, again.samples)
    small = tqs.score(system, **arguments, memory_limit=60_000)
    assert small.provenance["fingerprint"]["chunks"] != first.provenance["fingerprint"]["chunks"]
    np.testing.assert_allclose(small.samples, first.samples, rtol=1e-3, atol=1e-12)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = tqs.score(system, **arguments)
        torch.set_num_threads(2)
        two = tqs.score(system, **arguments)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(one.samples, two.samples, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("method", [tqs.Residual(), tqs.Noise(probes=3)], ids=["residual", "noise"])
@pytest.mark.parametrize(("engine", "limit"), [("torch", 60_000), ("native", 20_000)])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, method, engine, limit):
    system = cells_system()
    arguments = {"horizon": 10, "initial": tqs.Attractor(count=4, spin_up=4), "method": method}
    arguments |= {"memory_limit": limit, "engine": engine}
    whole = tqs.score(system, **arguments)
    folder = tmp_path / "run"

    def kill(done: int, total: int) -> None:
        assert total >= 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tqs.score(system, **arguments, checkpoint=folder, progress=kill)
    assert len(list(folder.glob("chunk-*.npz"))) == 2
    (folder / "chunk-00001.npz").write_bytes((folder / "chunk-00001.npz").read_bytes()[:100])  # a torn file is redone
    before = (folder / "chunk-00000.npz").stat().st_mtime_ns
    resumed = tqs.score(system, **arguments, checkpoint=folder)
    assert (folder / "chunk-00000.npz").stat().st_mtime_ns == before
    assert resumed.to_json() == whole.to_json()


def test_a_chunk_with_a_flipped_byte_is_computed_again(tmp_path):
    """Wherever it is: what is read is what was written, or nothing."""
    store, path = Checkpoint(tmp_path, {"a run": "of its own"}), tmp_path / "chunk-00000.npz"
    arrays = {"samples": np.arange(6.0).reshape(2, 3), "fell_back": np.array(False)}
    shapes = {key: array.shape for key, array in arrays.items()}
    store.save(0, arrays)
    whole, found = path.read_bytes(), 0
    for position, mask in itertools.product(range(len(whole)), (0x01, 0x80)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        read = store.load(0, shapes)
        found += read is None
        assert read is None or all(read[key].tobytes() == array.tobytes() for key, array in arrays.items())
    assert found > len(whole)


class Dropped(torch.nn.Module):
    """Dropout that ignores eval mode."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.Linear(2, 2)

    def forward(self, window):
        return torch.nn.functional.dropout(self.cell(window[:, -1]), 0.1)


@pytest.mark.parametrize("engine", ["auto", "torch", "serial"])
def test_a_step_that_draws_random_numbers_is_refused(engine):
    """They would count as errors of the weights, and no two runs would agree."""
    system = tqs.Forecaster(Dropped(), 1, channels=2)
    arguments = {"horizon": 4, "initial": tqs.Contexts(torch.ones(3, 1, 2))}
    for method in (tqs.Residual(), tqs.Adjoint(probes=1)):
        with pytest.raises(tqs.ArgumentError, match=r"draws random numbers, .*training=self\.training"):
            tqs.score(system, **arguments, method=method, engine=engine if method == tqs.Residual() else "auto")
    with pytest.raises(tqs.ArgumentError, match="draws random numbers"):
        tqs.evaluate(system, system.module, **arguments, engine="torch" if engine == "serial" else engine)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_step_that_draws_random_numbers_has_no_derivative(engine):
    """One draw is a trajectory; its tangents, each of a draw of its own, are those of none."""
    system, window = tqs.Forecaster(Dropped(), 1, channels=2), torch.ones(3, 1, 2)
    assert tqs.rollout(system, window, horizon=4, engine=engine).outputs.shape == (4, 3, 2)
    with pytest.raises(tqs.ArgumentError, match="no derivative"):
        tqs.rollout(system, window, horizon=4, tangents=torch.ones(2, 3, 1, 2), engine=engine)
    for method in ("qr", "krylov", "power"):
        with pytest.raises(tqs.ArgumentError, match="no derivative"):
            tqs.growth_rates(system, horizon=4, method=method, initial=tqs.Contexts(window), engine=engine)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    system = cells_system()
    arguments = {"horizon": 6, "initial": tqs.Attractor(count=2, spin_up=2)}
    tqs.score(system, **arguments, checkpoint=tmp_path / "run")
    for change, named in [
        ({"seed": 1}, "seed"),
        ({"horizon": 7}, "horizon"),
        ({"method": tqs.Noise(probes=2)}, "method"),
        ({"layers": "gru.*"}, "layers"),
    ]:
        with pytest.raises(tqs.CheckpointError, match=f"another run: .*{named}"):
            tqs.score(system, **arguments | change, checkpoint=tmp_path / "run")
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(tqs.CheckpointError, match=r"another run: .*tf32"):
            tqs.score(system, **arguments, checkpoint=tmp_path / "run")
        assert tqs.score(system, **arguments).provenance["engine"]["tf32"] is True
        assert tqs.evaluate(system, system.module, **arguments).provenance["engine"]["tf32"] is True
    finally:
        torch.set_float32_matmul_precision("highest")
    step = system.step
    system.step = lambda module, state: (step(module, state)[0], 0.5 * step(module, state)[1])
    with pytest.raises(tqs.CheckpointError, match="another run: float rollout differ"):
        tqs.score(system, **arguments, checkpoint=tmp_path / "run")
    system.step = step
    with torch.no_grad():
        system.module.out.weight[0, 0] += 1e-3
    with pytest.raises(tqs.CheckpointError, match="weights"):
        tqs.score(system, **arguments, checkpoint=tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(tqs.CheckpointError, match="no checkpoint of ours"):
        tqs.score(system, **arguments, checkpoint=tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(tqs.CheckpointError, match="choose another path"):
        tqs.score(system, **arguments, checkpoint=tmp_path / "file")


def test_families_count_equally_and_are_reported_apart():
    system = linear_system(rotation(0.3))
    families = [tqs.Contexts(START, name="few"), tqs.Contexts(START.repeat(4, 1) * 2, name="many")]
    table = tqs.score(system, horizon=5, initial=families)
    assert table.families == ("few", "many")
    np.testing.assert_allclose(table.damage, table.damage_of_family.mean(axis=0))
    result = tqs.evaluate(system, linear_system(rotation(0.3) * 1.01).module, horizon=5, initial=families)
    assert result.damage == pytest.approx(np.mean(list(result.damage_of_family.values())))


def test_evaluate_predicts_nothing_it_does_not_measure():
    matrix = rotation(0.3)
    system = linear_system(matrix)
    same = tqs.evaluate(system, linear_system(matrix).module, horizon=7, initial=tqs.Contexts(START))
    assert same.damage == 0
    changed = rotation(0.31)
    result = tqs.evaluate(system, linear_system(changed).module, horizon=7, initial=tqs.Contexts(START))
    reference, other = roll(matrix.double().numpy(), 7), roll(changed.double().numpy(), 7)
    error = (other - reference) / reference.reshape(-1, 2).std(axis=0)
    assert result.damage == pytest.approx((error**2).mean(), rel=1e-4)
    low, high = result.interval
    assert low <= result.damage <= high
    ratio, below, above = result.ratio(result)
    assert (ratio, below, above) == (1, 1, 1)
    broken = linear_system(rotation(0.3) * 1e30).module
    assert tqs.evaluate(system, broken, horizon=7, initial=tqs.Contexts(START)).damage == np.inf


def test_a_lane_that_diverges_is_reported_as_infinite():
    matrix = torch.tensor([[0.0, -1.0], [1.0, 0.0]])

    def step(module, state):
        excess = (module.map(state) - state @ matrix.T).abs().amax(dim=1, keepdim=True)
        state = module.map(state) + torch.where(excess > 1e-6, torch.inf, 0.0)
        return state, state

    module = linear_system(matrix + 0.01 * rotation(1.0)).module
    system = tqs.System(module, step=step, initial_state=lambda n, g: START)
    matrix.copy_(module.map.weight.detach())
    table = tqs.score(system, horizon=4, initial=tqs.Contexts(START))
    assert np.isinf(table.damage[0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"engine": "fast"}, "engine must be one of"),
        ({"layers": "nothing*"}, "matches no"),
        ({"layers": []}, "layers is empty"),
        ({"memory_limit": 10, "engine": "torch"}, "too small for one lane"),
        ({"memory_limit": 10, "engine": "native"}, "too small for"),
        ({"memory_limit": -1}, "memory_limit must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(tqs.ArgumentError, match=message):
        tqs.score(linear_system(rotation()), **{"horizon": 3, "initial": tqs.Contexts(START)} | arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tqs.Residual(bits=(5,)), "bits must be"),
        (lambda: tqs.Residual(bits=(8, 2)), "bits must be"),
        (lambda: tqs.Noise(probes=0), "probes"),
        (lambda: tqs.Noise(epsilon=2.0), "epsilon"),
        (lambda: tqs.Quantizer(group_size=7), "group_size"),
        (lambda: tqs.Quantizer(search="best"), "search"),
    ],
)
def test_bad_methods(make, message):
    with pytest.raises(tqs.ArgumentError, match=message):
        make()


def test_bad_weights_are_named():
    system = linear_system(rotation())
    with torch.no_grad():
        system.module.map.weight[1, 0] = torch.nan
    with pytest.raises(tqs.ArgumentError, match=r"map\.weight holds NaN or infinity, first at \[1, 0\]"):
        tqs.score(system, horizon=3, initial=tqs.Contexts(START))


def test_no_memory_is_explained_and_other_errors_are_not_hidden():
    def hungry(module, state):
        if len(state) > 6:  # the lanes of a chunk only: the reference and the checked steps have fewer rows
            torch.empty(2**60)
        state = module.map(state)
        return state, state

    module = linear_system(rotation()).module
    system = tqs.System(module, step=hungry, initial_state=lambda n, g: START[:n])
    with pytest.raises(tqs.OutOfMemoryError, match="lower memory_limit"):
        tqs.score(system, horizon=3, initial=tqs.Contexts(START), engine="torch")

    def broken(module, state):
        if len(state) > 6:
            raise RuntimeError("something else")
        return module.map(state), module.map(state)

    system = tqs.System(module, step=broken, initial_state=lambda n, g: START[:n])
    with pytest.raises(RuntimeError, match="something else"):
        tqs.score(system, horizon=3, initial=tqs.Contexts(START), engine="torch")


@pytest.mark.parametrize("block", [1, 3])
def test_a_forecaster_with_channels_and_blocks(block):
    """Block outputs, a horizon that cuts the last block, lanes against the serial path, and the packed model."""

    class Blocks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(2, 24, batch_first=True)
            self.out = torch.nn.Linear(24, 2 * block)

        def forward(self, window):
            features, _ = self.gru(window)
            return window[:, -1:] * 0.5 + self.out(features[:, -1]).reshape(-1, block, 2).sin()

    torch.manual_seed(0)
    system = tqs.Forecaster(Blocks(), 12, channels=2, block=block)
    arguments = {"horizon": 7, "initial": tqs.Synthetic(count=6)}
    lanes = tqs.score(system, **arguments)
    assert lanes.provenance["engine"]["serial"] == {}
    assert lanes.curve.shape == (3, 4, 7)
    serial = tqs.score(system, engine="serial", **arguments)
    np.testing.assert_allclose(lanes.samples, serial.samples, rtol=1e-3, atol=1e-11)
    plan = tqs.allocate(lanes, average_bits=12.0)
    small = tqs.quantize(system.module, plan)
    result = tqs.evaluate(system, small, seed=0, **arguments)
    assert 0.1 < result.damage / plan.predicted_damage < 10
    with pytest.raises(tqs.ArgumentError, match="check block and channels"):
        tqs.score(
            tqs.Forecaster(Blocks(), 12, channels=1, block=block, predict=lambda m, w: m(w.repeat(1, 1, 2))), horizon=3
        )
