"""Measured plan search against brute force, and its promises: budget, no harm, determinism, resumption, stops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from networks import cells_system, linear_system, rotation
from tqs_fast.scoring.evaluate import RolloutError
from tqs_fast.search.conditions import draw_conditions
from tqs_fast.search.decide import HARM, decide
from tqs_fast.search.explore import patience_of
from tqs_fast.search.result import Candidate

START = tqs.Attractor(count=8, spin_up=4)


def scored(layers=None, *, bits=(2, 3, 4, 8), horizon=8, row_blocks=1, **more):
    system = cells_system(width=12)
    method = tqs.Residual(bits=bits, quantizer=tqs.Quantizer(group_size=0))
    table = tqs.score(
        system, horizon=horizon, initial=START, layers=layers, method=method, row_blocks=row_blocks, **more
    )
    return system, table


def size_at(table, bits):
    return sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers)


def every_plan(table, limit):
    """All plans of the table within a size."""
    names = [layer.name for layer in table.layers]
    for bits in itertools.product(table.bits, repeat=len(names)):
        plan = tqs.Plan(dict(zip(names, bits, strict=True)), table.layers, table.quantizer)
        if plan.bytes <= limit:
            yield plan


def measured_alone(system, plan, states, horizon):
    """Damage of the packed model itself, without lanes; by torch, which captures nothing."""
    small = tqs.quantize(system.module, plan)
    contexts = tqs.Contexts(states.state)
    return tqs.evaluate(system, small, horizon=horizon, initial=contexts, engine="torch").damage


def test_a_small_space_is_searched_whole_and_the_best_plan_is_found():
    system, table = scored(["gru.*", "out.weight"])
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    result = tqs.search(system, table, plan, evaluations=200)
    states = draw_conditions(system, table, None, horizon=8, seed=0)
    names = [layer.name for layer in table.layers]
    brute = {
        tuple(p.bits.values()): measured_alone(system, p, states.searched, 8)
        for p in every_plan(table, size_at(table, 4))
    }
    assert {e.bits for e in result.history} <= brute.keys()
    for evaluation in result.history:
        assert evaluation.measured == pytest.approx(brute[evaluation.bits], rel=1e-3)
    assert result.stopped in ("every plan was measured", f"{patience_of(200)} evaluations gained less than 1 %")
    assert min(e.measured for e in result.history) == pytest.approx(min(brute.values()), rel=1e-3)
    kept = tqs.Plan(dict(result.plan.bits), table.layers, table.quantizer)
    assert list(kept.bits) == names
    assert result.damage == pytest.approx(measured_alone(system, kept, states.decided, 8), rel=1e-3)
    predicted = [sum(table.damage[i, table.bits.index(b)] for i, b in enumerate(e.bits)) for e in result.history]
    np.testing.assert_allclose([e.predicted for e in result.history], predicted)


def test_a_fraction_of_a_larger_space_comes_close_to_its_best_plan():
    """4096 plans of six layers, 100 measured: within 15 % of the best of all of them, and better than 99.5 %."""
    system, table = scored()
    limit = size_at(table, 4)
    plans = list(every_plan(table, limit))
    first = replace(plans[0], budget={"bytes": limit})
    everything = tqs.search(system, table, first, evaluations=1, rivals={str(i): p for i, p in enumerate(plans)})
    brute = np.array([e.measured for e in everything.history])
    assert len(brute) > 1000
    result = tqs.search(system, table, tqs.allocate(table, bytes=limit), evaluations=100)
    found = min(e.measured for e in result.history)
    assert found <= 1.15 * brute.min()
    assert (brute < found).mean() < 0.005


def test_the_budget_ties_and_frozen_layers_are_kept():
    system, table = scored()
    limit = 0.25 * size_at(table, 3) + 0.75 * size_at(table, 4)
    names = [layer.name for layer in table.layers]
    plan = tqs.allocate(
        table, bytes=int(limit) + 600, tie=[["gru.*"]], freeze={"out.weight": None, "encoder.weight": 8}
    )
    result = tqs.search(system, table, plan, evaluations=60)
    assert len(result.history) > 20
    for evaluation in result.history:
        bits = dict(zip(names, evaluation.bits, strict=True))
        assert bits["out.weight"] is None
        assert bits["encoder.weight"] == 8
        assert bits["gru.weight_ih"] == bits["gru.weight_hh"]
    for candidate in result.candidates:
        assert candidate.plan.bytes <= int(limit) + 600
    small = tqs.quantize(system.module, result.plan)
    assert isinstance(small.out, nn.Linear)
    assert torch.equal(small.out.weight, system.module.out.weight)
    with pytest.raises(tqs.ArgumentError, match=r"rivals\['rival 1'\] to keep the ties"):
        tqs.search(system, table, plan, rivals=[replace(plan, bits=plan.bits | {"gru.weight_ih": 2})])
    with pytest.raises(tqs.ArgumentError, match=r"to keep encoder\.weight at 8 bits"):
        tqs.search(system, table, plan, rivals=[replace(plan, bits=plan.bits | {"encoder.weight": 4})])
    with pytest.raises(tqs.ArgumentError, match="of at most"):
        tqs.search(system, table, plan, rivals=[replace(plan, bits=plan.bits | {"lstm.weight_hh": 8})])


def test_a_budget_that_the_plan_does_not_use_up_is_the_budget():
    system, table = scored(["gru.*", "out.weight"])
    names = [layer.name for layer in table.layers]
    poor = tqs.Plan(dict.fromkeys(names, 2), table.layers, table.quantizer, budget={"bytes": size_at(table, 4)})
    result = tqs.search(system, table, poor, evaluations=30)
    assert result.provenance["budget"] == {"bytes": size_at(table, 4)}
    assert "uniform 4" in [c.name for c in result.candidates]
    assert "uniform 8" not in [c.name for c in result.candidates]
    own = tqs.search(system, table, replace(poor, budget={}), evaluations=30)
    assert own.plan.bits == poor.bits
    assert own.provenance["budget"] == {"bytes": size_at(table, 2)}


def test_no_plan_is_kept_that_does_worse_than_a_given_one():
    """Every rival in turn, the best of all plans among them: the result is never worse on the deciding set."""
    system, table = scored(["gru.*", "out.weight"])
    limit = size_at(table, 4)
    start = tqs.Plan({layer.name: 2 for layer in table.layers}, table.layers, table.quantizer, budget={"bytes": limit})
    states = draw_conditions(system, table, None, horizon=8, seed=0)
    ranked = sorted(every_plan(table, limit), key=lambda p: measured_alone(system, p, states.decided, 8))
    result = tqs.search(system, table, start, evaluations=1, rivals={"best": ranked[0], "worst": ranked[-1]})
    assert result.chosen == "best"
    assert result.plan.bits == ranked[0].bits
    assert result.plan.method == "search"
    assert result.damage == min(c.error.damage for c in result.candidates)
    searched = tqs.search(system, table, start, evaluations=40, rivals=[ranked[5]])
    given = [c for c in searched.candidates if not c.name.startswith("searched")]
    assert {c.name for c in given} == {"start", "uniform 2", "uniform 3", "uniform 4", "rival 1"}
    assert searched.damage <= min(c.error.damage for c in given)


def candidate(name, samples, families=("a",)):
    samples = np.asarray(samples, dtype=float)
    family_of = np.repeat(np.arange(len(families)), len(samples) // len(families))
    error = RolloutError(samples, families, family_of, np.ones(3), 0.0, (0, 0), {})
    plan = tqs.Plan({"layer": 4}, (tqs.Layer("layer", "Linear", (2, 2), 4),))
    return Candidate(name, plan, 0.0, error)


def test_what_decides():
    ones, spread = np.ones(40), np.r_[np.full(39, 0.99), 0.0]
    start, worse = candidate("start", ones), candidate("uniform 4", 2 * ones)
    luck = candidate("searched 1", np.tile([0.2, 1.7], 20))  # 5 % less, but no more than chance
    better = candidate("searched 2", spread)
    assert decide([worse, start, luck], ["start", "uniform 4"])[0].name == "start"
    assert decide([worse, start, luck, better], ["start", "uniform 4"])[0].name == "searched 2"
    # Half the damage on average, and more than the rule allows in one family.
    both = ("a", "b")
    start = candidate("start", np.r_[np.full(20, 1.0), np.full(20, 0.1)], both)
    harmful = candidate("searched 1", np.r_[np.full(20, 0.1), np.full(20, 0.1 * HARM * 1.01)], both)
    kept, judged = decide([start, harmful], ["start"])
    assert kept.name == "start"
    assert judged[1].hurts == ("b",)
    harmless = candidate("searched 2", np.r_[np.full(20, 0.2), np.full(20, 0.1 * HARM * 0.99)], both)
    assert decide([start, harmful, harmless], ["start"])[0].name == "searched 2"
    # Where every given plan diverges, any that does not is better.
    lost, finite = candidate("start", [np.inf, 1.0]), candidate("searched 1", [3.0, 2.0])
    assert decide([lost, finite], ["start"])[0].name == "searched 1"


class TwoMaps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.first.weight = nn.Parameter(rotation(0.37))
        self.second.weight = nn.Parameter(rotation(0.21))


def exploding_system():
    """Diverges as soon as `second` is changed by more than a little: at 2 bits, alone or not."""
    float_second = rotation(0.21)

    def step(module, state):
        between = module.first(state)
        excess = (module.second(between) - between @ float_second.T).abs().amax(dim=1, keepdim=True)
        state = module.second(between) + torch.where(excess > 0.06, torch.inf, 0.0)
        return state, state

    return tqs.System(TwoMaps(), step=step, initial_state=lambda n, g: torch.randn(n, 2, generator=g))


def test_plans_that_diverge_are_survived(tmp_path):
    system = exploding_system()
    initial = tqs.Attractor(count=6, spin_up=1)
    table = tqs.score(system, horizon=5, initial=initial, method=tqs.Residual(quantizer=tqs.Quantizer(group_size=0)))
    assert np.isinf(table.damage[1, 0])
    assert np.isfinite(table.damage[1, 1:]).all()
    plan = tqs.allocate(table, bytes=size_at(table, 8))
    bad = tqs.Plan({"first.weight": 8, "second.weight": 2}, table.layers, table.quantizer)
    result = tqs.search(system, table, plan, evaluations=30, rivals={"bad": bad})
    diverged = [e for e in result.history if np.isinf(e.measured)]
    assert diverged
    assert np.isfinite(result.damage)
    assert np.isinf(result.candidate("bad").error.damage)
    assert "inf" in str(result)
    only_bad = tqs.search(system, table, replace(bad, budget={"bytes": plan.bytes}), evaluations=30)
    assert np.isfinite(only_bad.damage)
    only_bad.save(tmp_path / "result.json")
    assert tqs.SearchResult.load(tmp_path / "result.json").to_json() == only_bad.to_json()


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_row_blocks_are_packed_as_they_were_measured(engine):
    system, table = scored(row_blocks=2, engine=engine)
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    result = tqs.search(system, table, plan, evaluations=40, engine=engine, memory_limit=200_000)
    assert len(table.layers) == 12
    states = draw_conditions(system, table, None, horizon=8, seed=0)
    assert result.damage == pytest.approx(measured_alone(system, result.plan, states.decided, 8), rel=2e-3)


def test_the_same_search_gives_the_same_result_in_any_chunks_and_threads():
    system, table = scored(row_blocks=2)
    plan = tqs.allocate(table, bytes=size_at(table, 3))
    first = tqs.search(system, table, plan, evaluations=60)
    assert tqs.search(system, table, plan, evaluations=60).to_json() == first.to_json()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for engine, limit in (("native", 60_000), ("torch", 300_000), ("torch", None)):
            other = tqs.search(system, table, plan, evaluations=60, engine=engine, memory_limit=limit)
            assert [e.bits for e in other.history] == [e.bits for e in first.history]
            np.testing.assert_allclose(
                [e.measured for e in other.history], [e.measured for e in first.history], rtol=1e-3
            )
            assert other.plan.bits == first.plan.bits
    finally:
        torch.set_num_threads(threads)
    assert [e.bits for e in tqs.search(system, table, plan, evaluations=60, seed=1).history] != [
        e.bits for e in first.history
    ]


def test_a_killed_search_resumes_bit_for_bit_and_goes_on_with_more_evaluations(tmp_path):
    system, table = scored(row_blocks=2)
    plan = tqs.allocate(table, bytes=size_at(table, 3))
    whole = tqs.search(system, table, plan, evaluations=50)

    def kill(done, total):
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tqs.search(system, table, plan, evaluations=50, checkpoint=tmp_path / "run", progress=kill)
    chunks = sorted((tmp_path / "run" / "search").glob("chunk-*.npz"))
    rows = sum(len(np.load(chunk)["samples"]) for chunk in chunks)
    assert 30 <= rows < 50  # what was measured before the interrupt is there
    before = [chunk.stat().st_mtime_ns for chunk in chunks]
    resumed = tqs.search(system, table, plan, evaluations=50, checkpoint=tmp_path / "run")
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == before
    assert resumed.to_json() == whole.to_json()
    longer = tqs.search(system, table, plan, evaluations=61, checkpoint=tmp_path / "run")
    assert longer.to_json() == tqs.search(system, table, plan, evaluations=61).to_json()
    for change in ({"seed": 1}, {"horizon": 7}, {"rivals": [plan]}):
        with pytest.raises(tqs.CheckpointError, match="another run"):
            tqs.search(system, table, plan, evaluations=50, checkpoint=tmp_path / "run", **change)


def test_it_stops_when_nothing_gains_and_when_nothing_is_left():
    system, table = scored(["out.weight"])
    plan = tqs.allocate(table, bytes=size_at(table, 8))
    result = tqs.search(system, table, plan, evaluations=200)
    assert result.stopped == "every plan was measured"
    assert result.evaluations == 4
    system, table = scored(["gru.*", "out.weight"], row_blocks=2)
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    result = tqs.search(system, table, plan, evaluations=1000)
    assert result.stopped == "333 evaluations gained less than 1 %"
    best = result.best_so_far
    assert best[-1] > 0.99 * best[-334]


def test_a_model_without_damage_is_left_alone():
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # every bit-width holds it exactly
    system = linear_system(matrix)
    initial = tqs.Contexts(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))
    quantizer = tqs.Quantizer(group_size=0, search="minmax")
    table = tqs.score(system, horizon=4, initial=initial, method=tqs.Residual(quantizer=quantizer))
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    result = tqs.search(system, table, plan, initial=initial)
    assert result.damage == 0 or result.stopped == "every plan was measured"
    assert np.isnan(result.rank_correlation) or -1 <= result.rank_correlation <= 1


def test_contexts_are_halved_and_families_reported_apart():
    system = linear_system(rotation(0.3))
    generator = torch.Generator().manual_seed(1)
    near = tqs.Contexts(torch.randn(9, 2, generator=generator), name="near")
    far = tqs.Contexts(5 * torch.randn(6, 2, generator=generator), name="far")
    table = tqs.score(system, horizon=6, initial=[near, far])
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    with pytest.raises(tqs.ArgumentError, match="whose states it does not hold"):
        tqs.search(system, table, plan)
    result = tqs.search(system, table, plan, initial=[near, far])
    assert result.error.families == ("near", "far")
    assert np.bincount(result.error.family_of).tolist() == [5, 3]
    conditions = draw_conditions(system, table, [near, far], horizon=6, seed=0)
    halves = [{tuple(row) for row in states.state.tolist()} for states in (conditions.searched, conditions.decided)]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 15
    assert "near" in str(result.table())
    with pytest.raises(tqs.ArgumentError, match="at least 2 states"):
        tqs.search(system, table, plan, initial=tqs.Contexts(torch.ones(1, 2)))


def test_conditions_are_those_of_the_table_and_never_those_that_others_draw():
    system, table = scored(["out.weight"])
    conditions = draw_conditions(system, table, None, horizon=8, seed=0)
    assert conditions.searched.count == 8
    assert conditions.decided.count == 64
    assert conditions.searched.description[0]["spin_up"] == 4
    assert len({*conditions.seeds.values(), 0, 1}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluations": 0}, "evaluations"),
        ({"evaluations": True}, "evaluations"),
        ({"memory_limit": -1}, "memory_limit"),
        ({"engine": "fast"}, "engine must be one of"),
        ({"rivals": {"start": None}}, "names of their own"),
        ({"rivals": {"searched 1": None}}, "names of their own"),
    ],
)
def test_bad_arguments(change, message):
    system, table = scored(["out.weight"])
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    with pytest.raises(tqs.ArgumentError, match=message):
        tqs.search(system, table, plan, **change)


def test_plans_of_another_table_are_refused():
    system, table = scored(["out.weight"])
    _, other = scored(["gru.*"])
    plan = tqs.allocate(table, bytes=size_at(table, 4))
    with pytest.raises(tqs.ArgumentError, match="in one but not the other"):
        tqs.search(system, other, plan)
    with pytest.raises(tqs.ArgumentError, match="quantizer of the table"):
        tqs.search(system, table, replace(plan, quantizer=tqs.Quantizer()))
    with pytest.raises(tqs.ArgumentError, match="horizon"):
        tqs.search(system, replace(table, provenance={}), plan)
