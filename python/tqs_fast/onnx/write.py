"""A quantized copy of an ONNX file: products become MatMulNBits, other weights come out of DequantizeLinear.

Every planned weight is lifted to an input first, as for a probe; then its input is replaced by what stores it. Names of
nodes, of other tensors, of inputs and outputs stay; a dequantized weight keeps its name as that of a tensor.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tqs_fast.errors import ArgumentError
from tqs_fast.kernels import PackedWeight
from tqs_fast.onnx.codes import Codes, codes_of, packed_bytes
from tqs_fast.onnx.constants import subgraphs
from tqs_fast.onnx.extra import reason, require
from tqs_fast.onnx.lift import LiftedWeight, lift_weights, load_rest
from tqs_fast.onnx.read import Array, check_file, opset_of, read_model
from tqs_fast.onnx.slots import COLUMNS, GATES, order_of

BLOCKED_IR = 10  # the first with 4-bit tensors
BLOCKED_OPSET = 21  # the first whose DequantizeLinear has groups and 4-bit codes
LARGE = 2**31 - 2**20  # bytes of one protobuf message


def write_quantized(
    source: Path,
    packed: Mapping[str, Sequence[PackedWeight]],
    metadata: Mapping[str, str],
    path: str | os.PathLike[str],
) -> None:
    """Write `source` with the named weights packed.

    Args:
        source: the float model.
        packed: name of the lifted tensor -> its row blocks.
        metadata: text to store with the model.

    Raises:
        ArgumentError: opset conversion fails, or the path cannot be written.
        FileFormatError: the source cannot be read.
    """
    onnx = require("onnx")
    model = read_model(source)
    lifted, _ = lift_weights(model, source)
    load_rest(model, source)
    dequantized = [w for w in lifted if w.name in packed and not _products(model.graph, w)]
    if dequantized and opset_of(model) < BLOCKED_OPSET:
        model = _upgraded(model, source)
    if dequantized:
        model.ir_version = max(model.ir_version, BLOCKED_IR)
    for weight in lifted:
        _remove_input(model.graph, weight.name)
        if weight.name not in packed:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(weight.values), weight.name))
            continue
        products = _products(model.graph, weight)
        if products:
            _multiply(model.graph, weight, codes_of(packed[weight.name], narrowest=2), products)
        else:  # of the types that DequantizeLinear takes at this opset, 4 bits are the fewest
            _dequantize(model.graph, weight, codes_of(packed[weight.name], narrowest=4))
    if any(node.domain == "com.microsoft" for node in _nodes(model.graph)):
        known = {entry.domain for entry in model.opset_import}
        if "com.microsoft" not in known:
            model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    for key, value in metadata.items():
        onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, key: value})
    _save(model, Path(path))


def _products(graph: Any, weight: LiftedWeight) -> list[tuple[Any, Any]]:
    """(graph, node) of every use of the weight, where each multiplies by it as MatMulNBits does; else none."""
    uses = [(g, node, i) for g, node in _scoped(graph) for i, name in enumerate(node.input) if name == weight.name]
    fits = len(weight.layout.shape) == 2 and weight.values.dtype == np.float32
    for _, node, position in uses:
        attributes = {a.name: a for a in node.attribute}
        plain = node.op_type == "MatMul" and not node.domain
        if node.op_type == "Gemm" and not node.domain:
            plain = all(name not in attributes or attributes[name].f == 1 for name in ("alpha", "beta"))
            plain = plain and not ("transA" in attributes and attributes["transA"].i)
        fits = fits and plain and position == 1 and order_of(node, 1) == weight.layout.order
    return [(g, node) for g, node, _ in uses] if fits else []


def _multiply(graph: Any, weight: LiftedWeight, codes: Codes, products: Sequence[tuple[Any, Any]]) -> None:
    onnx = require("onnx")
    (rows, columns), group = codes.codes.shape, codes.group_size
    groups = codes.scales.shape[1]
    padded = np.pad(codes.codes, [(0, 0), (0, groups * group - columns)])
    blob = packed_bytes(padded.reshape(rows, groups, group), codes.bits)
    entries: dict[str, Array] = {f"{weight.name}_quantized": blob, f"{weight.name}_scales": codes.scales.reshape(-1)}
    if not codes.symmetric:
        entries[f"{weight.name}_zero_points"] = packed_bytes(codes.zeros, codes.bits).reshape(-1)
    _add(graph, entries)
    for number, (inner, node) in enumerate(products):
        name, (output,) = node.name, node.output
        bias = node.input[2] if len(node.input) > 2 else ""
        result = f"{weight.name}_product_{number}" if bias else output
        product = onnx.helper.make_node(
            "MatMulNBits",
            [node.input[0], *entries],
            [result],
            name=name,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=codes.bits,
            block_size=group,
            accuracy_level=1,  # float32 activations
        )
        position = next(i for i, known in enumerate(inner.node) if output in known.output)
        inner.node[position].CopyFrom(product)
        if bias:
            total = onnx.helper.make_node("Add", [result, bias], [output], name=f"{name}_bias" if name else "")
            inner.node.insert(position + 1, total)


def _dequantize(graph: Any, weight: LiftedWeight, codes: Codes) -> None:
    """The weight as the graph keeps it, under its name, from codes [N, K]."""
    onnx = require("onnx")
    name, columns = weight.name, codes.codes.shape[1]
    kind = onnx.TensorProto.UINT4 if codes.bits == 4 else onnx.TensorProto.UINT8
    for key, values in ((f"{name}_quantized", codes.codes), (f"{name}_zero_points", codes.zeros)):
        raw = packed_bytes(values.reshape(-1), codes.bits).tobytes()
        graph.initializer.append(onnx.helper.make_tensor(key, kind, values.shape, raw, raw=True))
    _add(graph, {f"{name}_scales": codes.scales.astype(weight.values.dtype)})
    steps: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("DequantizeLinear", {"axis": 1, "block_size": min(codes.group_size, columns)}, ())
    ]
    shape = weight.layout.shape
    if weight.layout.order == COLUMNS:
        rows_first = (shape[-1], *shape[:-1])
        steps += [("Reshape", {}, rows_first)] if len(shape) > 2 else []
        steps.append(("Transpose", {"perm": [*range(1, len(shape)), 0]}, ()))
    elif weight.layout.order == GATES or len(shape) > 2:
        steps.append(("Reshape", {}, shape))
    tensor, nodes = "", []
    for number, (operator, attributes, target) in enumerate(steps, start=1):
        result = name if number == len(steps) else f"{name}_{operator.lower()}"
        inputs = [tensor]
        if operator == "DequantizeLinear":
            inputs = [f"{name}_quantized", f"{name}_scales", f"{name}_zero_points"]
        if target:
            _add(graph, {f"{name}_shape": np.array(target, np.int64)})
            inputs.append(f"{name}_shape")
        nodes.append(onnx.helper.make_node(operator, inputs, [result], name=f"{name}/{operator}", **attributes))
        tensor = result
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)


def _upgraded(model: Any, source: Path) -> Any:
    onnx = require("onnx")
    try:
        return onnx.version_converter.convert_version(model, BLOCKED_OPSET)
    except Exception as error:  # C++ exceptions of the converter
        raise ArgumentError(
            f"[save] {source.name} is of opset {opset_of(model)} and cannot be converted to {BLOCKED_OPSET}, which "
            f"4-bit convolutions and recurrent layers need ({reason(error)}); export it at that opset"
        ) from error


def _save(model: Any, path: Path) -> None:
    """Write beside `path` first: what was there stays until the new files are complete and checked."""
    onnx = require("onnx")
    large = model.ByteSize() >= LARGE
    data = f"{path.name}.data"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / path.name
            onnx.save_model(model, os.fspath(written), save_as_external_data=large, location=data if large else None)
            check_file(written)
            if large:
                os.replace(Path(folder) / data, path.with_name(data))
            os.replace(written, path)
    except OSError as error:
        raise ArgumentError(f"[save] cannot write {path}: {error.strerror}; choose a writable path") from error


def _add(graph: Any, entries: Mapping[str, Array]) -> None:
    onnx = require("onnx")
    for name, values in entries.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))


def _remove_input(graph: Any, name: str) -> None:
    position = next(i for i, value in enumerate(graph.input) if value.name == name)
    del graph.input[position]


def _scoped(graph: Any) -> list[tuple[Any, Any]]:
    """(graph, node) of all nodes, those of bodies included."""
    found = []
    for node in graph.node:
        found.append((graph, node))
        for body in subgraphs(node):
            found += _scoped(body)
    return found


def _nodes(graph: Any) -> list[Any]:
    return [node for _, node in _scoped(graph)]
