"""Weights turned into graph inputs: the session is then built once, and a probe is one more array that is bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tqs_fast.onnx.constants import Constant, constant_uses, subgraphs
from tqs_fast.onnx.extra import require
from tqs_fast.onnx.read import Array, tensor_array
from tqs_fast.onnx.slots import Layout, order_of

FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class LiftedWeight:
    """A weight that has become an input of the graph.

    Attributes:
        name: of the input; that of the tensor in the file, but for clashes between branches.
        kind: operator of the first node that uses it.
        layout: how the graph keeps it.
        values: as the graph keeps them.
        nodes: names of the nodes that use it as a weight.
    """

    name: str
    kind: str
    layout: Layout
    values: Array
    nodes: tuple[str, ...]


def lift_weights(model: Any, path: Path) -> tuple[list[LiftedWeight], dict[str, str]]:
    """Lift every weight of `model`, which is changed; and name and reason of those passed over.

    A weight is a floating constant of at least two dimensions in a slot of `slots.SLOTS`. One that several nodes use,
    directly or through Identity, is lifted once; one that some nodes use transposed keeps its Transpose in the graph.

    Raises:
        FileFormatError: damaged constants.
    """
    # the nodes that use each weight as it is, and those that use it transposed, with the order of its rows there
    found: dict[Constant, tuple[list[tuple[str, Any]], list[tuple[str, Any]]]] = {}
    skipped: dict[str, str] = {}
    uses = list(constant_uses(model.graph))
    direct = {_copied(use.constant) for use in uses if order_of(use.node, use.position) is not None}
    for use in uses:
        order = order_of(use.node, use.position)
        if order is None:
            continue
        constant, turned = _origin(use.constant, direct)
        reason = _unfit(constant, model, path)
        if reason:
            # tables of integers and short vectors are everywhere in exported graphs; no one takes them for weights
            if reason != "small":
                skipped[constant.name] = reason
            continue
        users = found.setdefault(constant, ([], []))
        users[turned].append((order, use.node))
    taken = _names(model.graph)
    outputs = {value.name for value in model.graph.output}
    lifted = []
    for constant, (plain, transposed) in found.items():
        if constant.name in outputs:
            skipped[constant.name] = "is an output of the graph"
            continue
        values = np.require(constant.value(model, path), requirements=["C", "W"])
        order, node = plain[0]
        name = _detach(model, constant, taken)
        names = tuple(user.name or user.output[0] for _, user in plain + transposed)
        lifted.append(LiftedWeight(name, node.op_type, Layout(order, values.shape), values, names))
        _declare(model, name, values)
    _drop_unused(model.graph)
    return lifted, skipped


def load_rest(model: Any, path: Path) -> None:
    """Bring the external tensors that were not lifted into `model`. Raises FileFormatError."""
    onnx = require("onnx")

    def visit(graph: Any) -> None:
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(np.ascontiguousarray(tensor_array(tensor, path)), tensor.name)
                )
        for node in graph.node:
            for body in subgraphs(node):
                visit(body)

    visit(model.graph)


def _copied(constant: Constant) -> Constant:
    """The constant that `constant` is a copy of."""
    while not constant.is_initializer and constant.producer.op_type == "Identity" and constant.inputs[0] is not None:
        constant = constant.inputs[0]
    return constant


def _origin(constant: Constant, direct: set[Constant]) -> tuple[Constant, bool]:
    """The constant to lift for a use of `constant`, and whether that use sees it transposed."""
    constant = _copied(constant)
    if not constant.is_initializer and constant.producer.op_type == "Transpose" and constant.inputs[0] is not None:
        source = _copied(constant.inputs[0])
        if source in direct:
            return source, True
    return constant, False


def _unfit(constant: Constant, model: Any, path: Path) -> str:
    """Why a constant in a weight slot is no weight; empty where it is one."""
    values = constant.value(model, path)
    if values.ndim < 2:
        return "small"
    if values.dtype not in FLOATS:
        return "small" if values.dtype == np.int64 else f"is {values.dtype}, not a float"
    return "" if values.size else "has no values"


def _names(graph: Any) -> dict[str, int]:
    """How many (sub)graphs define each name."""
    names: dict[str, int] = {}

    def visit(inner: Any) -> None:
        own = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
        own |= {name for node in inner.node for name in node.output}
        for name in own:
            names[name] = names.get(name, 0) + 1
        for node in inner.node:
            for body in subgraphs(node):
                visit(body)

    visit(graph)
    return names


def _detach(model: Any, constant: Constant, taken: dict[str, int]) -> str:
    """Remove what defines the constant from its graph; the name under which its users now expect it."""
    graph, name = constant.graph, constant.name
    members = graph.initializer if constant.is_initializer else graph.node
    for position, member in enumerate(members):
        if member.name == name if constant.is_initializer else name in member.output:
            del members[position]
            break
    for position, value in enumerate(graph.input):  # files of IR 3 list initializers among the inputs, too
        if value.name == name:
            del graph.input[position]
            break
    if taken[name] == 1:
        return name
    fresh = name
    while fresh in taken:
        fresh = f"{graph.name}/{fresh}"
    taken[fresh] = 1
    taken[name] -= 1
    _rename(graph, name, fresh)
    return fresh


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
        for body in subgraphs(node):
            hidden = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            if old not in hidden | {name for inner in body.node for name in inner.output}:
                _rename(body, old, new)
    for value in graph.output:
        if value.name == old:
            value.name = new


def _declare(model: Any, name: str, values: Array) -> None:
    onnx = require("onnx")
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, values.shape))


def _drop_unused(graph: Any) -> None:
    """Remove initializers and constant nodes that nothing uses any more: the sources of folded weights are as large."""

    def used(inner: Any) -> set[str]:
        names = {value.name for value in inner.output}
        for node in inner.node:
            names |= set(node.input)
            for body in subgraphs(node):
                names |= used(body)
        return names

    while True:
        names = used(graph)
        dead = [i for i, node in enumerate(graph.node) if not any(name in names for name in node.output)]
        for position in reversed(dead):
            del graph.node[position]
        if not dead:
            break
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in names:
            del graph.initializer[position]
    for node in graph.node:
        for body in subgraphs(node):
            _drop_unused(body)
