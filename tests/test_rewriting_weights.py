"""Which parameters count as quantizable weights, and how they are selected."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import tqs_fast as tqs
from cases.modules import TiedHead
from packing import plan_for
from tqs_fast.quantization.weights import find_weights, parameter_of, skipped_weights


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.mine = self.inner.weight


def names(module, layers=None):
    return [weight.name for weight in find_weights(module, layers)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Linear(3, 4), {"weight": "Linear"}),
        (lambda: nn.Conv2d(3, 4, 2), {"weight": "Conv2d"}),
        (lambda: nn.LSTM(3, 4, proj_size=2), dict.fromkeys(("weight_ih_l0", "weight_hh_l0", "weight_hr_l0"), "LSTM")),
        (lambda: nn.GRUCell(3, 4), dict.fromkeys(("weight_ih", "weight_hh"), "GRUCell")),
        (
            lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
            dict.fromkeys(("in_proj_weight", "out_proj.weight"), "MultiheadAttention"),
        ),
        (
            lambda: nn.MultiheadAttention(4, 2, kdim=3),
            dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"), "MultiheadAttention"),
        ),
    ],
)
def test_weights_of_a_kind(make, expected):
    module = make()
    found = find_weights(module)
    assert {weight.name: weight.kind for weight in found} == expected
    for weight in found:
        parameter = module.get_parameter(weight.name)
        assert parameter_of(module, weight) is parameter
        assert weight.shape == tuple(parameter.shape)
        assert weight.parameters == parameter.numel()


def test_order_is_that_of_named_parameters():
    module = nn.Sequential(nn.LSTM(3, 4, 2), nn.LayerNorm(4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    order = [name for name, parameter in module.named_parameters() if parameter.ndim >= 2]
    assert names(module) == order


def test_shared_parameters_count_once():
    (weight,) = find_weights(TiedHead())
    assert weight.name == "embedding.weight"
    assert weight.kind == "Embedding"
    assert weight.owners == (("embedding", "weight"), ("head", "weight"))
    assert names(TiedHead(), ["head.weight"]) == ["embedding.weight"]
    assert names(TiedHead(), "head.*") == ["embedding.weight"]


def test_patterns():
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.GRU(2, 2), "c": nn.Linear(2, 2)})
    assert names(module, "b.*") == ["b.weight_ih_l0", "b.weight_hh_l0"]
    assert names(module, ["c.weight", "[ab].weight*ih*", "a.weight"]) == ["a.weight", "b.weight_ih_l0", "c.weight"]
    with pytest.raises(tqs.ArgumentError, match=r"'d\.\*' matches no quantizable layer; the layers are a\.weight"):
        find_weights(module, ["a.weight", "d.*"])
    with pytest.raises(tqs.ArgumentError, match="layers is empty"):
        find_weights(module, [])


def test_nothing_to_quantize():
    with pytest.raises(
        tqs.ArgumentError, match=r"no quantizable layer was found in LayerNorm: supported kinds are Linear"
    ):
        find_weights(nn.LayerNorm(4))
    small = tqs.quantize(nn.Linear(4, 4), plan_for(nn.Linear(4, 4), [4]))
    with pytest.raises(tqs.ArgumentError, match="weight is already packed"):
        find_weights(small)
    with pytest.raises(tqs.ArgumentError, match="weight cannot be quantized: it is already packed"):
        find_weights(small, ["weight"])


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "1.weight", "computed from other tensors"),
        (lambda: nn.utils.spectral_norm(nn.Linear(3, 3)), "1.weight", "computed from other tensors"),
        (lambda: OwnForward(3, 3), "1.weight", "OwnForward, which has a forward of its own"),
        (lambda: nn.Embedding(3, 3, max_norm=1.0), "1.weight", "renormalised in place"),
        (lambda: Holder(), "1.mine", "is shared with 1.mine"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::FutureWarning"
)  # torch's spectral_norm has a successor; old checkpoints still use it
def test_unsupported_weights(make, name, reason):
    module = nn.Sequential(nn.Linear(3, 3), make())
    assert names(module) == ["0.weight"]
    assert names(module, "*") == ["0.weight"]
    assert reason in skipped_weights(module)[name]
    with pytest.raises(tqs.ArgumentError, match=f"{name} cannot be quantized: it .*{reason}"):
        find_weights(module, [name])
    with pytest.raises(tqs.ArgumentError, match="matches no quantizable layer"):
        find_weights(module, ["0.weight", "1.*"])


def test_a_forward_set_on_the_instance_is_seen():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].forward = lambda x: x
    assert names(module) == ["0.weight"]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.int8), "is int8, expected a weight of float16"),
        (torch.zeros(3, 3, dtype=torch.complex64), "is complex64"),
        (torch.zeros(3, 3, device="meta"), "meta device"),
        (torch.full((3, 3), torch.inf), r"holds NaN or infinity, first at \[0, 0\]"),
    ],
)
def test_weights_without_usable_values(weight, message):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(tqs.ArgumentError, match=rf"1\.weight .*{message}.* or leave 1\.weight out"):
        find_weights(module)
    assert names(module, ["0.weight"]) == ["0.weight"]


def test_lazy_modules_must_run_first():
    with pytest.raises(tqs.ArgumentError, match="weight has no shape yet"):
        find_weights(nn.LazyLinear(3))
