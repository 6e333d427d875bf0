"""Weights packed in row blocks, each block at its own bits."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import tqs_fast as tqs
from cases.modules import CASES
from networks import cells_system
from packing import block_plan
from tqs_fast.quantization.blocks import parse_name
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.scoring import Layer


def block_twin(module: nn.Module, plan: tqs.Plan) -> nn.Module:
    """A float copy of `module` that holds the values the plan stores."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        weights = {weight.name: parameter_of(twin, weight) for weight in find_weights(twin)}
        for name, bits in plan.bits.items():
            weight, rows = parse_name(name)
            part = weights[weight][slice(*rows)] if rows else weights[weight]
            part.copy_(plan.quantizer.dequantized(part, bits))
    return twin


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_equal_a_float_model_of_the_stored_values(case, symmetric, tmp_path):
    module = case.make_module().eval()
    plan = block_plan(module, 3, tqs.Quantizer(group_size=32, symmetric=symmetric))
    small = tqs.quantize(module, plan).eval()
    twin = block_twin(module, plan)
    arguments = case.make_input(4)
    expected, got = twin(*arguments, **case.kwargs), small(*arguments, **case.kwargs)
    # float32 sums in another order, through at most a few saturating layers
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)
    tqs.save(small, tmp_path / "model")
    loaded = tqs.load(module, tmp_path / "model").eval()
    torch.testing.assert_close(loaded(*arguments, **case.kwargs), got, rtol=0, atol=0)
    values = {weight.name: parameter_of(twin, weight) for weight in find_weights(twin)}
    for weight in find_weights(module):
        path, attribute = weight.owners[0]
        owner = small.get_submodule(path)
        stored = owner.packed[attribute] if attribute in owner.packed else owner.out_proj.packed["weight"]
        assert torch.equal(stored.dequantized(), values[weight.name].detach())


def test_scores_plans_and_models_agree_on_blocks():
    """A plan with one block rounded measures, as a packed model, the damage that its lane measured."""
    system = cells_system()
    initial = tqs.Attractor(count=4, spin_up=4)
    table = tqs.score(system, horizon=8, initial=initial, row_blocks=4, method=tqs.Residual(bits=(3, 8)))
    names = [layer.name for layer in table.layers]
    assert "gru.weight_hh[12:24]" in names
    assert "out.weight[0:1]" in names
    assert sum(layer.parameters for layer in table.layers) == sum(w.parameters for w in find_weights(system.module))
    chosen = names.index("gru.weight_hh[12:24]")
    block = block_twin(system.module, tqs.Plan({names[chosen]: 3}, (table.layers[chosen],), table.quantizer))
    alone = tqs.evaluate(system, block, horizon=8, initial=initial, seed=0)
    assert alone.damage == pytest.approx(table.damage[chosen, 0], rel=1e-3)
    plan = tqs.allocate(table, average_bits=9.0)
    assert plan.bytes == sum(table.quantizer.bytes(layer.shape, plan.bits[layer.name]) for layer in table.layers)
    small = tqs.quantize(system.module, plan)
    packed = [m for m in small.modules() if type(m).__name__ == "PackedTensor"]
    assert sum(tensor.nbytes for tensor in packed) == plan.bytes


def test_rows_that_do_not_cover_the_weight_are_named():
    module = nn.Linear(4, 6)
    quantizer = tqs.Quantizer()

    def plan(bits):
        layers = tuple(
            Layer(name, "Linear", ((rows[1] - rows[0]) if rows else 6, 4), 4 * ((rows[1] - rows[0]) if rows else 6))
            for name in bits
            for _, rows in [parse_name(name)]
        )
        return tqs.Plan(bits, layers, quantizer)

    for bits in (
        {"weight[0:3]": 4, "weight[4:6]": 4},
        {"weight[0:4]": 4, "weight[3:6]": 4},
        {"weight[0:3]": 4},
        {"weight[0:3]": 4, "weight[3:9]": 4},
    ):
        with pytest.raises(tqs.ArgumentError, match="cover its 6 rows once"):
            tqs.quantize(module, plan(bits))
    with pytest.raises(tqs.ArgumentError, match="some row blocks of weight float"):
        tqs.quantize(module, plan({"weight[0:3]": 4, "weight[3:6]": None}))
    with pytest.raises(tqs.ArgumentError, match="which Linear does not have"):
        tqs.quantize(module, plan({"other[0:3]": 4}))


def test_a_file_with_a_block_missing_is_refused(tmp_path):
    module = nn.Linear(4, 6)
    tqs.save(tqs.quantize(module, block_plan(module, 2)), tmp_path / "model")
    with safe_open(tmp_path / "model", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["weight[0:3].codes"]
    save_file(tensors, tmp_path / "broken", metadata)
    with pytest.raises(tqs.FileFormatError, match=r"no tensor weight\[0:3\]\.codes"):
        tqs.load(module, tmp_path / "broken")
    with pytest.raises(tqs.FileFormatError, match="in the module"):
        tqs.load(nn.Linear(5, 6), tmp_path / "model")
    with pytest.raises(tqs.FileFormatError, match="cover its 8 rows"):
        tqs.load(nn.Linear(4, 8), tmp_path / "model")


def test_embedding_rows_out_of_range_are_refused():
    module = nn.Embedding(7, 5)
    small = tqs.quantize(module, block_plan(module, 3))
    with pytest.raises(IndexError, match="from 0 to 6"):
        small(torch.tensor([7]))


def test_row_blocks_must_be_positive():
    with pytest.raises(tqs.ArgumentError, match="row_blocks"):
        tqs.score(cells_system(), horizon=3, row_blocks=0)
