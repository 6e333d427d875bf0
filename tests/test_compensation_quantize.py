"""quantize(method=...): packed rows are those of the loop, and rollouts are the better for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from cases.modules import TiedHead
from checking import same_bits
from networks import cells_system
from packing import block_plan, plan_for
from tqs_fast.compensation import compensate
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.rewriting.hessians import collect_hessians

METHODS = ("obq", "gptq", "sensitivity")
FEW = {"horizon": 8}


@pytest.fixture(scope="module")
def cells() -> tqs.System:
    return cells_system(24)


@pytest.fixture(scope="module")
def states(cells) -> tqs.Contexts:
    return tqs.Contexts(cells.initial_state(8, torch.Generator().manual_seed(5)), name="mine")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_is_what_the_loop_produced(cells, states, method, tmp_path):
    settings = tqs.Compensation(method, **FEW)
    plan = plan_for(cells.module, [3, 4, 2, 8], tqs.Quantizer(32, symmetric=False))
    small = tqs.quantize(cells.module, plan, method=settings, system=cells, initial=states)
    found = collect_hessians(cells.module, find_weights(cells.module), cells, settings, states)
    tqs.save(small, tmp_path / "model")
    loaded = tqs.load(cells.module, tmp_path / "model")
    for weight in find_weights(cells.module):
        matrix = parameter_of(cells.module, weight).detach().numpy()
        ((_, _, hessian),) = found.of_weight[weight.name]
        (packed,) = compensate([(matrix, plan.bits[weight.name])], hessian, quantizer=plan.quantizer, settings=settings)
        for module in (small, loaded):
            block = module.get_submodule(weight.owners[0][0]).packed[weight.owners[0][1]].blocks[0]
            same_bits(block.codes.numpy(), packed.codes)
            same_bits(block.scales.numpy().view(np.uint16), packed.scales)
            same_bits(block.zeros.numpy(), packed.zeros)
    evidence = loaded.tqs_plan.provenance["compensation"]
    assert (evidence["method"], evidence["horizon"]) == (method, 8)
    assert evidence["initial"][0]["name"] == "mine"
    assert evidence["inputs"]["gru.weight_hh"] == 64
    assert evidence["unseen"] == []
    assert all(0 < ratio < 1.5 for ratio in evidence["output_error_over_nearest"].values())
    assert small.tqs_plan.bits == plan.bits


def test_rollouts_do_less_damage():
    system = tqs.load_system("lorenz-gru")
    plan = plan_for(system.module, [3])
    judged = {"horizon": 32, "initial": tqs.Attractor(count=32), "seed": 7}
    nearest = tqs.evaluate(system, tqs.quantize(system.module, plan), **judged)
    for method in (*METHODS, tqs.Compensation(weighting="trajectory")):
        damage = tqs.evaluate(system, tqs.quantize(system.module, plan, method=method, system=system), **judged)
        assert damage.ratio(nearest)[2] < 0.75, method


def test_row_blocks_share_inputs_and_keep_their_bits(cells, states):
    plan = block_plan(cells.module, 3)
    small = tqs.quantize(cells.module, plan, method=tqs.Compensation(**FEW), system=cells, initial=states)
    nearest = tqs.quantize(cells.module, plan)
    different = 0
    for path, attribute in [owner for weight in find_weights(cells.module) for owner in weight.owners]:
        ours, theirs = (module.get_submodule(path).packed[attribute].blocks for module in (small, nearest))
        assert [block.bits for block in ours] == [block.bits for block in theirs]
        different += sum(not torch.equal(a.codes, b.codes) for a, b in zip(ours, theirs, strict=True))
    assert different >= 12


def test_the_same_result_for_any_number_of_threads(cells, states):
    plan = plan_for(cells.module, [3])
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            small = tqs.quantize(cells.module, plan, method=tqs.Compensation(**FEW), system=cells, initial=states)
            found.append(small.state_dict())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_given_contexts_and_the_module_itself(cells, states):
    plan = plan_for(cells.module, [4])
    small = tqs.quantize(cells.module, plan, method="gptq", system=cells, initial=states)
    assert small.tqs_plan.provenance["compensation"]["initial"][0]["name"] == "mine"
    # inputs come from rollouts of `module`, not of the system's own
    other = cells_system(24, seed=9)
    theirs = tqs.quantize(other.module, plan, method="gptq", system=cells, initial=states)
    again = tqs.quantize(other.module, plan, method="gptq", system=other, initial=states)
    assert all(
        torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert cells.module.gru.weight_hh.requires_grad


def test_tied_and_float_weights_stay_what_they_are():
    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tied = TiedHead()
            self.untied = torch.nn.Linear(19, 19)

    def step(module, tokens):
        scores = module.untied(module.tied(tokens))
        return scores.argmax(-1), scores.mean(1)

    system = tqs.System(
        Reader(), step=step, initial_state=lambda count, g: torch.randint(0, 19, (count, 3), generator=g)
    )
    plan = plan_for(system.module, [3, None])
    settings = tqs.Compensation(horizon=2)
    tokens = tqs.Contexts(torch.randint(0, 19, (30, 3), generator=torch.Generator().manual_seed(0)))
    small = tqs.quantize(system.module, plan, method=settings, system=system, initial=tokens)
    assert small.tied.embedding.packed["weight"] is small.tied.head.packed["weight"]
    assert torch.equal(small.untied.weight, system.module.untied.weight)


def test_errors_say_what_to_do(cells):
    plan = plan_for(cells.module, [4])
    for method in METHODS:
        with pytest.raises(ArgumentError, match=r"needs the inputs that weights see along rollouts; pass system="):
            tqs.quantize(cells.module, plan, method=method)
    with pytest.raises(ArgumentError, match="rtn, obq, gptq, sensitivity or a Compensation, got 'awq'"):
        tqs.quantize(cells.module, plan, method="awq", system=cells)


def test_from_the_shell(run, tmp_path):
    system = tqs.load_system("lorenz-gru")
    plan, model, out = tmp_path / "plan.json", tmp_path / "model", tmp_path / "kept.json"
    plan_for(system.module, [4]).save(plan)
    arguments = ["--method", "sensitivity", "--plan-out", str(out), "--json", "-o", str(model)]
    printed = json.loads(run("quantize", "lorenz-gru", str(plan), *arguments).stdout)
    assert printed["plan"]["provenance"]["compensation"]["method"] == "sensitivity"
    assert tqs.Plan.load(out).provenance["compensation"]["method"] == "sensitivity"
    small = tqs.quantize(system.module, tqs.Plan.load(plan), method="sensitivity", system=system)
    loaded = tqs.load(system.module, model)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in small.state_dict().items())
