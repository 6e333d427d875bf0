"""The evaluation suite's harness: resuming, sizes, figures of merit, verdicts, and judges that scoring never saw."""

from __future__ import annotations

import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import tqs_fast as tqs
from evaluate import cells, condense, methods, statistics, tables
from evaluate.judging import Rolls
from evaluate.subject import Judge, Subject, naive_error
from evaluate.systems import built_in, forms, trained
from evaluate.systems.flows import FLOWS, runge_kutta, scaling
from evaluate.systems.networks import LongShortTerm, Mixer
from evaluate.systems.recordings import RECORDINGS
from evaluate.systems.rows import ROWS
from evaluate.systems.training import Recipe, Stage, train
from networks import cells_system
from tqs_fast.systems import draw, lorenz63
from tqs_fast.systems.tree import tree_leaves

COUNT = 6
GRID = {"systems": ["tiny"], "horizons": (6,), "average_bits": (2.5, 4.0), "seeds": (0,)}
BASIC = tuple(method for method in methods.METHODS if method.name in ("uniform", "uniform-filled", "residual"))
NOISE = methods.Scored("noise", lambda: tqs.Noise(probes=2, bits=methods.BITS, quantizer=methods.QUANTIZER), rival=True)


def tiny(seed=0):
    system = cells_system(seed=seed)
    system.name = "tiny"

    def judges(seed, horizon):
        state = system.initial_state(COUNT, torch.Generator().manual_seed(seed))
        truth = np.random.default_rng(seed).standard_normal((COUNT, horizon, 3))
        return [Judge("attractor", tqs.Attractor(COUNT, 0)), Judge("truth", tqs.Contexts(state, name="t"), truth, 0.5)]

    return Subject(system, (tqs.Attractor(4, 0),), judges, 0.1)


def contents(folder):
    """Of every cell, without what depends on the clock."""
    found = {}
    for path in sorted((folder / "cells").rglob("*.json")):
        document = json.loads(path.read_text())
        for entry in document["methods"].values():
            entry.pop("plan_seconds")
            entry.pop("score", None)
        found[path.name] = document
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    cells.run(lambda name: tiny(), folder, methods=(*BASIC, NOISE), **GRID)
    return folder


