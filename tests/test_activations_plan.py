"""int8 activations in plans and files, and choosing them by rolling out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

import reports
import tqs_fast as tqs
from cases.modules import CASES
from packing import outputs, plan_for
from rounding import int8_plan, rounding_plan
from test_activations import blocks_of, in_blocks, network
from tqs_fast.cli.quantize import quantize
from tqs_fast.reporting.evidence import gather
from tqs_fast.rewriting import PackedTensor
from tqs_fast.rewriting.activations import Verdict, _split


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- plans


def small_plan(**changes) -> tqs.Plan:
    """Of `network()`, which has the layers 0.weight and 2.weight."""
    return replace(plan_for(network(), [4, 8]), **changes)


def test_a_plan_without_int8_activations_is_what_it_was():
    plan = small_plan()
    assert plan.activations == {}
    assert plan == small_plan(activations={"0.weight": "float"})
    assert plan.table().columns == ("layer", "bits", "bytes", "damage", "share")
    assert "int8" not in str(plan)
    document = plan.to_json()
    del document["activations"]  # as written before there was a choice
    assert tqs.Plan.from_json(document).to_json() == plan.to_json()


def test_a_plan_with_int8_activations_says_so(tmp_path):
    plan = small_plan(activations={"2.weight": "int8"})
    assert plan.table().columns == ("layer", "bits", "activations", "bytes", "damage", "share")
    assert [row[2] for row in plan.table().rows] == ["float", "int8"]
    assert plan.table().right == (False, True, True, True, True, True)
    assert plan.summary().endswith(", int8 activations in 1 of 2 layers")
    assert plan != small_plan()
    plan.save(tmp_path / "plan.json")
    loaded = tqs.Plan.load(tmp_path / "plan.json")
    assert loaded.activations == {"2.weight": "int8"}
    assert loaded.to_json() == plan.to_json()
    assert replace(loaded, method="other").activations == loaded.activations


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({"1.weight": "int8"}, "expected activations of planned layers, got one of '1.weight'"),
        ({"0.weight": "int4"}, r"expected activations\['0.weight'\] among \('float', 'int8'\), got 'int4'"),
        ({"0.weight": None}, "got None"),
        ({"2.weight": "int8"}, "int8 activations of packed layers only, but '2.weight' is kept float"),
    ],
)
def test_wrong_activations_are_refused(activations, message, tmp_path):
    plan = small_plan(bits={"0.weight": 4, "2.weight": None})
    with pytest.raises(tqs.ArgumentError, match=message):
        replace(plan, activations=activations)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json() | {"activations": activations}))
    with pytest.raises(tqs.FileFormatError):
        tqs.Plan.load(tmp_path / "plan.json")


def test_row_blocks_of_a_weight_agree():
    plan = in_blocks(small_plan(), 2)
    both = {"0.weight[0:10]": "int8", "0.weight[10:20]": "int8"}
    assert replace(plan, activations=dict(reversed(both.items()))).activations == both
    with pytest.raises(tqs.ArgumentError, match=r"all row blocks of a weight, '0.weight\[10:20\]' differs"):
        replace(plan, activations={"0.weight[0:10]": "int8"})
    small = tqs.quantize(network(), replace(plan, activations=both))
    assert [block.activation for block in blocks_of(small)] == ["int8", "int8", "float", "float"]


def test_quantize_applies_the_plan_whatever_else_it_changes():
    module = network()
    plan = small_plan(activations={"0.weight": "int8"})
    for small in (tqs.quantize(module, plan), tqs.quantize(module, plan, group_size=32)):
        assert [block.activation for block in blocks_of(small)] == ["int8", "float"]
        assert small.tqs_plan.activations == plan.activations


def test_a_search_of_bits_wants_plans_without():
    scored = reports.table(4)
    plan = rounding_plan(tqs.allocate(scored, average_bits=4.5))
    with pytest.raises(tqs.ArgumentError, match=r"plan without int8 activations.*search first, then choose_acti"):
        tqs.search(tqs.load_system("lorenz-gru"), scored, plan)


def test_a_report_keeps_what_was_measured_with_other_activations_apart():
    scored = reports.table(4)
    plan = tqs.allocate(scored, average_bits=4.5)
    found = reports.search(scored, plan)
    alike, other = (gather(scored, given, found, {}) for given in (plan, rounding_plan(plan)))
    assert alike.this.error is not None
    assert other.this.error is None  # the search measured float activations
    assert len(other.points) == len(alike.points) + 1
    page = tqs.Report(scored, rounding_plan(plan), search=found).html()
    assert "activations" in page
    assert "activations" not in tqs.Report(scored, plan, search=found).html()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("Linear", "Conv1d", "GRU", "LSTMCell", "TransformerEncoder")], ids=str
)
@pytest.mark.parametrize("row_blocks", [1, 2])
def test_files_keep_the_choice(case, row_blocks, tmp_path):
    module, inputs = case.make_module(), case.make_input(2)
    plan = plan_for(module, [4], tqs.Quantizer(32))
    plan = rounding_plan(plan if row_blocks == 1 else in_blocks(plan, row_blocks))
    small = tqs.quantize(module, plan)
    tqs.save(small, tmp_path / "m")
    loaded = tqs.load(module, tmp_path / "m")
    assert {part.activation for part in loaded.modules() if isinstance(part, PackedTensor)} == {"int8"}
    assert loaded.tqs_plan.activations == plan.activations
    assert torch.equal(outputs(loaded, inputs), outputs(small, inputs))
    with safe_open(tmp_path / "m", "pt") as file:
        entries = json.loads(file.metadata()["packed"]).values()
    assert {entry["activation"] for entry in entries} == {"int8"}


# ---------------------------------------------------------------- choosing


class Outlier(nn.Module):
    """Two hidden layers of 32; the rows that the second multiplies hold a number 1000 times the others.

    Its weight for that number is 0, so that the float product does not see it and the rounded one sees nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(32, 32)
        self.spiked = nn.Linear(33, 32)
        with torch.no_grad():
            self.spiked.weight[:, -1] = 0
            self.plain.weight.mul_(3)
            self.spiked.weight.mul_(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.plain(x).tanh()
        return self.spiked(torch.cat([hidden, torch.full_like(hidden[:, :1], 1000.0)], 1)).tanh()


def outlier_system() -> tqs.System:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Outlier()

    def step(module: nn.Module, state: torch.Tensor):
        after = module(state)
        return after, after[:, :4]

    return tqs.System(module, step=step, initial_state=lambda n, g: torch.randn(n, 32, generator=g))


FAMILIES = (
    tqs.Attractor(count=64, spin_up=4),
    tqs.Contexts(torch.randn(64, 32, generator=torch.Generator().manual_seed(1)), name="normal"),
)


def test_a_layer_with_outliers_keeps_float_rows():
    system = outlier_system()
    plan = plan_for(system.module, [3], tqs.Quantizer(32))
    options = {"horizon": 4, "initial": FAMILIES}
    chosen = tqs.choose_activations(system, plan, **options)
    assert chosen.activations == {"plain.weight": "int8"}
    assert (chosen.bits, chosen.layers, chosen.quantizer, chosen.method) == (
        plan.bits,
        plan.layers,
        plan.quantizer,
        plan.method,
    )
    found = chosen.provenance["activations"]
    assert (found["tolerance"], found["horizon"], found["seed"], found["evaluations"]) == (0.05, 4, 2, 4)
    assert set(found["families"]) == {"attractor", "normal"}
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1] <= 1.05
    assert all(high <= 1.05 for _, _, high in found["families"].values())
    assert list(found["refused"]) == ["spiked.weight"]
    assert found["refused"]["spiked.weight"]["ratio"] > 1.2
    assert [family["method"] for family in found["initial"]] == ["attractor", "contexts"]
    assert chosen.to_json() == tqs.choose_activations(system, plan, **options).to_json()
    # what is recorded is what evaluate measures
    errors = [
        tqs.evaluate(system, tqs.quantize(system.module, each), horizon=4, initial=FAMILIES, seed=2)
        for each in (chosen, plan)
    ]
    assert [found["ratio"], *found["interval"]] == pytest.approx(errors[0].ratio(errors[1]))
    assert found["families"]["normal"] == pytest.approx(errors[0].ratio(errors[1], family="normal"))
    with pytest.raises(tqs.ArgumentError, match=r"family must be one of \('attractor', 'normal'\), got 'other'"):
        errors[0].ratio(errors[1], family="other")


