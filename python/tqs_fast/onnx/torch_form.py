"""An ONNX graph as torch functions: what capture traces, and torch differentiates.

The graph is walked anew at every call. Sizes, indices and whatever else follows from constants and shapes stay NumPy
arrays on the way, so that a trace sees fixed sizes only, and an If with such a condition is the branch that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tqs_fast.errors import CaptureError, FileFormatError
from tqs_fast.onnx.constants import evaluate_node
from tqs_fast.onnx.extra import require
from tqs_fast.onnx.operators import OPERATORS, Call, Value
from tqs_fast.onnx.read import Array, tensor_array
from tqs_fast.onnx.session import Port
from tqs_fast.onnx.slots import Layout
from tqs_fast.quantization.held import WeightHolder

WAY_OUT = 'use engine="swapped"'
BRIEF = 64  # elements of arrays that are told apart by their values; larger ones are the same where they are one object

Scope = dict[str, Value]


@dataclass(frozen=True, eq=False)
class GraphWeight:
    """A parameter, and what the graph calls it.

    Attributes:
        name: in the graph.
        parameter: `[outputs, ...]`.
        layout: how the graph keeps it.
        kind: operator that uses it.
    """

    name: str
    parameter: nn.Parameter
    layout: Layout
    kind: str


@dataclass(frozen=True, eq=False)
class _Body:
    initial: Scope
    nodes: list[_Node]
    outputs: list[str]


class TorchForm(WeightHolder):
    """A graph by torch; its parameters are those that it is given.

    Args:
        model: ModelProto with the weights as inputs.
        path: of the file, for messages.
        weights: by parameter name.
        inputs, outputs: as of `OnnxModule`.
    """

    def __init__(
        self,
        model: Any,
        path: Path,
        weights: Mapping[str, GraphWeight],
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
    ) -> None:
        super().__init__()
        self._model = model
        self._path = path
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._weights = dict(weights)
        self.hold({name: (weight.parameter, weight.kind) for name, weight in weights.items()})
        self._tensors: dict[int, tuple[Array, torch.Tensor]] = {}
        self._wide = False
        self._graph = self._body(model.graph)
        self.eval()

    def run(
        self, feeds: Mapping[str, torch.Tensor], constants: Mapping[str, Array] | None = None
    ) -> dict[str, torch.Tensor]:
        """All outputs by name.

        Raises:
            CaptureError: an operator that is not known here, or not in this form, with the name of the node.
        """
        scope: Scope = {**feeds, **(constants or {})}
        parameters = dict(self.named_parameters())
        scope |= {weight.name: weight.layout.as_in_graph(parameters[name]) for name, weight in self._weights.items()}
        found = self._walk(self._graph, scope)
        return {name: self._tensor(value) for name, value in zip(self._graph.outputs, found, strict=True)}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As `OnnxModule.forward`."""
        results = tuple(self.run(dict(zip(self.inputs, inputs, strict=True))).values())
        return results[0] if len(results) == 1 else results

    def _body(self, graph: Any) -> _Body:
        """A graph, its nodes registered under their names: a trace then knows where an operation comes from."""
        nodes = []
        for proto in graph.node:
            bodies = {a.name: self._body(a.g) for a in proto.attribute if a.HasField("g")}
            node = _Node(self, proto, bodies)
            name = (proto.name or proto.op_type).replace(".", "_")
            while hasattr(self, name):
                name += "_"
            self.add_module(name, node)
            nodes.append(node)
        initial: Scope = {tensor.name: tensor_array(tensor, self._path) for tensor in graph.initializer}
        return _Body(initial, nodes, [value.name for value in graph.output])

    def _walk(self, body: _Body, outer: Scope) -> list[Value]:
        """The outputs of a graph or a body within `outer`, which is left as it is."""
        scope = outer | body.initial
        for node in body.nodes:
            inputs = [scope[name] if name else None for name in node.inputs]
            results = self._walk(node.branch(inputs), scope) if node.bodies else node(*inputs)
            scope.update({name: value for name, value in zip(node.outputs, results, strict=False) if name})
        return [scope[name] for name in body.outputs]

    def _tensor(self, value: Value) -> torch.Tensor:
        """A value as a tensor; one array is always the same tensor."""
        if isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._tensors:
            try:
                tensor = torch.from_numpy(np.array(value))
                self._tensors[id(value)] = (value, tensor.to(self._precision(tensor.dtype)))
            except TypeError as error:
                raise CaptureError(f"constants of {value.dtype} are not supported") from error
        return self._tensors[id(value)][1]

    def _precision(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float64 if self._wide and dtype == torch.float32 else dtype

    def _apply(self, fn: Any, recurse: bool = True) -> TorchForm:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._wide = fn(torch.zeros(0)).dtype == torch.float64
        self._tensors = {}
        return self


class _Node(nn.Module):
    """One node: known results are remembered, others go through the table of operators."""

    def __init__(self, form: TorchForm, proto: Any, bodies: dict[str, _Body]) -> None:
        super().__init__()
        model, file = form._model, form._path.name
        self.inputs, self.outputs = tuple(proto.input), tuple(proto.output)
        self.bodies = bodies
        self._model, self._proto = model, proto
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        self._standard = domain == ""
        self._operator = OPERATORS.get((domain, proto.op_type))
        self._where = f"[capture] {file}: {proto.op_type}" + (f" (node {proto.name})" if proto.name else "")
        self._results: dict[Any, tuple[Sequence[Value | None], list[Array]]] = {}
        versions = {"" if e.domain == "ai.onnx" else e.domain: e.version for e in model.opset_import}
        wanted = max((place + 1 for place, name in enumerate(proto.output) if name), default=0)
        opset = versions.get(domain, 1)
        self._call = Call(proto.op_type, _attributes(proto), opset, wanted, form._tensor, form._precision)

    def forward(self, *inputs: Value | None) -> Sequence[Value]:
        if self._standard and not any(isinstance(value, torch.Tensor) for value in inputs):
            return self._known(inputs)
        if self._operator is None:
            raise self._error("there is no torch function for this operator")
        try:
            inspect.signature(self._operator).bind(self._call, *inputs)
        except TypeError as error:
            raise self._error(f"these inputs are not supported ({error})") from error
        try:
            results = self._operator(self._call, *inputs)
        except CaptureError as error:
            raise self._error(str(error)) from None
        return results if isinstance(results, tuple) else (results,)

    def branch(self, inputs: Sequence[Value | None]) -> _Body:
        """The body that an If with a known condition takes.

        Raises:
            CaptureError: the condition is computed; or this is a loop.
        """
        if set(self.bodies) != {"then_branch", "else_branch"}:
            raise self._error("there is no torch function for loops")
        condition = inputs[0]
        if condition is None or isinstance(condition, torch.Tensor):
            raise self._error("its condition depends on the state")
        return self.bodies["then_branch" if condition.reshape(-1)[0] else "else_branch"]

    def _known(self, inputs: Sequence[Value | None]) -> Sequence[Value]:
        """What follows from known values alone, by the reference of the onnx package."""
        key = tuple(
            id(x) if x is None or isinstance(x, torch.Tensor) or x.size > BRIEF else (x.tobytes(), x.shape, x.dtype.str)
            for x in inputs
        )
        if key not in self._results:
            feeds = {name: x for name, x in zip(self.inputs, inputs, strict=True) if isinstance(x, np.ndarray)}
            try:
                found = evaluate_node(self._proto, feeds, self._model)
            except FileFormatError as error:
                raise self._error(f"its constants cannot be computed ({error})") from error
            self._results[key] = (inputs, found)
        return self._results[key][1]

    def _error(self, reason: str) -> CaptureError:
        return CaptureError(f"{self._where}: {reason}; {WAY_OUT}")


def _attributes(node: Any) -> dict[str, Any]:
    """Numbers, lists and texts; tensors and bodies are left out."""
    onnx = require("onnx")
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or attribute.HasField("t"):
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list):
            value = [item.decode() if isinstance(item, bytes) else item for item in value]
        found[attribute.name] = value
    return found
