"""From a torch graph to ours: constants are folded, every other node goes through the table of lowerings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tqs_fast.capture.export import WAY_OUT, Exported
from tqs_fast.capture.expressions import Expression
from tqs_fast.capture.graph import Graph, Tensor
from tqs_fast.capture.lowering import COMPLEX_LOWERINGS, LOWERINGS, Context
from tqs_fast.errors import CaptureError

# Ops that see only the sizes of their tensor -> where their value is among the arguments, or what it is.
CREATED: dict[str, int | float] = {
    "aten.full_like.default": 1,
    "aten.new_full.default": 2,
    "aten.zeros_like.default": 0.0,
    "aten.new_zeros.default": 0.0,
    "aten.ones_like.default": 1.0,
    "aten.new_ones.default": 1.0,
    "aten.empty_like.default": 0.0,
    "aten.new_empty.default": 0.0,
    "aten.new_empty_strided.default": 0.0,
}


@dataclass(frozen=True, eq=False)
class Lowered:
    """A step as a graph.

    Attributes:
        states, inputs: the leaves.
        next_states: per state leaf, what it is at the next step.
        output: `[1, C]` or `[1, block, C]`.
    """

    graph: Graph
    states: list[Tensor]
    inputs: list[Tensor]
    next_states: list[Tensor]
    output: Tensor


def lower(exported: Exported, name: str) -> Lowered:
    """Lower an exported step of the system called `name`.

    Raises:
        CaptureError: an op that is not known, or not in this form.
    """
    return _Lowerer(exported, name).run()


class _Lowerer:
    def __init__(self, exported: Exported, name: str) -> None:
        self.exported = exported
        self.name = name
        self.graph = Graph()
        self.values: dict[torch.fx.Node, Any] = {}
        leaves = set(exported.states) | set(exported.inputs)
        tensors = [tensor for _, tensor in exported.constants.values()]
        tensors += [
            node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in leaves
        ]
        floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        self.precision = "float64" if torch.float64 in floating else "float32"

    def run(self) -> Lowered:
        self._placeholders()
        needed = self._needed()
        for node in self.exported.graph.nodes:
            if node.op == "call_function" and node in needed:
                self.values[node] = self._lower_node(node)
        results = [self._operand(node) for node in self.exported.results]
        nodes = {node.name: node for node in self.exported.graph.nodes}
        states = [self.values[nodes[name]] for name in self.exported.states]
        inputs = [self.values[nodes[name]] for name in self.exported.inputs]
        next_states = []
        for leaf, after in zip(states, results[:-1], strict=True):
            if after.sizes != leaf.sizes:
                raise CaptureError(
                    f"[capture] {self.name}: a step must return a state of the sizes it was given: "
                    f"expected {list(leaf.sizes)}, got {list(after.sizes)}"
                )
            next_states.append(after)
        return Lowered(self.graph, states, inputs, next_states, results[-1])

    def _placeholders(self) -> None:
        exported = self.exported
        for node in exported.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in exported.constants:
                parameter, tensor = exported.constants[node.name]
                self.values[node] = Expression(parameter=parameter, leaf=tensor)
                continue
            if node.name not in (*exported.states, *exported.inputs):
                raise CaptureError(
                    f"[capture] {self.name}: a step has an operation with a side effect (a check, a print, random "
                    f"numbers); {WAY_OUT}"
                )
            kind, names = ("state", exported.states) if node.name in exported.states else ("input", exported.inputs)
            context = Context(self.graph, node, self.precision)
            dtype = node.meta["val"].dtype
            precision = context.precision_of(dtype) if dtype.is_floating_point else self.precision
            if dtype.is_complex:
                raise CaptureError(f"[capture] {self.name}: a complex {kind} is not supported; {WAY_OUT}")
            self.values[node] = self.graph.leaf(kind, names.index(node.name), context.sizes, precision)

    def _needed(self) -> set[torch.fx.Node]:
        """What the results depend on: assertions and the like are dropped."""
        needed: set[torch.fx.Node] = set()
        pending = list(self.exported.results)
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending.extend(node.all_input_nodes)
        return needed

    def _lower_node(self, node: torch.fx.Node) -> Any:
        target: Any = node.target
        given = [self.values[inner] for inner in node.all_input_nodes]
        seeded = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
        if seeded and str(target) not in LOWERINGS:
            raise self._error(node, "it draws random numbers; hand them to the step as inputs")
        if all(isinstance(value, Expression) for value in given):
            return self._fold(node)
        if str(target) in CREATED:
            return self._created(node)
        if getattr(target, "__name__", "") == "getitem" and node.args[0] in self.values:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        self.graph.origin = f"{module_path(node)} ({target})"
        metas = [node.meta["val"], *(inner.meta["val"] for inner in node.all_input_nodes)]
        is_complex = any(isinstance(meta, torch.Tensor) and meta.dtype.is_complex for meta in metas)
        lowering = (COMPLEX_LOWERINGS if is_complex else LOWERINGS).get(str(target))
        if lowering is None:
            reason = "no native operation does this; write it with others"
            if is_complex:
                reason = "no native operation does this for complex numbers; write it with real ones"
            raise self._error(node, reason)
        arguments = torch.fx.map_arg(node.args, self._operand)
        keywords = torch.fx.map_arg(node.kwargs, self._operand)
        context = Context(self.graph, node, self.precision)
        try:
            inspect.signature(lowering).bind(context, *arguments, **keywords)
        except TypeError as error:
            raise self._error(node, f"these arguments are not supported ({error})") from error
        try:
            result = lowering(context, *arguments, **keywords)
        except CaptureError as error:
            raise self._error(node, str(error)) from None
        result = self._as_returned(context, result)
        self._check(node, result)
        return result

    def _as_returned(self, context: Context, result: Any) -> Any:
        """Floats in the precision that torch returns them in, whatever they were computed in."""

        def converted(tensor: Tensor | None, meta: torch.Tensor | None) -> Tensor | None:
            if tensor is None or meta is None or not (meta.is_floating_point() or meta.is_complex()):
                return tensor
            return context.convert(tensor, context.precision_of(meta.dtype))

        if not isinstance(context.returned, (tuple, list)):
            return converted(result, context.returned)
        return tuple(converted(tensor, meta) for tensor, meta in zip(result, context.returned, strict=True))

    def _fold(self, node: torch.fx.Node) -> Expression:
        arguments = torch.fx.map_arg(node.args, self.values.__getitem__)
        keywords = torch.fx.map_arg(node.kwargs, self.values.__getitem__)
        expression = Expression(node.target, tuple(arguments), dict(keywords))  # type: ignore[arg-type]
        # now, so that neither recurses deeply later
        expression.parameters, expression.value  # noqa: B018
        return expression

    def _created(self, node: torch.fx.Node) -> Expression:
        """A tensor that has the sizes of another, and nothing else of it."""
        meta = node.meta["val"]
        position = CREATED[str(node.target)]
        value = node.args[position] if isinstance(position, int) else position
        leaf = torch.full(meta.shape, value, dtype=meta.dtype)  # type: ignore[arg-type]
        return Expression(leaf=leaf)

    def _operand(self, node: torch.fx.Node) -> Any:
        """A constant becomes a tensor of the graph, where it is a tensor."""
        value = self.values[node]
        if not isinstance(value, Expression):
            return value
        if not isinstance(value.value, torch.Tensor):
            return value.value
        dtype = value.value.dtype
        context = Context(self.graph, node, self.precision)
        try:
            precision = context.precision_of(dtype) if dtype.is_floating_point or dtype.is_complex else self.precision
        except CaptureError as error:
            raise self._error(node, str(error)) from None
        if dtype.is_complex:
            return self.graph.fold(_as_real, self.graph.constant(value, precision), precision=precision)
        return self.graph.constant(value, precision)

    def _check(self, node: torch.fx.Node, result: Any) -> None:
        metas = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
        results = result if isinstance(result, (tuple, list)) else [result]
        for meta, tensor in zip(metas, results, strict=True):
            if tensor is None or meta is None:
                continue
            expected = tuple(meta.shape) + ((2,) if meta.dtype.is_complex else ())
            assert isinstance(tensor, Tensor), f"{node.target} returned {type(tensor).__name__}"
            assert tensor.sizes == expected, f"{node.target}: expected sizes {expected}, got {tensor.sizes}"

    def _error(self, node: torch.fx.Node, reason: str) -> CaptureError:
        place = source_line(node)
        where = f"in {module_path(node)}" + (f" at {place}" if place else "")
        what = f"{node.target} {where}"
        if node.op == "placeholder":
            what = self.exported.constants.get(node.name, (None,))[0] or str(node.target)
        way_out = f", or {WAY_OUT}" if ";" in reason else f"; {WAY_OUT}"
        return CaptureError(f"[capture] {self.name}: {what}: {reason}{way_out}")


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj())


def module_path(node: torch.fx.Node) -> str:
    """Qualified name of the module that calls the op; "step" outside the module."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    path = re.sub(r"@\d+$", "", paths[-1]) if paths else ""
    return path.removeprefix("L['self'].").removeprefix("module.").removeprefix("module") or "step"


def source_line(node: torch.fx.Node) -> str:
    """`file.py:12` of the innermost line outside torch; it keeps those of `forward` methods only."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    outside = [(file, line) for file, line in lines if not file.startswith(own)]
    return f"{Path(outside[-1][0]).name}:{outside[-1][1]}" if outside else ""
