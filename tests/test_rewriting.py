"""quantize: what is packed, what stays, what is refused, and how the result behaves as a module."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import tqs_fast as tqs
from cases.modules import CASES, TiedHead
from packing import outputs, plan_for
from tqs_fast.quantization.weights import KINDS, find_weights, parameter_of
from tqs_fast.rewriting import PackedTensor, QuantLinear, QuantLSTM, QuantModule
from tqs_fast.rewriting.replace import DROP_INS
from tqs_fast.scoring import Layer


class Mixed(nn.Module):
    """Packed and untouched parts: a norm, buffers, a parameter of its own, a convolution that the plan leaves float."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(33, 12)
        self.norm = nn.LayerNorm(12)
        self.rnn = nn.LSTM(12, 12, batch_first=True)
        self.conv = nn.Conv1d(12, 12, 3, padding=1)
        self.scale = nn.Parameter(torch.full((12,), 1.5))
        self.register_buffer("shift", torch.linspace(-1, 1, 12))
        self.register_buffer("scratch", torch.ones(12), persistent=False)

    def forward(self, x):
        y = self.rnn(self.norm(self.encoder(x)))[0]
        return self.conv(y.mT).mT * self.scale + self.shift * self.scratch


@pytest.fixture
def mixed():
    torch.manual_seed(0)
    module = Mixed()
    plan = plan_for(module, [3, 8, 4, None])
    return module, plan, torch.randn(2, 5, 33)


def test_every_kind_has_a_drop_in():
    assert DROP_INS.keys() == KINDS.keys()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_values_are_those_of_the_quantizer(case):
    module = case.make_module()
    for quantizer in (tqs.Quantizer(32, False, "minmax"), tqs.Quantizer(0)):
        plan = plan_for(module, [3, 4, 8, 2], quantizer)
        small = tqs.quantize(module, plan)
        for weight in find_weights(module):
            bits = plan.bits[weight.name]
            expected = quantizer.dequantized(parameter_of(module, weight), bits)
            for path, attribute in weight.owners:
                owner = small.get_submodule(path)
                actual = owner.out_proj.weight if attribute == "out_proj.weight" else getattr(owner, attribute)
                assert torch.equal(actual, expected)
                assert actual.shape == weight.shape


