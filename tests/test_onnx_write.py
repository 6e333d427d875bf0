"""Quantized ONNX files: what plain ONNX Runtime makes of them is what `evaluate` predicts from the plan."""

from __future__ import annotations

import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper

import tqs_fast as tqs
from onnx_models import map_model, model, recurrent_model, run_plain, weight, written
from test_onnx_lift import branching
from tqs_fast import Layer, Plan, Quantizer
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.kernels import PackedWeight
from tqs_fast.onnx.codes import codes_of, packed_bytes
from tqs_fast.quantization.blocks import split
from tqs_fast.quantization.weights import find_weights


def plan_for(module: tqs.OnnxModule, quantizer: Quantizer, bits: list[int | None], row_blocks: int = 1) -> Plan:
    """Bits in turn over the blocks of all weights; None keeps a whole weight."""
    layers, chosen = [], {}
    turn = itertools.cycle(bits)
    for found in find_weights(module):
        blocks = split(found, row_blocks)
        keep = bits == [None]
        for block in blocks:
            layers.append(Layer(block.name, found.kind, block.shape, int(np.prod(block.shape))))
            chosen[block.name] = None if keep else next(turn)
    return Plan(chosen, tuple(layers), quantizer)


def ends(path: Path, module: tqs.OnnxModule) -> None:
    """The file is clean, and has the ports and node names of the float model."""
    onnx.checker.check_model(str(path), full_check=False)
    small, plain = onnx.load(path), onnx.load(module.path)
    assert [p.name for p in small.graph.input] == [p.name for p in plain.graph.input]
    assert [p.name for p in small.graph.output] == [p.name for p in plain.graph.output]
    assert {n.name for n in plain.graph.node if n.name} <= {n.name for n in small.graph.node}


FORMATS = [
    Quantizer(group_size=g, symmetric=s, search="minmax") for g, s in itertools.product((32, 128, 0), (True, False))
]


@pytest.mark.parametrize("quantizer", FORMATS, ids=str)
@pytest.mark.parametrize("bits", [[2], [3], [4], [8], [2, 8, 3]], ids=str)
def test_products(tmp_path: Path, quantizer: Quantizer, bits: list[int]) -> None:
    module = tqs.OnnxModule(written(map_model(40), tmp_path))
    plan = plan_for(module, quantizer, bits, row_blocks=3)
    small = tqs.quantize(module, plan)
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", module)
    graph = onnx.load(tmp_path / "small.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulNBits") == 2
    assert not {"MatMul", "Gemm"} & set(kinds)
    widths = [a.i for node in graph.node if node.op_type == "MatMulNBits" for a in node.attribute if a.name == "bits"]
    assert widths == [4 if max(bits) == 3 else max(bits)] * 2
    x = weight(6, 40, seed=3)
    found = run_plain(tmp_path / "small.onnx", {"x": x}, {"x_next": "x"}, 1, "x_next")[0]
    expected = small.run({"x": torch.from_numpy(x)})["x_next"].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)  # sin of an angle of some tens, in float32
    plain = module.run({"x": torch.from_numpy(x)})["x_next"].numpy()
    assert np.abs(expected - plain).max() > (1e-1 if min(bits) < 8 else 1e-3)


@pytest.mark.parametrize("quantizer", FORMATS, ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(tmp_path: Path, kind: str, quantizer: Quantizer) -> None:
    system = tqs.load_system(str(written(recurrent_model(kind), tmp_path)))
    small = tqs.quantize(system.module, plan_for(system.module, quantizer, [3, 8, 4, 2], row_blocks=2))
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", system.module)
    assert [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node].count("DequantizeLinear") == 2
    predicted = tqs.evaluate(system, small, horizon=12)
    measured = tqs.evaluate(system, tqs.load(system.module, tmp_path / "small.onnx"), horizon=12)
    assert predicted.damage > 0
    np.testing.assert_allclose(measured.samples, predicted.samples, rtol=1e-4)


def mixed_model() -> onnx.ModelProto:
    """Convolution, embedding, batched product and a Gemm with a factor: all that MatMulNBits does not do."""
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["row"], name="lookup"),
        helper.make_node("Conv", ["x", "kernel"], ["convolved"], name="conv", pads=[1, 1]),
        helper.make_node("Reshape", ["convolved", "apart"], ["parts"]),
        helper.make_node("MatMul", ["parts", "batched"], ["product"], name="batched_product"),
        helper.make_node("Reshape", ["product", "flat"], ["rows"]),
        helper.make_node("Gemm", ["rows", "square"], ["scaled"], name="scaled_product", alpha=0.5),
        helper.make_node("Add", ["scaled", "row"], ["y"]),
    ]
    values = {"table": weight(7, 36), "kernel": weight(6, 5, 3), "batched": weight(6, 40, 36), "square": weight(36, 36)}
    values |= {"apart": np.array([6, 1, 40]), "flat": np.array([6, 36])}
    return model(nodes, {"x": [1, 5, 40], "token": [6]}, {"y": [6, 36]}, values, types={"token": TensorProto.INT64})