@pytest.mark.parametrize(
    ("overall", "families", "same"),
    [
        ((1.0, 0.98, 1.05), {"a": (1.0, 0.97, 1.05)}, True),
        ((1.0, 0.98, 1.06), {"a": (1.0, 0.97, 1.05)}, False),
        ((1.0, 0.98, 1.02), {"a": (1.0, 0.97, 1.01), "b": (1.1, 1.0, 1.2)}, False),
        ((math.nan, math.nan, math.nan), {}, False),  # both diverged, or neither does any damage
        ((math.inf, 1.0, math.inf), {}, False),
    ],
)
def test_the_same_damage_is_the_same_in_every_family(overall, families, same):
    assert Verdict(overall, families).same(0.05) == same


class FixedJudge:
    """Some weights do harm, whatever else is rounded."""

    def __init__(self, harmful: set[int]) -> None:
        self.harmful = harmful
        self.asked: set[frozenset[int]] = set()

    def same(self, weights: list[int]) -> bool:
        self.asked.add(frozenset(weights))
        return not self.harmful & set(weights)

    def verdict(self, weights: list[int]) -> list[int]:
        return weights


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_halving_finds_what_does_harm(count):
    for harmful in ({0}, {count - 1}, {0, count - 1}, set(range(count)), {count // 2}, set()):
        judge = FixedJudge(harmful)
        kept, refused = _split(judge, list(range(count)))
        assert sorted(kept) == sorted(set(range(count)) - harmful)
        assert set(refused) == harmful
        assert all(weights[-1] == name for name, weights in refused.items())
        most = 1 + 2 * len(harmful) * math.ceil(math.log2(count))
        assert len(judge.asked) <= min(2 * count - 1, most)


def test_all_at_once_where_that_does_no_harm():
    system = tqs.load_system("lorenz-gru")
    plan = plan_for(system.module, [3])
    options = {"horizon": 16, "initial": tqs.Attractor(count=32, spin_up=16)}
    chosen = tqs.choose_activations(system, rounding_plan(plan), **options)
    assert set(chosen.activations) == set(plan.bits)
    found = chosen.provenance["activations"]
    assert (found["evaluations"], found["refused"]) == (2, {})


def test_row_blocks_are_chosen_together():
    system = outlier_system()
    plan = in_blocks(plan_for(system.module, [3], tqs.Quantizer(32)), 2)
    chosen = tqs.choose_activations(system, plan, horizon=4, initial=FAMILIES)
    assert chosen.activations == {"plain.weight[0:16]": "int8", "plain.weight[16:32]": "int8"}


def test_what_has_no_rows_to_round_is_left_alone():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(8, 8)
            self.short = nn.Conv1d(8, 8, 1)

        def forward(self, x):
            return self.short(self.table(x[:, :3].argmax(-1)).unsqueeze(-1)).squeeze(-1) + 0.5 * x

    torch.manual_seed(0)
    system = tqs.System(
        Table(),
        step=lambda module, state: (module(state), module(state)),
        initial_state=lambda n, g: torch.randn(n, 8, generator=g),
    )
    chosen = tqs.choose_activations(system, plan_for(system.module, [4]))
    assert chosen.activations == {}
    assert chosen.provenance["activations"]["evaluations"] == 0
    assert tqs.choose_activations(system, plan_for(system.module, [None])).activations == {}


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf"), True, "much"])
def test_tolerances_that_are_none(tolerance):
    with pytest.raises(tqs.ArgumentError, match="tolerance must be a number >= 0"):
        tqs.choose_activations(outlier_system(), plan_for(Outlier(), [4]), tolerance=tolerance)


def test_a_plan_of_another_module_is_refused():
    with pytest.raises(tqs.ArgumentError, match=r"the plan names 0\.weight, which Outlier does not have"):
        tqs.choose_activations(outlier_system(), small_plan())


# ---------------------------------------------------------------- from the shell


def test_quantize_chooses(run, tmp_path):
    plan, kept, model = (str(tmp_path / name) for name in ("plan.json", "kept.json", "small.safetensors"))
    system = tqs.load_system("lorenz-gru")
    plan_for(system.module, [3]).save(plan)
    options = ["--activations", "auto", "--horizon", "8", "--count", "32", "--plan-out", kept, "--json"]
    chosen = json.loads(run("quantize", "lorenz-gru", plan, "-o", model, *options).stdout)["plan"]
    assert set(chosen["activations"]) == set(chosen["bits"])
    assert chosen["provenance"]["activations"]["horizon"] == 8
    assert tqs.Plan.load(kept).to_json() == chosen
    assert {block.activation for block in blocks_of(tqs.load(system.module, model))} == {"int8"}


def test_quantize_is_told(tmp_path, capsys):
    plan, model = tmp_path / "plan.json", tmp_path / "small.safetensors"
    system = outlier_system()
    int8_plan(system.module, [3]).save(plan)
    name = f"{__name__}:outlier_system"
    for activations, expected in (("plan", "int8"), ("float", "float"), ("int8", "int8")):
        quantize(name, plan, model, activations)
        loaded = tqs.load(system.module, model)
        assert {block.activation for block in blocks_of(loaded)} == {expected}
    capsys.readouterr()
    quantize(name, plan, model, "auto", horizon=4)
    shown = capsys.readouterr().out
    assert "int8 activations in 1 of 2 layers" in shown
    assert "int8 activations, damage over that without: " in shown
    assert "spiked.weight kept float: with int8, damage over that without: " in shown
    with pytest.raises(
        tqs.ArgumentError, match=r"\[--activations\] expected one of plan, auto, float, int8, got 'int4'"
    ):
        quantize(name, plan, model, "int4")