def test_the_rest_is_untouched_and_the_original_too(mixed):
    module, plan, x = mixed
    before = copy.deepcopy(module.state_dict())
    y = module(x)
    small = tqs.quantize(module, plan)
    assert torch.equal(module(x), y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert type(small.conv) is nn.Conv1d
    for name in ("norm.weight", "norm.bias", "conv.weight", "conv.bias", "encoder.bias", "rnn.bias_hh_l0", "scale"):
        assert torch.equal(small.get_parameter(name), module.get_parameter(name))
        assert small.get_parameter(name) is not module.get_parameter(name)
    assert torch.equal(small.shift, module.shift)
    assert {name for name, _ in small.named_parameters()} == {
        name for name, _ in module.named_parameters() if plan.bits.get(name) is None
    }


def test_packed_sizes_are_those_of_the_plan(mixed):
    module, plan, _ = mixed
    small = tqs.quantize(module, plan)
    packed = sum(part.nbytes for part in small.modules() if isinstance(part, PackedTensor))
    assert packed + 4 * small.conv.weight.numel() == plan.bytes


def test_a_module_that_is_itself_a_layer():
    module = nn.Linear(5, 3)
    assert isinstance(tqs.quantize(module, plan_for(module, [4])), QuantLinear)


def test_a_plan_that_packs_nothing_gives_a_copy(mixed):
    module, _, x = mixed
    same = tqs.quantize(module, plan_for(module, [None]))
    assert same is not module
    assert torch.equal(same(x), module(x))


def test_tied_weights_stay_tied():
    module = TiedHead()
    small = tqs.quantize(module, plan_for(module, [4]))
    assert small.embedding.packed["weight"] is small.head.packed["weight"]
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert copied.embedding.packed["weight"] is copied.head.packed["weight"]
    small.head.packed["weight"].blocks[0].codes.zero_()
    assert (small.embedding.packed["weight"].blocks[0].codes == 0).all()


def test_a_module_used_twice_is_replaced_once():
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    small = tqs.quantize(module, plan_for(module, [4]))
    assert isinstance(small[0], QuantLinear)
    assert small[0] is small[2]


def test_group_size_replaces_that_of_the_plan():
    module = nn.Linear(100, 4)
    small = tqs.quantize(module, plan_for(module, [4]), group_size=32)
    assert small.packed["weight"].blocks[0].group_size == 32
    assert small.packed["weight"].blocks[0].scales.shape == (4, 4)
    with pytest.raises(tqs.ArgumentError, match="group_size"):
        tqs.quantize(module, plan_for(module, [4]), group_size=48)


def test_subclasses_that_keep_forward_are_packed():
    class Named(nn.Linear):
        pass

    module = Named(4, 3)
    assert isinstance(tqs.quantize(module, plan_for(module, [4])), QuantLinear)


def test_wrong_plans_are_refused(mixed):
    module, plan, _ = mixed
    with pytest.raises(tqs.ArgumentError, match=r"\[quantize\] method must be one of rtn, .*, got 'awq'"):
        tqs.quantize(module, plan, method="awq")
    with pytest.raises(tqs.ArgumentError, match=r"the plan names encoder\.weight, which Linear does not have"):
        tqs.quantize(nn.Linear(3, 3), plan)
    other = Mixed()
    other.encoder = nn.Linear(34, 12)
    with pytest.raises(tqs.ArgumentError, match=r"encoder\.weight of shape \[12, 33\], the module has \[12, 34\]"):
        tqs.quantize(other, plan)
    other = Mixed()
    other.conv = nn.LSTM(12, 12)
    with pytest.raises(tqs.ArgumentError, match=r"conv\.weight, which Mixed does not have"):
        tqs.quantize(other, plan)
    layers = tuple(replace(layer, kind="Conv1d") if layer.name == "encoder.weight" else layer for layer in plan.layers)
    with pytest.raises(tqs.ArgumentError, match=r"encoder\.weight in a Conv1d, the module in a Linear"):
        tqs.quantize(module, replace(plan, layers=layers))
    small = tqs.quantize(module, plan)
    with pytest.raises(tqs.ArgumentError, match=r"encoder\.weight"):
        tqs.quantize(small, plan)


def test_weights_that_cannot_be_packed_are_refused():
    module = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    name = "1.parametrizations.weight.original1"
    plan = tqs.Plan({name: 4}, (Layer(name, "Linear", (3, 3), 9),), tqs.Quantizer())
    with pytest.raises(tqs.ArgumentError, match="matches no quantizable layer"):
        tqs.quantize(module, plan)
    module = nn.Linear(3, 3)
    plan = plan_for(module, [4])
    with torch.no_grad():
        module.weight[1, 2] = torch.nan
    with pytest.raises(tqs.ArgumentError, match=r"weight holds NaN or infinity, first at \[1, 2\]"):
        tqs.quantize(module, plan)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_copies_compute_the_same(case):
    module = case.make_module()
    small = tqs.quantize(module, plan_for(module, [4, 3, None, 8]))
    inputs = case.make_input(2)
    expected = outputs(small, inputs)
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(outputs(other, inputs), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dicts_carry_everything(case):
    module = case.make_module()
    plan = plan_for(module, [4, 3, None, 8])
    small, inputs = tqs.quantize(module, plan), case.make_input(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-0.5)
    other = tqs.quantize(module, plan)
    assert not torch.equal(outputs(other, inputs), outputs(small, inputs))
    buffer = io.BytesIO()
    torch.save(small.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(outputs(other, inputs), outputs(small, inputs))


def test_a_state_dict_of_another_format_changes_nothing():
    module = nn.Linear(1, 4)  # one byte a row at every bit-width, so shapes do not tell
    four, eight = (tqs.quantize(module, plan_for(module, [bits])) for bits in (4, 8))
    before = eight.packed["weight"].blocks[0].codes.clone()
    with pytest.raises(RuntimeError, match=r"expected \[bits, group_size, activation, \*shape\] \[8, 128, 0, 4, 1\]"):
        eight.load_state_dict(four.state_dict())
    assert torch.equal(eight.packed["weight"].blocks[0].codes, before)
    with pytest.raises(RuntimeError, match="Missing key"):
        eight.load_state_dict(module.state_dict())


def test_dtype_moves_leave_the_packed_values_alone(mixed):
    module, plan, x = mixed
    small = tqs.quantize(module, plan)
    expected = small(x)
    for convert in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.to(torch.float16)):
        moved = convert(copy.deepcopy(small))
        assert moved.encoder.weight.dtype == moved.encoder.bias.dtype
        assert torch.equal(moved.float().encoder.weight, small.encoder.weight)
    double = copy.deepcopy(small).double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)


def test_the_dtype_of_the_module_is_kept(mixed):
    module, plan, x = mixed
    small = tqs.quantize(module.to(torch.bfloat16), plan)
    assert small(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert small.encoder.weight.dtype == torch.bfloat16


def test_the_meta_device(mixed):
    module, plan, x = mixed
    small = tqs.quantize(module, plan).to("meta")
    assert all(part.is_meta for part in itertools.chain(small.parameters(), small.buffers()))
    assert small(x.to("meta")).shape == (2, 5, 12)
    empty = small.to_empty(device="cpu")
    empty.load_state_dict(tqs.quantize(module, plan).state_dict())
    empty.scratch.fill_(1)
    assert torch.equal(empty(x), tqs.quantize(module, plan)(x))


def test_code_that_reads_weights_gets_dequantized_ones(mixed):
    module, plan, _ = mixed
    small = tqs.quantize(module, plan)
    assert isinstance(small.rnn, QuantLSTM)
    assert small.rnn.weight_ih_l0.shape == module.rnn.weight_ih_l0.shape
    assert not small.rnn.weight_ih_l0.requires_grad
    small.rnn.flatten_parameters()
    with pytest.raises(AttributeError, match="weight_ih_l7"):
        _ = small.rnn.weight_ih_l7


def test_names_of_packed_weights_are_reported(mixed):
    module, plan, _ = mixed
    small = tqs.quantize(module, plan)
    names = {path: part.packed_names for path, part in small.named_modules() if isinstance(part, QuantModule)}
    assert names == {"encoder": ("weight",), "rnn": ("weight_ih_l0", "weight_hh_l0")}
    assert "bits=3" in repr(small)
