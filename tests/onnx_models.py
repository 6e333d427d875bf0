"""Small ONNX graphs, and a loop over them in plain ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def weight(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray:
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    initializers: Mapping[str, np.ndarray],
    *,
    opset: int = OPSET,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of float inputs and outputs, others by `types`."""
    kinds = dict(types or {})

    def port(name: str, shape: Sequence[Any]) -> Any:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        list(nodes),
        "graph",
        [port(n, s) for n, s in inputs.items()],
        [port(n, s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in initializers.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def written(built: onnx.ModelProto, folder: Path, name: str = "model.onnx", **options: Any) -> Path:
    path = folder / name
    onnx.save_model(built, path, **options)
    return path


def map_model(size: int = 24) -> onnx.ModelProto:
    """x -> sin(3 tanh(x A + b) B^T): a chaotic map of [batch, size] through a MatMul and a Gemm with transB."""
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["xa"], name="first"),
        helper.make_node("Add", ["xa", "b"], ["xab"]),
        helper.make_node("Tanh", ["xab"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "B", "c"], ["drive"], name="second", transB=1),
        helper.make_node("Mul", ["drive", "three"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["x_next"]),
    ]
    values = {"A": weight(size, 2 * size), "b": weight(2 * size), "B": weight(size, 2 * size, seed=1)}
    values |= {"c": weight(size, seed=2), "three": np.float32(3.0).reshape(())}
    return model(nodes, {"x": ["batch", size]}, {"x_next": ["batch", size]}, values)


def recurrent_model(kind: str = "GRU", size: int = 16, hidden: int = 32) -> onnx.ModelProto:
    """A driven layer over one step: input [1, batch, size], h [1, batch, hidden] (and c) -> observed, hn."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    values = {"W": weight(1, gates * hidden, size), "R": weight(1, gates * hidden, hidden, seed=1)}
    node = helper.make_node(
        kind, ["input", "W", "R", "", "", *states], ["y", *(f"{s}n" for s in states)], name="layer", hidden_size=hidden
    )
    cut = helper.make_node("Squeeze", ["y", "axes"], ["observed"])
    values["axes"] = np.array([0, 1], np.int64)
    inputs = {"input": [1, "batch", size], **{s: [1, "batch", hidden] for s in states}}
    outputs = {"observed": ["batch", hidden], **{f"{s}n": [1, "batch", hidden] for s in states}}
    return model([node, cut], inputs, outputs, values)


def run_plain(
    source: Path | onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    state_map: Mapping[str, str],
    steps: int,
    observed: str,
) -> np.ndarray:
    """Outputs `[steps, ...]` by an ordinary session and a loop over arrays; driven `feeds` are `[steps, ...]`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = str(source) if isinstance(source, Path) else source.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    state = {name: feeds[name] for name in state_map.values()}
    driven = {name: value for name, value in feeds.items() if name not in state}
    names = [port.name for port in session.get_outputs()]
    rolled = []
    for t in range(steps):
        given = session.run(None, {**state, **{name: value[t] for name, value in driven.items()}})
        results = dict(zip(names, given, strict=True))
        state = {entry: results[name] for name, entry in state_map.items()}
        rolled.append(results[observed])
    return np.stack(rolled)
