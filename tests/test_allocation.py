"""Allocation seen by the user: budgets in every unit, ties and freezes, every error, plans and the frontier."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocation_cases import KINDS, make_damage, make_table, stored_bytes
from tqs_fast.allocation import METHODS, Plan, allocate, frontier
from tqs_fast.errors import ArgumentError, FileFormatError, InfeasibleError, TqsError
from tqs_fast.quantization import Quantizer
from tqs_fast.reporting import rich_table
from tqs_fast.scoring.sensitivity import Layer, Sensitivity

NAMES = ("attn.q.weight", "attn.k.weight", "attn.v.weight", "mlp.up.weight", "mlp.down.weight", "head.weight")
SHAPES = ((32, 40), (32, 40), (32, 40), (128, 32), (32, 128), (4, 33))


def table_of(kind: str = "usual", seed: int = 0, **changes: Any) -> Sensitivity:
    return make_table(make_damage(kind, 6, np.random.default_rng(seed)), SHAPES, names=NAMES, **changes)


TABLE = table_of()
PARAMETERS = sum(layer.parameters for layer in TABLE.layers)
SMALLEST = sum(stored_bytes(shape, 2, TABLE.quantizer) for shape in SHAPES)
LARGEST = sum(stored_bytes(shape, 8, TABLE.quantizer) for shape in SHAPES)


# Budgets


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [0, 32, 64, 128])
def test_sizes_count_scales_zeros_and_padding(group_size: int, symmetric: bool) -> None:
    quantizer = Quantizer(group_size=group_size, symmetric=symmetric)
    plan = allocate(table_of(quantizer=quantizer), average_bits=5.0, freeze=["head.*"])
    expected = sum(stored_bytes(layer.shape, plan.bits[layer.name], quantizer) for layer in plan.layers)
    assert plan.bytes == expected
    assert plan.average_bits == 8 * expected / PARAMETERS
    assert plan.compression == 4 * PARAMETERS / expected
    assert plan.average_bits <= 5.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_meets_its_own_figures_given_back_as_budgets(kind: str, method: str) -> None:
    """Not one byte may be lost to rounding on the way through average bits, compression or a float sum."""
    for seed in range(4):
        table = table_of(kind, seed)
        try:
            plan = allocate(table, average_bits=4.7, method=method)
        except InfeasibleError:
            assert (kind, method) == ("diverged", "uniform")
            continue
        for budget in ({"bytes": plan.bytes}, {"average_bits": plan.average_bits}, {"compression": plan.compression}):
            again = allocate(table, **budget, method="knapsack")
            assert again.predicted_damage <= plan.predicted_damage
            assert again.bytes <= plan.bytes
        assert allocate(table, max_damage=plan.predicted_damage).bytes <= plan.bytes


def test_units_agree() -> None:
    plan = allocate(TABLE, bytes=9000)
    assert allocate(TABLE, average_bits=8 * 9000 / PARAMETERS).bits == plan.bits
    assert allocate(TABLE, compression=4 * PARAMETERS / 9000).bits == plan.bits
    assert allocate(TABLE, bytes=9000.0).bits == plan.bits  # type: ignore[arg-type]
    assert allocate(TABLE, average_bits=np.float32(4)).bits == allocate(TABLE, average_bits=4).bits


def test_more_than_enough_gives_the_least_damage() -> None:
    for budget in ({"average_bits": 1e300}, {"compression": 1e-300}, {"bytes": 10**30}):
        assert set(allocate(TABLE, **budget).bits.values()) == {8}
    assert set(allocate(TABLE, max_damage=1e300).bits.values()) == {2}


def test_uniform_takes_the_largest_width_that_fits_and_respects_freezes() -> None:
    sizes = {b: sum(stored_bytes(shape, b, TABLE.quantizer) for shape in SHAPES) for b in (2, 3, 4, 8)}
    for bits, size in sizes.items():
        assert set(allocate(TABLE, bytes=size, method="uniform").bits.values()) == {bits}
    assert set(allocate(TABLE, bytes=sizes[4] - 1, method="uniform").bits.values()) == {3}
    plan = allocate(TABLE, bytes=10**6, method="uniform", freeze={"head.*": None, "mlp.up.*": 2})
    assert plan.bits == {**dict.fromkeys(NAMES, 8), "head.weight": None, "mlp.up.weight": 2}
    noisy = make_table([[1.0, 0.5, 0.2, 0.3]] * 2, [(8, 32)] * 2)
    assert set(allocate(noisy, average_bits=32, method="uniform").bits.values()) == {8}
    assert set(allocate(noisy, max_damage=1.0, method="uniform").bits.values()) == {3}
    assert set(allocate(noisy, average_bits=32, method="knapsack").bits.values()) == {4}


def test_uniform_skips_a_width_at_which_a_layer_diverged() -> None:
    damage = make_damage("usual", 6, np.random.default_rng(0))
    damage[2, 2] = math.inf
    plan = allocate(make_table(damage, SHAPES, names=NAMES), average_bits=6.0, method="uniform")
    assert set(plan.bits.values()) == {3}


def test_a_uniform_plan_of_frozen_layers_only() -> None:
    plan = allocate(TABLE, average_bits=32, method="uniform", freeze=["*"])
    assert set(plan.bits.values()) == {None}
    assert (plan.compression, plan.predicted_damage) == (1.0, 0.0)


def test_a_damage_that_rounds_above_the_bound_is_over_it() -> None:
    bound = 1.0 + 2.0**-52
    table = make_table([[bound] * 4, [2.0**-53] * 4], [(8, 32)] * 2)
    # The exact sum lies half way to the next float and rounds away from the bound.
    with pytest.raises(InfeasibleError):
        allocate(table, max_damage=bound)
    assert allocate(table, max_damage=1.0 + 2.0**-51).predicted_damage == 1.0 + 2.0**-51
    # Here it rounds to the bound itself.
    assert allocate(make_table([[1.0] * 4, [2.0**-53] * 4], [(8, 32)] * 2), max_damage=1.0).predicted_damage == 1.0


# Ties and freezes


@pytest.mark.parametrize("method", METHODS)
def test_tied_layers_share_bits_and_frozen_layers_stay(method: str) -> None:
    plan = allocate(
        table_of("noisy"), average_bits=6.0, method=method, tie=[["attn.[qkv].weight"]], freeze={"head.weight": None}
    )
    assert len({plan.bits[name] for name in NAMES[:3]}) == 1
    assert plan.bits["head.weight"] is None
    assert plan.damage["head.weight"] == 0.0
    assert plan.provenance["tied"] == [list(NAMES[:3])]
    assert plan.provenance["frozen"] == ["head.weight"]


def test_tied_layers_may_be_frozen_alike() -> None:
    plan = allocate(TABLE, average_bits=5, tie=[["attn.*"], ["mlp.*"]], freeze={"attn.*": 4, "attn.q.weight": 4})
    assert [plan.bits[name] for name in NAMES[:3]] == [4, 4, 4]


def test_a_name_with_brackets_is_a_name_first() -> None:
    table = make_table(make_damage("usual", 2, np.random.default_rng(0)), [(8, 32)] * 2, names=["w[0]", "w0"])
    assert allocate(table, average_bits=20, freeze=["w[0]"]).bits["w[0]"] is None
    assert allocate(table, average_bits=20, freeze=["w[[]0]"]).bits["w0"] is not None


def test_patterns_tell_upper_from_lower_case() -> None:
    with pytest.raises(ArgumentError, match="matches no layer"):
        allocate(TABLE, average_bits=4, freeze=["HEAD.*"])


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ArgumentError, r"\[allocate\] expected exactly one budget among average_bits, .*, got none"),
        ({"average_bits": 4, "bytes": 9}, ArgumentError, r"exactly one budget .* got average_bits, bytes"),
        ({"average_bits": math.nan}, ArgumentError, r"average_bits to be a finite number, got nan"),
        ({"average_bits": math.inf}, ArgumentError, r"average_bits to be a finite number"),
        ({"average_bits": "4"}, ArgumentError, r"average_bits to be a finite number, got '4'"),
        ({"average_bits": True}, ArgumentError, r"average_bits to be a finite number"),
        ({"average_bits": 0}, ArgumentError, r"average_bits > 0, got 0"),
        ({"average_bits": -4}, ArgumentError, r"average_bits > 0, got -4"),
        ({"compression": 0}, ArgumentError, r"compression > 0"),
        ({"compression": -1.5}, ArgumentError, r"compression > 0"),
        ({"bytes": -1}, ArgumentError, r"bytes >= 0"),
        ({"bytes": 1.5}, ArgumentError, r"bytes to be a whole number"),
        ({"max_damage": -1e-9}, ArgumentError, r"max_damage >= 0"),
        ({"max_damage": math.nan}, ArgumentError, r"max_damage to be a finite number"),
        ({"average_bits": 4, "method": "magic"}, ArgumentError, r"one of knapsack, greedy, lagrangian, uniform"),
        (
            {"average_bits": 4, "freeze": ["nope*"]},
            ArgumentError,
            r"freeze pattern 'nope\*' matches no layer; the layers",
        ),
        ({"average_bits": 4, "freeze": "head*"}, ArgumentError, r"freeze to be a list of patterns or a dict"),
        ({"average_bits": 4, "freeze": [3]}, ArgumentError, r"freeze to hold layer names or patterns, got 3"),
        ({"average_bits": 4, "freeze": {"head*": 5}}, ArgumentError, r"scored bit-width \(2, 3, 4, 8\) or None"),
        ({"average_bits": 4, "freeze": {"head*": True}}, ArgumentError, r"scored bit-width"),
        (
            {"average_bits": 4, "freeze": {"head*": 4, "*.weight": 8}},
            ArgumentError,
            r"frozen to both 4 bits and 8 bits",
        ),
        ({"average_bits": 4, "freeze": {"head*": None, "*.weight": 8}}, ArgumentError, r"both float and 8 bits"),
        ({"average_bits": 4, "tie": [["attn.*", "nope"]]}, ArgumentError, r"tie pattern 'nope' matches no layer"),
        ({"average_bits": 4, "tie": ["attn.*"]}, ArgumentError, r"tie to be a list of non-empty lists"),
        ({"average_bits": 4, "tie": "attn.*"}, ArgumentError, r"tie to be a list of non-empty lists"),
        ({"average_bits": 4, "tie": [[]]}, ArgumentError, r"tie to be a list of non-empty lists"),
        (
            {"average_bits": 4, "tie": [["attn.*"], ["*.q.*", "head*"]]},
            ArgumentError,
            r"'attn.q.weight' in one tie group",
        ),
        (
            {"average_bits": 4, "tie": [["attn.*"]], "freeze": ["*.k.*"]},
            ArgumentError,
            r"\(not frozen\).*\(float\) are tied",
        ),
        (
            {"average_bits": 4, "tie": [["attn.*"]], "freeze": {"*.k.*": 4, "*.q.*": 8, "*.v.*": 8}},
            ArgumentError,
            r"'attn.q.weight' \(8 bits\) and 'attn.k.weight' \(4 bits\) are tied",
        ),
        (
            {"average_bits": 2},
            InfeasibleError,
            r"average_bits of at least 2\.\d+ \(feasible: 2\.\d+ to 8\.\d+\), got 2\.0",
        ),
        (
            {"bytes": 10},
            InfeasibleError,
            rf"bytes of at least {SMALLEST} \(feasible: {SMALLEST} to {LARGEST}\), got 10",
        ),
        (
            {"compression": 32},
            InfeasibleError,
            r"compression of at most \d+\.\d+ \(feasible: 3\.\d+ to \d+\.\d+\), got 32",
        ),
        ({"max_damage": 0}, InfeasibleError, r"max_damage of at least .* \(feasible: .*\), got 0\.0"),
        ({"average_bits": 8, "freeze": ["*"]}, InfeasibleError, r"average_bits of at least 32 \(feasible: 32 to 32\)"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_errors(arguments: dict[str, Any], error: type[TqsError], message: str, method: str) -> None:
    with pytest.raises(error, match=message):
        allocate(TABLE, **{"method": method, **arguments})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", ["average_bits", "compression", "max_damage"])
def test_the_printed_feasible_range_can_be_used_as_it_stands(unit: str, method: str) -> None:
    hopeless = {"average_bits": 0.1, "compression": 1000.0, "max_damage": 0.0}[unit]
    for seed in range(10):
        table = table_of("noisy", seed)
        with pytest.raises(InfeasibleError) as caught:
            allocate(table, **{unit: hopeless}, method=method)
        found = re.search(r"of at (?:least|most) ([0-9.e+-]+) ", str(caught.value))
        assert found is not None
        allocate(table, **{unit: float(found[1])}, method=method)


def test_allocate_wants_a_table() -> None:
    with pytest.raises(ArgumentError, match=r"expected a Sensitivity .* got dict"):
        allocate({}, average_bits=4)  # type: ignore[arg-type]


def test_diverged_choices_are_never_chosen_and_named_when_they_are_missed() -> None:
    damage = make_damage("usual", 6, np.random.default_rng(0))
    damage[3, :2] = math.inf
    damage[4, 3] = math.inf
    table = make_table(damage, SHAPES, names=NAMES)
    for method in METHODS:
        for budget in (4.7, 6.0, 30.0):
            plan = allocate(table, average_bits=budget, method=method)
            assert math.isfinite(plan.predicted_damage)
            assert plan.bits["mlp.up.weight"] in (4, 8)
            assert plan.bits["mlp.down.weight"] != 8
    with pytest.raises(InfeasibleError, match=r"diverged: mlp.up.weight at 2 bits, mlp.up.weight at 3 bits"):
        allocate(table, bytes=SMALLEST)


def test_a_layer_that_always_diverges_is_named() -> None:
    damage = make_damage("usual", 6, np.random.default_rng(0))
    damage[3] = math.inf
    table = make_table(damage, SHAPES, names=NAMES)
    with pytest.raises(InfeasibleError, match=r"mlp.up.weight does not diverge, .*freeze=\['mlp.up.weight', ...\]"):
        allocate(table, average_bits=5)
    with pytest.raises(InfeasibleError, match=r"attn.q.weight, mlp.up.weight does not diverge"):
        allocate(table, average_bits=5, tie=[["attn.q.weight", "mlp.up.weight"]])
    with pytest.raises(InfeasibleError, match=r"mlp.up.weight does not diverge, got none among 8 bits"):
        allocate(table, average_bits=5, freeze={"mlp.up.*": 8})
    assert allocate(table, average_bits=20, freeze=["mlp.up.*"]).bits["mlp.up.weight"] is None


def test_uniform_says_when_every_width_diverges_somewhere() -> None:
    damage = np.ones((4, 4)) + np.diag([math.inf] * 4) * 1.0
    damage = np.where(np.isnan(damage), 1.0, damage)
    table = make_table(damage, [(8, 32)] * 4)
    with pytest.raises(InfeasibleError, match=r"no layer diverges, got none.*block.0.weight at 2 bits"):
        allocate(table, average_bits=9, method="uniform")
    assert math.isfinite(allocate(table, average_bits=9).predicted_damage)


# Plans


def test_a_plan_knows_its_damage_by_layer() -> None:
    plan = allocate(TABLE, average_bits=4.0)
    for i, name in enumerate(NAMES):
        bits = plan.bits[name]
        assert bits is not None
        assert plan.damage[name] == TABLE.damage[i, TABLE.bits.index(bits)]
    assert plan.predicted_damage == math.fsum(plan.damage.values())
    assert plan.budget == {"average_bits": 4.0}
    assert plan.method == "knapsack"
    assert plan.provenance["sensitivity"] == TABLE.provenance
    assert plan.bytes == sum(plan.bytes_of(name) for name in NAMES)
    with pytest.raises(ArgumentError, match="expected a planned layer, got 'x'"):
        plan.bytes_of("x")


@pytest.mark.parametrize("method", METHODS)
def test_plan_file_round_trip(tmp_path: Path, method: str) -> None:
    plan = allocate(table_of("range"), average_bits=7.0, method=method, freeze={"head*": None}, tie=[["attn.*"]])
    plan.save(tmp_path / "p.json")
    loaded = Plan.load(tmp_path / "p.json")
    assert loaded == plan
    assert list(loaded.bits) == list(plan.bits)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan
    document = json.loads((tmp_path / "p.json").read_text())
    assert (document["format"], document["version"]) == ("tqs-fast/plan", 1)
    assert document["bytes"] == plan.bytes


def test_a_manual_plan_needs_only_bits_and_layers(tmp_path: Path) -> None:
    plan = Plan(bits={"b": 4, "a": None}, layers=(Layer("a", "Linear", (4, 4), 16), Layer("b", "Linear", (4, 4), 16)))
    assert list(plan.bits) == ["a", "b"]
    assert math.isnan(plan.predicted_damage)
    plan.save(tmp_path / "p.json")
    loaded = Plan.load(tmp_path / "p.json")
    assert math.isnan(loaded.predicted_damage)
    assert (loaded.bits, loaded.damage, loaded.method) == (plan.bits, {}, "manual")
    infinite = dataclasses.replace(plan, predicted_damage=math.inf)
    infinite.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json").predicted_damage == math.inf


def test_plan_table_lists_every_layer_and_ends_with_a_summary() -> None:
    plan = allocate(TABLE, average_bits=4.0, freeze=["head.weight"], tie=[["attn.*"]], method="greedy")
    lines = str(plan).splitlines()
    assert lines[0].split() == ["layer", "bits", "bytes", "damage", "share"]
    assert [line.split()[0] for line in lines[2:8]] == list(NAMES)
    assert lines[7].split() == ["head.weight", "float", "528", "0", "0.0", "%"]
    shares = [float(line.split()[-2]) for line in lines[2:8]]
    assert abs(sum(shares) - 100) < 0.31
    assert lines[-1] == plan.summary()
    for part in ("greedy", "average bits", "bytes", "smaller than float32", "predicted damage"):
        assert part in plan.summary()
    manual = Plan(bits=plan.bits, layers=plan.layers)
    assert str(manual).splitlines()[2].split()[-2:] == ["-", "-"]


def test_rich_draws_the_same_cells() -> None:
    from rich.console import Console

    names = ["w[red]", *NAMES[1:]]
    plan = allocate(make_table(TABLE.damage, SHAPES, names=names), average_bits=4.0)
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(rich_table(plan.table(), "plan"))
    drawn = capture.get()
    assert all(cell in drawn for row in plan.table().rows for cell in row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": {"a": 4}}, r"exactly the planned layers, 'b'"),
        ({"bits": {"a": 4, "b": 4, "c": 4}}, r"exactly the planned layers, 'c'"),
        ({"bits": {"a": 4, "b": 5}}, r"bits\['b'\] among \(2, 3, 4, 8\) or None"),
        ({"bits": {"a": 4, "b": True}}, r"bits\['b'\] among"),
        ({"layers": ()}, r"at least one layer"),
        ({"layers": (Layer("a", "Linear", (4, 4), 16),) * 2}, r"each named once"),
        ({"damage": {"a": 1.0}}, r"damage for all planned layers or for none"),
        ({"damage": {"a": 1.0, "b": -1.0}}, r"damages >= 0"),
        ({"predicted_damage": -1.0}, r"damages >= 0"),
        ({"budget": {"bytes": math.nan}}, r"budget\['bytes'\]"),
        ({"provenance": {"x": {1}}}, r"provenance\['x'\]"),
    ],
)
def test_contradictory_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    layers = (Layer("a", "Linear", (4, 4), 16), Layer("b", "Linear", (4, 4), 16))
    with pytest.raises(ArgumentError, match=message):
        Plan(**{"bits": {"a": 4, "b": 2}, "layers": layers, **changes})


def test_hostile_plan_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    plan = allocate(TABLE, average_bits=4.0)
    plan.save(path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            Plan.load(path)
    with pytest.raises(FileFormatError, match=r"\[Plan.load\] .*cannot be read"):
        Plan.load(tmp_path / "none.json")
    TABLE.save(path)
    with pytest.raises(
        FileFormatError, match="expected a file with format 'tqs-fast/plan', got 'tqs-fast/sensitivity'"
    ):
        Plan.load(path)
    with pytest.raises(FileFormatError, match=r"\[Plan.from_json\] plan: expected .* got 'list'"):
        Plan.from_json([])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2), ("version", "1"), ("bits", {}), ("bits", []), ("bits", {"head.weight": 4}),
        ("bits", dict.fromkeys(NAMES, 4.0)), ("bits", dict.fromkeys(NAMES, "4")), ("bits", dict.fromkeys(NAMES, 7)),
        ("bits", dict.fromkeys(NAMES, True)), ("layers", []), ("layers", {}), ("quantizer", {}),
        ("quantizer", {"group_size": 7, "symmetric": True, "search": "mse"}), ("predicted_damage", "x"),
        ("predicted_damage", -1), ("method", None), ("budget", []), ("provenance", 3), ("damage", {"a": 1}),
        ("damage", []), ("damage", dict.fromkeys(NAMES, "x")),
    ],
)  # fmt: skip
def test_inconsistent_plan_files_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "p.json"
    document = allocate(TABLE, average_bits=4.0).to_json()
    path.write_text(json.dumps({**document, key: value}))
    with pytest.raises(FileFormatError, match=r"\[Plan.load\]"):
        Plan.load(path)
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=r"\[Plan.load\]"):
        Plan.load(path)


# The frontier


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "diverged"])
def test_frontier_is_monotone_within_budget_and_spans_the_range(kind: str, method: str) -> None:
    table = table_of(kind, 1)
    plans = frontier(table, points=15, method=method, tie=[["attn.*"]], freeze={"head.weight": None})
    assert 1 <= len(plans) <= 15
    for a, b in pairwise(plans):
        assert a.bytes < b.bytes
        assert a.predicted_damage > b.predicted_damage
    for plan in plans:
        assert plan.method == method
        assert plan.bytes <= plan.budget["bytes"]
        assert plan.bits["head.weight"] is None
        assert len({plan.bits[name] for name in NAMES[:3]}) == 1
    if method == "knapsack":
        least = allocate(table, bytes=10**9, tie=[["attn.*"]], freeze={"head.weight": None})
        assert plans[-1].bits == least.bits
    if kind == "usual":
        assert len(plans) == (4 if method == "uniform" else len(plans))
        assert len(plans) >= 4


def test_frontier_plans_are_the_plans_of_their_budgets() -> None:
    for plan in frontier(TABLE, points=6):
        assert plan == allocate(TABLE, bytes=plan.budget["bytes"])
    two = frontier(TABLE, points=2)
    assert [plan.bytes for plan in two] == [SMALLEST, LARGEST]


@pytest.mark.parametrize("points", [1, 0, -3, 2.5, True, "9"])
def test_frontier_wants_two_points(points: Any) -> None:
    with pytest.raises(ArgumentError, match=r"\[frontier\] expected points"):
        frontier(TABLE, points=points)


def test_frontier_checks_its_other_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"\[frontier\] expected method"):
        frontier(TABLE, method="magic")
    with pytest.raises(ArgumentError, match=r"\[frontier\] expected a Sensitivity"):
        frontier(None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="matches no layer"):
        frontier(TABLE, freeze=["nope"])