# ---------------------------------------------------------------- running and resuming


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, whole, monkeypatch):
    def kill(cell, document, seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cells.run(lambda name: tiny(), tmp_path, methods=(*BASIC, NOISE), report=kill, **GRID)
    (first,) = (tmp_path / "cells").rglob("*.json")
    before = first.read_bytes(), first.stat().st_mtime_ns
    scored = []
    real = cells.scored
    monkeypatch.setattr(cells, "scored", lambda method, *a, **k: scored.append(method.name) or real(method, *a, **k))
    cells.run(lambda name: tiny(), tmp_path, methods=(*BASIC, NOISE), **GRID)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert scored == []  # tables were kept too
    assert contents(tmp_path) == contents(whole)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_method_that_is_added_is_the_only_one_computed(tmp_path, whole):
    cells.run(lambda name: tiny(), tmp_path, methods=BASIC, **GRID)
    assert "noise" not in next(iter(contents(tmp_path).values()))["methods"]
    cells.run(lambda name: tiny(), tmp_path, methods=(*BASIC, NOISE), **GRID)
    assert contents(tmp_path) == contents(whole)


def test_cells_of_other_weights_are_refused(tmp_path):
    cells.run(lambda name: tiny(), tmp_path, methods=BASIC, **GRID)
    with pytest.raises(ValueError, match="other weights"):
        cells.run(lambda name: tiny(seed=1), tmp_path, methods=BASIC, **GRID)


def test_a_search_lets_every_earlier_plan_compete(tmp_path, whole):
    method = methods.Searched("found", start="residual", evaluations=12)
    cells.run(lambda name: tiny(), tmp_path, methods=(*BASIC, NOISE, method), **GRID)
    for name, document in contents(tmp_path).items():
        entry = document["methods"].pop("found")
        assert entry["bytes"] <= document["budget_bytes"]
        cost = entry["search"]
        assert cost["evaluations"] <= 12
        assert cost["damage"] <= cost["start_damage"]
        assert cost["chosen"].startswith(("start", "uniform", "noise", "searched"))
        for judge in document["judges"].values():
            judge["damage"].pop("found")
            for figure in ("mae", "valid"):
                judge.get(figure, {}).pop("found", None)
        assert document == contents(whole)[name]  # nothing else changed
    again = tmp_path / "again"  # a search that was made before a method joined is made again
    cells.run(lambda name: tiny(), again, methods=(*BASIC, method), **GRID)
    cells.run(lambda name: tiny(), again, methods=(*BASIC, NOISE, method), **GRID)
    for name, document in contents(again).items():
        other = contents(tmp_path)[name]
        for one in (document, other):
            for key in ("seconds", "table_seconds"):
                one["methods"]["found"]["search"].pop(key)
        assert document == other
        assert document["methods"]["found"]["search"]["against"] == ["uniform-filled", "noise"]
        assert list(document["methods"]) == ["uniform", "uniform-filled", "residual", "noise", "found"]
    assert "| found | tiny | 6 |" in tables.searches(condense.condense(condense.read_cells(tmp_path), [])["cells"])


def test_every_plan_keeps_to_the_size(whole):
    for document in contents(whole).values():
        for entry in document["methods"].values():
            assert 0 < entry["bytes"] <= document["budget_bytes"]
        assert document["methods"]["uniform-filled"]["bytes"] >= document["methods"]["uniform"]["bytes"]
    document = contents(whole)["6-4-0.json"]
    assert set(document["methods"]["uniform"]["bits"].values()) == {4}
    assert document["methods"]["uniform"]["bytes"] == document["budget_bytes"]
    assert set(contents(whole)["6-2.5-0.json"]["methods"]["uniform"]["bits"].values()) == {2}


def test_figures_are_those_of_the_packed_models(whole):
    subject = tiny()
    document = contents(whole)["6-2.5-0.json"]
    table = tqs.score(subject.system, horizon=6, initial=list(subject.scored_on))
    judge = subject.judges(cells.JUDGE_SEED, 6)[1]
    for name in ("uniform", "residual"):
        plan = tqs.Plan(document["methods"][name]["bits"], table.layers, table.quantizer)
        packed = tqs.quantize(subject.system.module, plan)
        for family in subject.judges(cells.JUDGE_SEED, 6):
            error = tqs.evaluate(subject.system, packed, horizon=6, initial=family.initial, seed=cells.JUDGE_SEED)
            np.testing.assert_allclose(document["judges"][family.name]["damage"][name], error.samples, rtol=1e-3)
        path = tqs.rollout(tqs.Recurrent(packed, step=subject.system.step, initial_state=subject.system.initial_state),
                           judge.initial.windows, horizon=6, engine="torch")  # fmt: skip
        expected = np.abs(path.outputs.transpose(0, 1).numpy() - judge.truth).mean(axis=(1, 2))
        np.testing.assert_allclose(document["judges"]["truth"]["mae"][name], expected, rtol=1e-3)


def test_damages_of_lanes_are_those_of_their_outputs():
    system = cells_system()
    rolls = Rolls(system, tqs.Attractor(5, 0), horizon=7, seed=3, quantizer=methods.QUANTIZER)
    plans = [dict.fromkeys(rolls.layers, 2), {rolls.layers[0]: 3}]
    reference = rolls.reference.outputs.double().numpy()
    found = statistics.damages(rolls.outputs(plans), reference, rolls.reference.scale.numpy())
    np.testing.assert_allclose(found, rolls.damages(plans), rtol=1e-4)
    assert float(found.min()) > 0


# ---------------------------------------------------------------- sizes and plans


def made_table(parameters):
    layers = tuple(tqs.Layer(f"l{i}", "Linear", (8, n // 8), n) for i, n in enumerate(parameters))
    shape = (len(layers), 4)
    zero = np.zeros(shape)
    return tqs.Sensitivity(
        layers, methods.BITS, methods.QUANTIZER, np.ones((*shape, 1)), ("a",), np.zeros(1, int), np.ones((*shape, 2)),
        zero, np.ones(len(layers)), np.zeros(len(layers)), np.zeros((len(layers), 2), int),
    )  # fmt: skip


def test_sizes_lie_between_uniform_plans():
    table = made_table((64, 256, 1024))
    two, three, four, eight = (
        sum(table.quantizer.bytes(layer.shape, b) for layer in table.layers) for b in (2, 3, 4, 8)
    )
    assert cells.size(table, 2.5) == (two + three) // 2
    assert cells.size(table, 3.0) == three
    assert cells.size(table, 4.0) == four
    assert cells.size(table, 5.0) == int(four + (eight - four) / 4)


def test_filled_uniform_takes_layers_in_order_while_they_fit():
    table = made_table((64, 1024, 256))
    uniform = methods.uniform(table, cells.size(table, 4.0))
    costs = [table.quantizer.bytes(layer.shape, 8) - table.quantizer.bytes(layer.shape, 4) for layer in table.layers]
    filled = methods.uniform_filled(table, uniform.bytes + costs[0] + costs[2])  # not enough for the large one
    assert list(filled.bits.values()) == [8, 4, 8]
    assert filled.bytes == uniform.bytes + costs[0] + costs[2]
    assert methods.uniform_filled(table, uniform.bytes).bits == uniform.bits
    nearly = methods.uniform_filled(table, uniform.bytes + costs[0] + costs[1] - 1)
    assert list(nearly.bits.values()) == [8, 4, 8]


# ---------------------------------------------------------------- figures of merit


def test_figures_by_hand():
    rng = np.random.default_rng(0)
    outputs, truth = rng.standard_normal((2, 5, 3, 2)), rng.standard_normal((5, 3, 2))
    scale = np.array([2.0, 0.5])
    damage = statistics.damages(outputs, truth, scale)
    errors = statistics.absolute_errors(outputs, truth)
    spread = truth.std(axis=(0, 1))
    valid = statistics.valid_values(outputs * 0.3 + truth, truth)
    for lane in range(2):
        for n in range(3):
            difference = outputs[lane, :, n] - truth[:, n]
            assert damage[lane, n] == pytest.approx((difference**2 / scale**2).mean())
            assert errors[lane, n] == pytest.approx(np.abs(difference).mean())
            t = 0
            while t < 5 and math.sqrt(((outputs[lane, t, n] * 0.3 / spread) ** 2).mean()) <= statistics.VALID:
                t += 1
            assert valid[lane, n] == t
    assert len(np.unique(valid)) > 2
    outputs[1, 3, 2] = np.nan
    assert np.isinf(statistics.damages(outputs, truth, scale)[1, 2])
    assert np.isinf(statistics.absolute_errors(outputs, truth)[1, 2])
    perfect = np.stack([truth, np.where(np.arange(5)[:, None, None] >= 2, np.nan, truth)])
    assert statistics.valid_values(perfect, truth).tolist() == [[5.0] * 3, [2.0] * 3]


def test_naive_error_skips_what_is_missing():
    contexts = np.array([[[np.nan], [1.0], [4.0], [2.0]], [[0.0], [0.0], [0.0], [8.0]]])
    assert naive_error(contexts, 1) == pytest.approx((3 + 2 + 0 + 0 + 8) / 5)
    assert naive_error(contexts, 2) == pytest.approx((1 + 0 + 8) / 3)


def test_known_wins_and_losses():
    rng = np.random.default_rng(1)
    base = {"a": np.exp(rng.standard_normal(40)), "b": 100 * np.exp(rng.standard_normal(30))}
    half = {name: samples * 0.5 for name, samples in base.items()}
    assert statistics.ratio(half, base).verdict == "win"
    assert statistics.ratio(base, half).verdict == "loss"
    found = statistics.ratio(half, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))  # the pairs are kept
    mixed = {"a": base["a"] * 0.5, "b": base["b"] * 8}  # each judge weighs the same, whatever its scale
    assert statistics.ratio(mixed, base).value == pytest.approx(2.0)
    other = {name: np.exp(rng.standard_normal(len(s))) * s.mean() / np.exp(0.5) for name, s in base.items()}
    assert statistics.ratio(other, base).verdict == "tie"
    assert statistics.ratio(base, base) == statistics.Ratio(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="same judges"):
        statistics.ratio({"a": base["a"]}, base)


def test_divergence_is_a_loss_and_two_say_nothing():
    fine, gone = np.ones(8), np.full(8, np.inf)
    assert statistics.ratio({"a": gone}, {"a": fine}).verdict == "loss"
    assert statistics.ratio({"a": fine}, {"a": gone}).verdict == "win"
    assert statistics.ratio({"a": gone}, {"a": gone}) == statistics.Ratio(1.0, 1.0, 1.0)
    assert statistics.ratio({"a": gone, "b": fine}, {"a": fine, "b": gone}).verdict == "tie"


def test_rank_correlation():
    assert statistics.rank_correlation(np.array([1.0, 5, 3]), np.array([2.0, 9, 4])) == pytest.approx(1)
    assert statistics.rank_correlation(np.array([1.0, 5, 3]), -np.array([2.0, 9, 4])) == pytest.approx(-1)
    # ties take their mean rank: Pearson's correlation of (1.5, 1.5, 3, 4) and (1, 2, 3, 4)
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    assert statistics.rank_correlation(np.array([7.0, 7, 8, 9]), np.arange(4.0)) == pytest.approx(expected)
    assert math.isnan(statistics.rank_correlation(np.ones(3), np.arange(3.0)))


# ---------------------------------------------------------------- summary


def made_cell(seed, factors, level=0.1, count=50):
    rng = np.random.default_rng(seed)
    uniform = level * np.exp(0.3 * rng.standard_normal(count))
    damage = {"uniform": uniform.tolist()} | {name: (uniform * f).tolist() for name, f in factors.items()}
    noisy = uniform * np.exp(0.3 * rng.standard_normal(count))
    damage["noisy"] = (noisy * uniform.mean() / noisy.mean()).tolist()
    return {
        "identity": {"rules": cells.RULES}, "machine": {"date": f"day {seed}", "cpu": "c", "isa": "i", "threads": 1,
        "commit": "abc", "tqs-fast": "0", "torch": "t", "numpy": "n"},
        "cell": {"system": "made", "horizon": 32, "average_bits": 4.0, "seed": seed},
        "budget_bytes": 10, "lyapunov": 0.5, "engine": "native", "layers": 3, "parameters": 9,
        "methods": {name: {"bits": {}, "bytes": 9, "predicted": None} for name in damage},
        "judges": {"a": {"damage": damage, "naive": 2.0, "mae": {n: [3.0] for n in (*damage, "float")},
                         "valid": {n: [4.0] for n in (*damage, "float")}}},
    }  # fmt: skip


def test_summary_counts_known_wins_and_losses():
    made = [
        made_cell(0, {"ours": 0.5, "rival": 0.8, "other": 0.9}),
        made_cell(1, {"ours": 2.0, "rival": 0.8, "other": 0.4}),
        made_cell(2, {"ours": 1.0, "rival": 0.8, "other": 0.4}, level=3.0),
    ]
    document = condense.condense(made, ["rival", "other"])
    against = [cell["comparisons"]["ours"]["uniform"] for cell in document["cells"]]
    assert [condense.as_ratio(entry).verdict for entry in against] == ["win", "loss", "tie"]
    assert against[1] == [2.0, 2.0, 2.0]
    assert [cell["best_rival"] for cell in document["cells"]] == ["rival", "other", "other"]
    verdicts = [condense.as_ratio(cell["comparisons"]["ours"]["best rival"]).verdict for cell in document["cells"]]
    assert verdicts == ["win", "loss", "loss"]
    assert [cell["saturated"] for cell in document["cells"]] == [False, False, True]
    assert all(
        condense.as_ratio(cell["comparisons"]["noisy"]["uniform"]).verdict == "tie" for cell in document["cells"]
    )
    assert document["cells"][0]["float_truth"]["a"] == {"mae": 3.0, "mase": 1.5, "valid_lyapunov_times": 2.0}
    text = tables.markdown(json.loads(json.dumps(document)))  # from JSON alone
    # against uniform 0.5, 2, 1; against the best rival 0.5 / 0.8, 2 / 0.4, 1 / 0.4
    means = 1.0, (0.625 * 5 * 2.5) ** (1 / 3), 1.0, (0.625 * 5) ** 0.5
    cases = ("all", "1 / 1 / 1 (33 %", "1 / 0 / 2 (33 %"), ("below saturation", "1 / 0 / 1 (50 %", "1 / 0 / 1 (50 %")
    for number, (label, uniform, best) in enumerate(cases):
        first, second = means[2 * number : 2 * number + 2]
        row = f"| {label} | ours | {uniform} below 1, mean {first:.2g}) | {best} below 1, mean {second:.2g}) |"
        assert row in text
    assert "| made | a | 2 | 0.8 |" not in text  # methods in the order of the cells: ours first
    assert "| made | a | 2 | 1 | 0.8 | 0.6 | " in text
    assert "| ours | uniform | made | 32 | 4 | 1 | 2 (2 to 2) |" in text
    assert "| ours | rival (best rival) |" not in text  # of searches only
    document["cells"][1]["methods"]["ours"]["search"] = {"seconds": 1.0}
    assert "| ours | other (best rival) | made | 32 | 4 | 1 | 5 (5 to 5) |" in tables.losses(document["cells"])
    assert "commit abc" in text


def test_cells_are_read_in_order_and_only_of_these_rules(tmp_path):
    for seed in (2, 0, 1):
        made = made_cell(seed, {"ours": 1.0})
        made["identity"]["rules"] = cells.RULES if seed else -1
        cells.write_whole(tmp_path / "cells" / "made" / f"{seed}.json", made)
    (tmp_path / "cells" / "made" / "3.77.partial").write_text("{")
    assert [cell["cell"]["seed"] for cell in condense.read_cells(tmp_path)] == [1, 2]


# ---------------------------------------------------------------- judges that scoring never saw


def rows_of(states):
    return {leaf[n].numpy().tobytes() for leaf in tree_leaves(states.state)[:1] for n in range(states.count)}


def installed(row):
    if row.data in FLOWS:
        return find_spec("dysts") is not None
    return row.data == "elnino" or find_spec("aeon") is not None


@pytest.mark.parametrize("name", [*ROWS, "lorenz-gru", "silero-vad"])
def test_judges_are_disjoint_from_scoring(name):
    horizon = 4
    if name in ROWS:
        row = ROWS[name]
        if not installed(row):
            pytest.skip("bench/evaluate/requirements.txt is not installed")
        torch.manual_seed(0)
        module = row.recipe.build()
        system = row.recipe.form.system(module.eval(), name)
        scored_on = [tqs.Attractor(trained.SCORED, 0)]
        judged = trained.judges(row, module, cells.JUDGE_SEED, horizon)
        judged[0] = Judge("attractor", tqs.Attractor(trained.JUDGED, 0))  # an untrained network has no attractor
    else:
        subject = built_in.SUBJECTS[name]()
        system, scored_on = subject.system, list(subject.scored_on)
        judged = subject.judges(cells.JUDGE_SEED, horizon)
    seen = rows_of(draw(scored_on, system, horizon=horizon, seed=0))
    if name == "silero-vad":  # streams differ, the silence before them does not
        seen = {leaf[0].numpy().tobytes() for leaf in tree_leaves(draw(scored_on, system, horizon=4, seed=0).inputs)}
    for judge in judged:
        states = draw(judge.initial, system, horizon=horizon, seed=cells.JUDGE_SEED)
        found = rows_of(states)
        if name == "silero-vad":
            found = {leaf[0].numpy().tobytes() for leaf in tree_leaves(states.inputs)}
        assert not found & seen
        if judge.truth is not None:
            assert judge.truth.shape[:2] == (states.count, horizon)
            assert judge.naive > 0


def test_seeds_never_meet():
    taken = {trained.TRAINING_SEED, trained.CHECK_SEED, *cells.SEEDS}
    assert not taken & {cells.JUDGE_SEED + seed for seed in cells.SEEDS}


def test_truth_goes_on_from_the_contexts():
    subject = built_in.SUBJECTS["lorenz-gru"]()
    judge = subject.judges(1000, 3)[1]
    value = judge.initial.windows["value"].double().numpy() * lorenz63.STD + lorenz63.MEAN
    following = lorenz63.standardise(lorenz63.integrate(value, 3))[:, 1:]
    np.testing.assert_allclose(judge.truth, following, atol=1e-5)


def test_recorded_series_are_judged_where_they_go_on():
    values = np.arange(100, dtype=np.float32)
    contexts, after = built_in.continued(values, 5, seed=3)
    np.testing.assert_array_equal(after[:, 0, 0], contexts[:, -1, 0] + 1)
    np.testing.assert_array_equal(np.diff(after[..., 0]), 1)


def test_recordings_are_judged_on_what_training_has_not_seen():
    values = np.arange(60.0) ** 2
    recording = type(RECORDINGS["elnino"])(lambda: values, 3, 0.5, 1)
    seen, judged = recording.part(judged=False), recording.part(judged=True)
    assert seen.shape == judged.shape == (3, 10, 1)
    mean, spread = values[:30].mean(), values[:30].std()
    np.testing.assert_allclose(seen[1, :, 0] * spread + mean, values[1:30:3])
    np.testing.assert_allclose(judged[2, :, 0] * spread + mean, values[32::3])


@pytest.mark.skipif(find_spec("dysts") is None, reason="bench/evaluate/requirements.txt is not installed")
@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_sampled_from_their_own_equations(name):
    """A sample later is a much finer integration later, and the seed decides."""
    flow = FLOWS[name]
    path = flow.trajectories(8, 60, seed=7)
    assert np.abs(path).max() < 8  # standard deviations
    assert np.array_equal(path, flow.trajectories(8, 60, seed=7))
    mean, spread = scaling(name)
    states = path * spread + mean
    slope, _ = flow._slope()
    moved = states[:, :-1].reshape(-1, states.shape[2]).T
    for _ in range(8 * flow.substeps):
        moved = runge_kutta(slope, moved, flow.step / flow.substeps / 8)
    following = moved.T.reshape(8, 59, -1)
    np.testing.assert_allclose((following - states[:, 1:]) / spread, 0, atol=1e-5)
    if name == "Lorenz96":
        x = np.arange(6.0) ** 2
        expected = [(x[(i + 1) % 6] - x[i - 2]) * x[i - 1] - x[i] + 8 for i in range(6)]
        np.testing.assert_allclose(slope(x[:, None])[:, 0], expected)


# ---------------------------------------------------------------- training, a few updates of it


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(lambda: Mixer(2, 8, 4, 6, 6, 1), forms.Window(8, 2, block=4), (Stage(3, 6, 1e-2),), batch=8),
        Recipe(lambda: LongShortTerm(2, 6), forms.Carried(6, 2), (Stage(2, 1, 1e-2), Stage(2, 4, 1e-2)), batch=8),
    ],
    ids=["window", "carried"],
)
def test_training_is_deterministic_and_gives_a_system(recipe):
    series = np.sin(np.arange(80)[None, :, None] * np.array([0.3, 0.5]) + np.arange(3)[:, None, None])
    module, cost = train(recipe, series)
    again, _ = train(recipe, series)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert cost["parameters"] == sum(p.numel() for p in module.parameters())
    system = recipe.form.system(module, "made")
    given = torch.from_numpy(series[:, : recipe.form.context]).float()
    after = torch.from_numpy(series[:, recipe.form.context : recipe.form.context + 5]).float()
    path = tqs.rollout(system, recipe.form.start(module, given), horizon=5)
    assert path.provenance["engine"] == "native"
    if isinstance(recipe.form, forms.Window):  # the training loss is that of the rollout
        with torch.no_grad():
            loss = recipe.form.loss(module, given, after)
        expected = (path.outputs.transpose(0, 1) - after).square().mean()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
