"""Constants of a graph: initializers, Constant nodes, and what nodes make of them alone, evaluated when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tqs_fast.errors import FileFormatError
from tqs_fast.onnx.extra import reason, require
from tqs_fast.onnx.read import Array, tensor_array

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


@dataclass(eq=False)
class Constant:
    """One constant.

    Attributes:
        name: in its graph.
        graph: the (sub)graph that defines it.
        producer: the initializer (TensorProto) or the node.
        inputs: constants that the node takes, None for an input that is left out; empty for initializers and Constant
            nodes.
    """

    name: str
    graph: Any
    producer: Any
    inputs: tuple[Constant | None, ...] = ()
    _value: list[Array] = field(default_factory=list)

    @property
    def is_initializer(self) -> bool:
        return hasattr(self.producer, "dims")

    def value(self, model: Any, path: Path) -> Array:
        """Its values, computed once.

        Raises:
            FileFormatError: a damaged tensor, or nodes that cannot be evaluated.
        """
        if not self._value:
            self._value.append(self._evaluated(model, path))
        return self._value[0]

    def _evaluated(self, model: Any, path: Path) -> Array:
        if self.is_initializer:
            return tensor_array(self.producer, path)
        if self.producer.op_type == "Constant" and self.producer.attribute[0].name == "value":
            return tensor_array(self.producer.attribute[0].t, path)
        feeds = {
            name: known.value(model, path)
            for name, known in zip(self.producer.input, self.inputs, strict=True)
            if known is not None
        }
        try:
            (result,) = evaluate_node(self.producer, feeds, model)
        except FileFormatError as error:
            raise FileFormatError(
                f"[onnx] {path}: the constant {self.name} cannot be computed by {error}; export the model with "
                "constants folded"
            ) from error
        return result


def evaluate_node(node: Any, feeds: Mapping[str, Array], model: Any) -> list[Array]:
    """The outputs of a node of `model` on constants, by the reference of the onnx package.

    Raises:
        FileFormatError: it fails, whatever the reason; the message is the operator and what the package says.
    """
    onnx, reference = require("onnx"), require("onnx.reference")
    of = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "constant", of, results)
    alone = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    try:
        return [np.asarray(result) for result in reference.ReferenceEvaluator(alone).run(None, dict(feeds))]
    except Exception as error:  # any operator may fail in any way on damaged constants
        raise FileFormatError(f"{node.op_type} ({reason(error)})") from error


@dataclass(frozen=True, eq=False)
class Use:
    """Input `position` of `node` in `graph` is `constant`."""

    node: Any
    position: int
    graph: Any
    constant: Constant


def subgraphs(node: Any) -> Iterator[Any]:
    """The bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def constant_uses(graph: Any, outer: Mapping[str, Constant] | None = None) -> Iterator[Use]:
    """Every use of a constant by a node of `graph` or of the graphs in it, in order."""
    known: dict[str, Constant] = dict(outer or {})
    for value in graph.input:
        known.pop(value.name, None)  # an input of a body hides an outer constant
    known |= {tensor.name: Constant(tensor.name, graph, tensor) for tensor in graph.initializer}
    for node in graph.node:
        bodies = list(subgraphs(node))
        for position, name in enumerate(node.input):
            if name in known:
                yield Use(node, position, graph, known[name])
        for body in bodies:
            yield from constant_uses(body, known)
        if node.op_type == "Constant" and not node.input:
            known[node.output[0]] = Constant(node.output[0], graph, node)
        elif (
            node.input
            and not bodies
            and len(node.output) == 1
            and node.op_type not in RANDOM
            and all(not name or name in known for name in node.input)
        ):
            inputs = tuple(known[name] if name else None for name in node.input)
            known[node.output[0]] = Constant(node.output[0], graph, node, inputs)
        else:
            for name in node.output:
                known.pop(name, None)
