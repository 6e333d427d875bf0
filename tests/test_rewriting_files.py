"""save and load: bitwise round trips, and files that must be refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import tqs_fast as tqs
from cases.modules import CASES, TiedHead
from packing import outputs, plan_for
from tqs_fast.rewriting import QuantLinear


class Network(nn.Module):
    def __init__(self, hidden=12, dtype=torch.float32):
        super().__init__()
        self.rnn = nn.GRU(5, hidden, batch_first=True)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, 3)
        self.to(dtype)

    def forward(self, x):
        return self.head(self.norm(self.rnn(x)[0].mT).mT)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = Network().eval()
    module.norm.running_mean.uniform_(-1, 1)
    small = tqs.quantize(module, plan_for(module, [3, None, 8], tqs.Quantizer(32, False)))
    path = tmp_path / "model.safetensors"
    tqs.save(small, path)
    return small, path


def contents(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_round_trip_is_bitwise(case, symmetric, tmp_path):
    module, inputs = case.make_module(), case.make_input(2)
    plan = plan_for(module, [3, 8, None, 2, 4], tqs.Quantizer(32, symmetric))
    small = tqs.quantize(module, plan)
    tqs.save(small, tmp_path / "a")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)  # the values of the given module do not matter
    loaded = tqs.load(module, tmp_path / "a")
    assert torch.equal(outputs(loaded, inputs), outputs(small, inputs))
    assert not loaded.training
    tqs.save(loaded, tmp_path / "b")
    (first, metadata), (second, metadata_again) = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert metadata_again == metadata
    assert second.keys() == first.keys()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_the_file_says_what_it_holds(saved):
    small, path = saved
    tensors, metadata = contents(path)
    assert (metadata["format"], metadata["version"]) == ("tqs-fast/model", "1")
    assert tqs.Plan.from_json(json.loads(metadata["plan"])).bits == small.tqs_plan.bits
    assert json.loads(metadata["packed"])["rnn.weight_ih_l0"] == {
        "bits": 3,
        "group_size": 32,
        "activation": "float",
        "shape": [36, 5],
        "dtype": "float32",
        "names": ["rnn.weight_ih_l0"],
    }
    assert tensors["rnn.weight_ih_l0.codes"].dtype == torch.uint8
    assert tensors["rnn.weight_ih_l0.scales"].dtype == torch.bfloat16
    assert tensors["rnn.weight_hh_l0"].dtype == torch.float32
    assert tensors["norm.num_batches_tracked"].dtype == torch.int64
    assert not any("_extra_state" in name or "anchor" in name for name in tensors)


def test_state_beyond_parameters_is_restored(saved):
    small, path = saved
    loaded = tqs.load(Network().eval(), path)
    assert torch.equal(loaded.norm.running_mean, small.norm.running_mean)
    assert loaded.tqs_plan.bits == small.tqs_plan.bits


def test_bfloat16_models(tmp_path):
    module = Network(dtype=torch.bfloat16).eval()
    small, x = tqs.quantize(module, plan_for(module, [4])), torch.randn(2, 4, 5).to(torch.bfloat16)
    tqs.save(small, tmp_path / "m")
    assert torch.equal(tqs.load(Network(dtype=torch.bfloat16).eval(), tmp_path / "m")(x), small(x))
    with pytest.raises(
        tqs.FileFormatError, match=r"bfloat16 in the file, float32 in the module; convert the module first"
    ):
        tqs.load(Network(), tmp_path / "m")


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    small = tqs.quantize(TiedHead(), plan_for(TiedHead(), [4]))
    tqs.save(small, tmp_path / "m")
    assert [name for name in contents(tmp_path / "m")[0] if name.endswith("codes")] == ["embedding.weight.codes"]
    loaded = tqs.load(TiedHead(), tmp_path / "m")
    assert loaded.embedding.packed["weight"] is loaded.head.packed["weight"]
    untied = TiedHead()
    untied.head.weight = nn.Parameter(untied.head.weight.detach().clone())
    with pytest.raises(tqs.FileFormatError, match=r"embedding\.weight is shared by .*'head\.weight'\] in the file"):
        tqs.load(untied, tmp_path / "m")


def test_tied_float_weights(tmp_path):
    def make():
        module = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
        module[2].bias = module[1].bias
        return module

    module = make()
    tqs.save(tqs.quantize(module, plan_for(module, [4, None, None])), tmp_path / "m")
    assert "2.bias" not in contents(tmp_path / "m")[0]
    loaded = tqs.load(make(), tmp_path / "m")
    assert loaded[2].bias is loaded[1].bias
    assert torch.equal(loaded[2].bias, module[2].bias)
    untied = make()
    untied[2].bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(tqs.FileFormatError, match=r"no tensor 2\.bias"):
        tqs.load(untied, tmp_path / "m")


def test_saving_is_atomic(saved, monkeypatch):
    small, path = saved
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        target.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr("tqs_fast.rewriting.container.save_file", fail)
    with pytest.raises(tqs.ArgumentError, match="disk full; choose a writable path"):
        tqs.save(small, path)
    assert path.read_bytes() == before
    assert [part.name for part in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_saved(saved, tmp_path):
    small, path = saved
    with pytest.raises(tqs.ArgumentError, match=r"\[save\] Network holds no plan"):
        tqs.save(Network(), path)
    with pytest.raises(tqs.ArgumentError, match="does not exist; create it first"):
        tqs.save(small, tmp_path / "nowhere" / "m")
    with pytest.raises(tqs.ArgumentError, match="meta device"):
        tqs.save(small.to("meta"), path)


def test_files_that_are_not_ours(saved, tmp_path):
    _, path = saved
    whole, other = path.read_bytes(), tmp_path / "other"
    with pytest.raises(tqs.FileFormatError, match="there is no such file"):
        tqs.load(Network(), tmp_path / "missing")
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        other.write_bytes(whole[:length])
        with pytest.raises(tqs.FileFormatError, match="not a complete safetensors file"):
            tqs.load(Network(), other)
    other.write_bytes(b"\xff" * 64)
    with pytest.raises(tqs.FileFormatError, match="not a complete safetensors file"):
        tqs.load(Network(), other)
    save_file({"x": torch.zeros(2)}, other)
    with pytest.raises(tqs.FileFormatError, match="expected format 'tqs-fast/model', got None"):
        tqs.load(Network(), other)


def test_a_flipped_byte_is_found_and_its_tensor_named(saved):
    """In every tensor, and anywhere in the header, where one may also mean nothing (padding)."""
    small, path = saved
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:begin])
    state = small.state_dict()

    def load_flipped(position, mask=0x20):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        return tqs.load(Network(), path)

    del header["__metadata__"]
    assert {"rnn.weight_ih_l0.codes", "head.weight.zeros", "norm.num_batches_tracked", "norm.bias"} <= header.keys()
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        for position, mask in ((first, 0x01), ((first + end) // 2, 0x80), (end - 1, 0x10)):
            with pytest.raises(tqs.FileFormatError, match=f"the tensor {name} does not have the checksum") as raised:
                load_flipped(begin + position, mask)
            assert "copy it again, or write it again" in str(raised.value)
    unseen = 0
    for position in range(0, begin, 7):
        try:
            loaded = load_flipped(position)
        except tqs.FileFormatError:
            continue
        unseen += 1
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        assert loaded.tqs_plan.to_json() == small.tqs_plan.to_json()
    assert unseen < 5


def test_files_without_checksums_are_loaded(saved):
    small, path = saved
    tensors, metadata = contents(path)
    del metadata["checksums"]
    save_file(tensors, path, metadata)
    loaded = tqs.load(Network(), path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small.state_dict().items())


def packed_entry(**change):
    def alter(tensors, metadata):
        packed = json.loads(metadata["packed"])
        packed["head.weight"] |= change
        metadata["packed"] = json.dumps(packed)

    return alter


def without(entry):
    def alter(tensors, metadata):
        packed = json.loads(metadata["packed"])
        del packed["head.weight"][entry]
        metadata["packed"] = json.dumps(packed)

    return alter


def put(**entries):
    return lambda tensors, metadata: metadata.update(entries)


def tensor(name, change):
    def alter(tensors, metadata):
        tensors[name] = change(tensors[name])

    return alter


HOSTILE = {
    "version": (put(version="2"), "expected version '1', got '2'"),
    "no plan": (lambda tensors, metadata: metadata.pop("plan"), "'plan' is missing or not JSON"),
    "plan of another kind": (put(plan="{}"), "plan cannot be read"),
    "plan not an object": (put(plan="[]"), "'plan' is not a JSON object"),
    "packed not JSON": (put(packed="{"), "'packed' is missing or not JSON"),
    "deep JSON": (put(aliases="[" * 100_000), "'aliases' is missing or not JSON"),
    "entry": (packed_entry(extra=1), "the format of a packed weight is"),
    "bits": (packed_entry(bits=4), "its plan and its packed weights disagree"),
    "bits out of range": (packed_entry(bits=16), "the format of a packed weight is"),
    "bits of another type": (packed_entry(bits=8.0), "the format of a packed weight is"),
    "group size": (packed_entry(group_size=0), "its plan and its packed weights disagree"),
    "shape": (packed_entry(shape=[3, 13]), r"head\.weight has shape \[3, 13\] in the file, \[3, 12\] in the module"),
    "activation missing": (without("activation"), "the format of a packed weight is"),
    "activation unknown": (packed_entry(activation="int4"), "the format of a packed weight is"),
    "activation of another type": (packed_entry(activation=["int8"]), "the format of a packed weight is"),
    "activation not planned": (packed_entry(activation="int8"), "its plan and its packed weights disagree"),
    "huge shape": (packed_entry(shape=[2**62, 2**62]), r"head\.weight has shape"),
    "dtype": (packed_entry(dtype="int8"), "the format of a packed weight is"),
    "codes missing": (lambda tensors, _: tensors.pop("head.weight.codes"), r"no tensor head\.weight\.codes"),
    "codes short": (
        tensor("head.weight.codes", lambda t: t[:, 1:].clone()),
        r"expected head\.weight\.codes to be uint8 \[3, 12\]",
    ),
    "codes signed": (tensor("head.weight.codes", lambda t: t.view(torch.int8)), "got int8"),
    "scales float": (
        tensor("head.weight.scales", lambda t: t.float()),
        r"expected head\.weight\.scales to be bfloat16",
    ),
    "scales NaN": (tensor("head.weight.scales", lambda t: t * torch.nan), r"head\.weight\.scales holds NaN"),
    "zeros large": (tensor("rnn.weight_ih_l0.zeros", lambda t: t | 8), r"rnn\.weight_ih_l0\.zeros holds"),
    "zeros missing": (lambda tensors, _: tensors.pop("head.weight.zeros"), r"no tensor head\.weight\.zeros"),
    "bias missing": (lambda tensors, _: tensors.pop("head.bias"), r"it has no tensor head\.bias"),
    "bias shape": (tensor("head.bias", lambda t: t[:2].clone()), r"head\.bias has shape \[2\] in the file, \[3\]"),
    "bias dtype": (tensor("head.bias", lambda t: t.double()), r"head\.bias is float64 in the file, float32"),
    "one too many": (lambda tensors, _: tensors.update(more=torch.zeros(1)), "its tensor more has no place"),
    "aliases": (put(aliases='{"head.bias": "norm.bias"}'), "it ties"),
}
OF_THE_CHECKSUMS = {
    "not JSON": (put(checksums="{"), "'checksums' is missing or not JSON"),
    "one missing": (put(checksums="{}"), "does not have the checksum that it was written with"),
    "of a plan": (lambda tensors, metadata: metadata.update(plan=metadata["plan"] + " "), "the metadata does not have"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files(name, saved):
    _, path = saved
    alter, message = HOSTILE[name]
    tensors, metadata = contents(path)
    alter(tensors, metadata)
    del metadata["checksums"]  # whoever wrote it meant it so
    save_file(tensors, path, metadata)
    module = Network()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(tqs.FileFormatError, match=message):
        tqs.load(module, path)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", OF_THE_CHECKSUMS)
def test_checksums_that_are_not_those_of_the_file(name, saved):
    _, path = saved
    alter, message = OF_THE_CHECKSUMS[name]
    tensors, metadata = contents(path)
    alter(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(tqs.FileFormatError, match=message):
        tqs.load(Network(), path)


def test_modules_that_are_not_the_one_saved(saved):
    _, path = saved
    with pytest.raises(tqs.FileFormatError, match=r"rnn\.weight_ih_l0 has shape \[36, 5\] in the file, \[39, 5\]"):
        tqs.load(Network(hidden=13), path)
    with pytest.raises(
        tqs.FileFormatError, match=r"packed weight rnn\.weight_ih_l0 is not a quantizable weight of the given Linear"
    ):
        tqs.load(nn.Linear(3, 3), path)
    more = Network()
    more.extra = nn.Linear(2, 2)
    with pytest.raises(tqs.FileFormatError, match=r"it has no tensor extra\.weight; pass the float module"):
        tqs.load(more, path)
    with pytest.raises(tqs.FileFormatError, match="meta device"):
        tqs.load(Network().to("meta"), path)


def test_state_that_is_not_a_tensor(tmp_path):
    class Noted(nn.Linear):
        def get_extra_state(self):
            return {"note": 1}

        def set_extra_state(self, state):
            pass

    module = nn.Sequential(nn.Linear(3, 3), Noted(3, 3))
    small = tqs.quantize(module, plan_for(module, [4, None]))
    assert isinstance(small[0], QuantLinear)
    with pytest.raises(
        tqs.ArgumentError, match=r"1\._extra_state is dict, expected a tensor; a file holds tensors only"
    ):
        tqs.save(small, tmp_path / "m")