@pytest.mark.parametrize("group_size", [32, 0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_other_weights_come_out_of_dequantize_linear(tmp_path: Path, symmetric: bool, group_size: int) -> None:
    module = tqs.OnnxModule(written(mixed_model(), tmp_path))
    assert {f.name: f.shape for f in find_weights(module)} == {
        "table": (7, 36),
        "kernel": (6, 5, 3),
        "batched": (36, 6, 40),
        "square": (36, 36),
    }
    plan = plan_for(module, Quantizer(group_size=group_size, symmetric=symmetric), [4, 3, 8, 2])
    small = tqs.quantize(module, plan)
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", module)
    kinds = [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]
    assert kinds.count("DequantizeLinear") == 4
    feeds = {"x": torch.from_numpy(weight(1, 5, 40, seed=4)), "token": torch.tensor([3, 1, 6, 0, 0, 2])}
    found, expected = tqs.load(module, tmp_path / "small.onnx").run(feeds)["y"], small.run(feeds)["y"]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(expected, module.run(feeds)["y"], rtol=0.05)


def test_weights_in_branches(tmp_path: Path) -> None:
    module = tqs.OnnxModule(written(branching(), tmp_path))
    small = tqs.quantize(module, plan_for(module, Quantizer(group_size=32), [4]))
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", module)
    back = tqs.load(module, tmp_path / "small.onnx")
    for flag in (True, False):
        feeds = {"x": torch.from_numpy(weight(3, 4, seed=6)), "flag": torch.tensor(flag)}
        np.testing.assert_allclose(back.run(feeds)["y"].numpy(), small.run(feeds)["y"].numpy(), atol=1e-6)
        assert not torch.allclose(small.run(feeds)["y"], module.run(feeds)["y"], atol=1e-3)


@pytest.mark.skipif(find_spec("silero_vad") is None, reason="needs silero-vad")
def test_silero_as_a_file(tmp_path: Path) -> None:
    """A real model: damage of the file in plain ONNX Runtime equals that of the plan; it is a fifth of the size."""
    from tqs_fast.systems.silero_vad import original_path

    source = original_path().with_name("silero_vad_16k_sequence.onnx")
    system = tqs.load_system(str(source))
    plan = plan_for(system.module, Quantizer(), [4])
    small = tqs.quantize(system.module, plan)
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", system.module)
    start = tqs.Attractor(count=3)
    predicted = tqs.evaluate(system, small, horizon=16, initial=start)
    measured = tqs.evaluate(system, tqs.load(system.module, tmp_path / "small.onnx"), horizon=16, initial=start)
    np.testing.assert_allclose(measured.samples, predicted.samples, rtol=1e-3)
    assert (tmp_path / "small.onnx").stat().st_size < source.stat().st_size / 5


def test_fused_operators_beside_a_convolution(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["convolved"], pads=[1, 1]),
        helper.make_node("Attention", ["convolved", "qkv", "bias"], ["mixed"], domain="com.microsoft", num_heads=2),
        helper.make_node("MatMul", ["mixed", "head"], ["y"]),
    ]
    values = {"kernel": weight(6, 5, 3), "qkv": weight(8, 24), "bias": weight(24), "head": weight(8, 3)}
    module = tqs.OnnxModule(written(model(nodes, {"x": ["n", 5, 8]}, {"y": ["n", 6, 3]}, values), tmp_path))
    small = tqs.quantize(module, plan_for(module, Quantizer(group_size=32), [4]))
    tqs.save(small, tmp_path / "small.onnx")
    ends(tmp_path / "small.onnx", module)
    x = torch.from_numpy(weight(2, 5, 8, seed=4))
    np.testing.assert_allclose(tqs.load(module, tmp_path / "small.onnx")(x).numpy(), small(x).numpy(), atol=1e-5)


def test_a_plan_that_keeps_everything_writes_the_model_again(tmp_path: Path) -> None:
    module = tqs.OnnxModule(written(map_model(), tmp_path))
    small = tqs.quantize(module, plan_for(module, Quantizer(), [None]))
    tqs.save(small, tmp_path / "same.onnx")
    x = weight(3, 24, seed=3)
    assert np.array_equal(
        run_plain(tmp_path / "same.onnx", {"x": x}, {"x_next": "x"}, 5, "x_next"),
        run_plain(module.path, {"x": x}, {"x_next": "x"}, 5, "x_next"),
    )


def test_the_plan_travels_with_the_file(tmp_path: Path) -> None:
    module = tqs.OnnxModule(written(map_model(), tmp_path))
    plan = plan_for(module, Quantizer(), [4, 8])
    small = tqs.quantize(module, plan)
    path = tmp_path / "small.onnx"
    tqs.save(small, path)
    (entry,) = [e for e in onnx.load(path).metadata_props if e.key == "tqs_fast.plan"]
    assert Plan.from_json(json.loads(entry.value)).bits == plan.bits
    back = tqs.load(module, path)
    assert not list(back.parameters())  # the file runs as it is
    with pytest.raises(ArgumentError, match=r"expected a path that ends in .onnx"):
        tqs.save(small, tmp_path / "small.safetensors")
    with pytest.raises(FileFormatError, match="holds no plan of ours"):
        tqs.load(module, module.path)
    other = tqs.OnnxModule(written(recurrent_model(), tmp_path, "other.onnx"))
    with pytest.raises(FileFormatError, match=r"has x where other.onnx has input, h; give the float model"):
        tqs.load(other, path)
    damaged = onnx.load(path)
    next(e for e in damaged.metadata_props if e.key == "tqs_fast.plan").value = "{"
    onnx.save(damaged, path)
    with pytest.raises(FileFormatError, match=r"the plan in .* is damaged"):
        tqs.load(module, path)


def test_large_models_keep_their_values_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tqs.OnnxModule(written(map_model(640), tmp_path))
    small = tqs.quantize(module, plan_for(module, Quantizer(), [8]))
    path, data = tmp_path / "small.onnx", tmp_path / "small.onnx.data"
    tqs.save(small, path)
    expected, whole = run_plain(path, {"x": weight(3, 640, seed=3)}, {"x_next": "x"}, 5, "x_next"), path.stat().st_size
    monkeypatch.setattr("tqs_fast.onnx.write.LARGE", 1000)
    sizes = set()
    for _ in range(2):  # the second time over the first
        tqs.save(small, path)
        ends(path, module)
        sizes.add((path.stat().st_size, data.stat().st_size))
        found = run_plain(path, {"x": weight(3, 640, seed=3)}, {"x_next": "x"}, 5, "x_next")
        np.testing.assert_array_equal(found, expected)
    ((rest, values),) = sizes
    assert rest < 10_000 < values < whole
    monkeypatch.setattr("onnx.checker.check_model", lambda _: (_ for _ in ()).throw(ValueError("not today")))
    with pytest.raises(FileFormatError, match="not today"):
        tqs.save(tqs.quantize(module, plan_for(module, Quantizer(), [4])), path)
    assert (path.stat().st_size, data.stat().st_size) == (rest, values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "small.onnx", "small.onnx.data"]


@pytest.mark.parametrize("quantizer", FORMATS, ids=str)
def test_codes_keep_every_value(quantizer: Quantizer) -> None:
    rows = [torch.from_numpy(weight(3, 70, seed=s)) for s in range(3)]
    blocks: list[PackedWeight] = [quantizer.pack(r, b) for r, b in zip(rows, (2, 3, 4), strict=True)]
    expected = np.concatenate([block.dequantize() for block in blocks])
    found = codes_of(blocks, narrowest=2)
    assert found.bits == 4
    group = np.arange(70) // found.group_size
    values = found.scales[:, group] * (found.codes.astype(np.float32) - found.zeros[:, group])
    np.testing.assert_array_equal(values, expected)
    assert found.symmetric == quantizer.symmetric


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_bytes_hold_the_first_code_lowest(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (2, 5)).astype(np.uint8)
    found = packed_bytes(values, bits)
    for row in range(2):
        number = int.from_bytes(found[row].tobytes(), "little")
        assert [number >> (bits * i) & (2**bits - 1) for i in range(5)] == values[row].tolist()
