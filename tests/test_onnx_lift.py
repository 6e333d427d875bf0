"""Weights of ONNX graphs: which are found, how their rows lie, and that swapping one equals rebuilding the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_models import map_model, model, recurrent_model, run_plain, weight, written
from tqs_fast import OnnxModule
from tqs_fast.quantization.weights import find_weights, parameter_of


def shapes(module: OnnxModule) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {found.name: (found.kind, found.shape) for found in find_weights(module)}


def with_initializer(built: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    """A copy of the model with other values in one initializer: what a probe does without lifting."""
    changed = onnx.ModelProto()
    changed.CopyFrom(built)
    (tensor,) = [t for t in changed.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return changed


def check_probe(built: onnx.ModelProto, folder: Path, name: str, feeds: dict[str, np.ndarray]) -> None:
    """A changed parameter against the same change of the initializer in a model of its own."""
    module = OnnxModule(written(built, folder))
    parameter = dict(module.named_parameters())[name]
    original = numpy_helper.to_array(next(t for t in built.graph.initializer if t.name == name))
    noise = weight(*original.shape, seed=9)
    moved = module.lifted[name].layout.rows_first(torch.from_numpy(original + noise))
    assert moved.shape == parameter.shape
    given = {key: torch.from_numpy(value) for key, value in feeds.items()}
    observed = next(iter(module.outputs))
    none: dict[str, str] = {}
    per_step = {key: value[None] for key, value in feeds.items()}
    for replaced, reference in (({}, built), ({name: moved}, with_initializer(built, name, original + noise))):
        expected = run_plain(reference, per_step, none, 1, observed)[0]
        for _ in range(2):  # outputs in memory of ONNX Runtime, then in ours
            found = module.with_weights(replaced).run(given)[observed].numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert np.abs(expected - module.run(given)[observed].numpy()).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["A", "B"])
def test_products(tmp_path: Path, name: str) -> None:
    assert shapes(OnnxModule(written(map_model(), tmp_path))) == {"A": ("MatMul", (48, 24)), "B": ("Gemm", (24, 48))}
    check_probe(map_model(), tmp_path, name, {"x": weight(5, 24, seed=3)})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(tmp_path: Path, kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    built = recurrent_model(kind)
    module = OnnxModule(written(built, tmp_path))
    assert shapes(module) == {"W": (kind, (32 * gates, 16)), "R": (kind, (32 * gates, 32))}
    feeds = {name: weight(1, 3, 16 if name == "input" else 32, seed=4) for name in module.inputs}
    for name in ("W", "R"):
        check_probe(built, tmp_path, name, feeds)


def test_convolution_gather_and_left_operand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["row"]),
        helper.make_node("Conv", ["x", "kernel"], ["convolved"], pads=[1, 1]),
        helper.make_node("MatMul", ["left", "convolved"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "right"], ["last"]),
        helper.make_node("Add", ["last", "row"], ["y"]),
    ]
    values = {"table": weight(7, 5), "kernel": weight(6, 4, 3), "left": weight(3, 6), "right": weight(2, 8, 5)[0]}
    built = model(
        nodes, {"x": ["n", 4, 8], "token": ["n", 1]}, {"y": ["n", 3, 5]}, values, types={"token": TensorProto.INT64}
    )
    module = OnnxModule(written(built, tmp_path))
    assert shapes(module) == {
        "table": ("Gather", (7, 5)),
        "kernel": ("Conv", (6, 4, 3)),
        "left": ("MatMul", (3, 6)),
        "right": ("MatMul", (5, 8)),
    }
    feeds = {"x": weight(2, 4, 8, seed=5), "token": np.array([[3], [1]], np.int64)}
    for name in values:
        check_probe(built, tmp_path, name, feeds)


@pytest.mark.parametrize("copied", ["row", "turned", "neither"])
def test_a_shared_weight_counts_once_also_where_it_is_used_transposed(tmp_path: Path, copied: str) -> None:
    nodes = [
        helper.make_node("Identity", ["table"], ["copy"]),
        helper.make_node("Gather", ["copy" if copied == "row" else "table", "token"], ["row"]),
        helper.make_node("Transpose", ["copy" if copied == "turned" else "table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["row", "turned"], ["y"]),
    ]
    built = model(nodes, {"token": ["n"]}, {"y": ["n", 7]}, {"table": weight(7, 5)}, types={"token": TensorProto.INT64})
    module = OnnxModule(written(built, tmp_path))
    assert shapes(module) == {"table": ("Gather", (7, 5))}
    assert len(module.lifted["table"].nodes) == 2
    check_probe(built, tmp_path, "table", {"token": np.array([3, 1, 6], np.int64)})


def test_a_weight_that_constants_make_is_lifted_as_their_result(tmp_path: Path) -> None:
    halves = {"upper": weight(3, 4), "lower": weight(3, 4, seed=1)}
    nodes = [
        helper.make_node("Concat", ["upper", "lower"], ["joined"], axis=0),
        helper.make_node("Transpose", ["joined"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    module = OnnxModule(written(model(nodes, {"x": ["n", 4]}, {"y": ["n", 6]}, halves), tmp_path))
    assert shapes(module) == {"turned": ("MatMul", (6, 4))}
    expected = np.concatenate([halves["upper"], halves["lower"]])
    np.testing.assert_array_equal(dict(module.named_parameters())["turned"].numpy(), expected)
    x = weight(2, 4, seed=2)
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), x @ expected.T, rtol=1e-5, atol=1e-6)


def branching() -> onnx.ModelProto:
    """If with a product in each branch, weights of the same name in both, and one of the outer graph in both."""
    branches = []
    for seed, name in enumerate(("then_branch", "else_branch")):
        nodes = [
            helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(weight(4, 4, seed=seed), "W")),
            helper.make_node("MatMul", ["x", "W"], [f"{name}_a"]),
            helper.make_node("MatMul", [f"{name}_a", "outer"], [f"{name}_y"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["n", 4])
        branches.append(helper.make_graph(nodes, name, [], [out]))
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    ports = {"x": ["n", 4], "flag": []}
    return model([node], ports, {"y": ["n", 4]}, {"outer": weight(4, 4, seed=5)}, types={"flag": TensorProto.BOOL})


def test_weights_in_branches(tmp_path: Path) -> None:
    module = OnnxModule(written(branching(), tmp_path))
    found = shapes(module)
    assert len(found) == 3
    assert "outer" in found
    assert "else_branch/W" in found or "then_branch/W" in found
    x = weight(3, 4, seed=6)
    for flag, seed in ((True, 0), (False, 1)):
        expected = x @ weight(4, 4, seed=seed) @ weight(4, 4, seed=5)
        found_y = module.run({"x": torch.from_numpy(x), "flag": torch.tensor(flag)})["y"].numpy()
        np.testing.assert_allclose(found_y, expected, rtol=1e-5, atol=1e-6)
    # each branch has a weight of its own
    for name in found:
        parameter = dict(module.named_parameters())[name]
        moved = module.with_weights({name: parameter.detach() + 1})
        changed = [
            not torch.equal(m["y"], p["y"])
            for m, p in (
                (moved.run(feeds), module.run(feeds))
                for feeds in ({"x": torch.from_numpy(x), "flag": torch.tensor(f)} for f in (True, False))
            )
        ]
        assert sum(changed) == (2 if name == "outer" else 1)


def test_fused_operators(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Attention", ["x", "qkv", "bias"], ["mixed"], domain="com.microsoft", num_heads=2),
        helper.make_node("FusedMatMul", ["mixed", "turned"], ["y"], domain="com.microsoft", transB=1),
    ]
    values = {"qkv": weight(8, 24), "bias": weight(24), "turned": weight(5, 8)}
    built = model(nodes, {"x": ["n", "length", 8]}, {"y": ["n", "length", 5]}, values)
    assert shapes(OnnxModule(written(built, tmp_path))) == {
        "qkv": ("Attention", (24, 8)),
        "turned": ("FusedMatMul", (5, 8)),
    }
    for name in ("qkv", "turned"):
        check_probe(built, tmp_path, name, {"x": weight(2, 3, 8, seed=5)})


def test_weights_of_the_outer_graph_in_a_loop(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["inner", "W"], ["product"]),
            helper.make_node("Tanh", ["product"], ["following"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("following", TensorProto.FLOAT, ["n", 4]),
        ],
    )
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    values = {"W": weight(4, 4, scale=1.0), "times": np.array(3)}
    built = model([node], {"x": ["n", 4]}, {"y": ["n", 4]}, values)
    assert shapes(OnnxModule(written(built, tmp_path))) == {"W": ("MatMul", (4, 4))}
    check_probe(built, tmp_path, "W", {"x": weight(2, 4, seed=5)})


def test_external_data_are_mapped_not_read(tmp_path: Path) -> None:
    path = written(map_model(), tmp_path, save_as_external_data=True, location="model.data", size_threshold=0)
    module = OnnxModule(path)
    assert isinstance(module.lifted["A"].values.base, np.memmap) or isinstance(module.lifted["A"].values, np.memmap)
    x = torch.from_numpy(weight(2, 24, seed=3))
    within = OnnxModule(written(map_model(), tmp_path, "within.onnx"))
    assert torch.equal(module(x), within(x))


def test_constants_that_are_no_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMulInteger", ["codes", "Q"], ["z"]),
        helper.make_node("Gather", ["sizes", "which"], ["size"]),
    ]
    values = {"A": weight(4, 4), "Q": np.ones((4, 4), np.int8), "sizes": np.arange(4), "which": np.array(1)}
    kinds = {"codes": TensorProto.INT8, "z": TensorProto.INT32, "size": TensorProto.INT64}
    ports = {"y": ["n", 4], "z": ["n", 4], "size": []}
    built = model(nodes, {"x": ["n", 4], "codes": ["n", 4]}, ports, values, types=kinds)
    with pytest.raises(ValueError, match="codes is a tensor\\(int8\\)"):
        OnnxModule(written(built, tmp_path))
    kinds["codes"] = TensorProto.INT8
    del built.graph.node[1], built.graph.input[1], built.graph.output[1]
    assert shapes(OnnxModule(written(built, tmp_path))) == {"A": ("MatMul", (4, 4))}


def test_names_that_torch_does_not_allow(tmp_path: Path) -> None:
    names = ["forward", "a..b", "c", "c.d", "/m/MatMul", "onnx::MatMul_3", "weight_kinds"]
    nodes = [
        helper.make_node("MatMul", ["x" if i == 0 else f"y{i - 1}", name], [f"y{i}"]) for i, name in enumerate(names)
    ]
    values = {name: weight(4, 4, seed=i) for i, name in enumerate(names)}
    last = f"y{len(names) - 1}"
    module = OnnxModule(written(model(nodes, {"x": ["n", 4]}, {last: ["n", 4]}, values), tmp_path))
    found = find_weights(module)
    assert {module.lifted[f.name].name for f in found} == set(names)
    assert {"weight:forward", "weight:a__b", "c.d", "/m/MatMul", "onnx::MatMul_3"} <= {f.name for f in found}
    for entry in found:
        expected = values[module.lifted[entry.name].name].T
        np.testing.assert_array_equal(parameter_of(module, entry).numpy(), expected)
