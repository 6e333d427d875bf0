"""What passes over a graph share: which operations there are, who reads them, and how one is put into a new graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor


def needed(graph: Graph, results: Iterable[Tensor]) -> list[Operation]:
    """The operations that `results` depend on, in order."""
    wanted: set[int] = set()
    pending = [tensor.source for tensor in results]
    while pending:
        source = pending.pop()
        if isinstance(source, Operation) and id(source) not in wanted:
            wanted.add(id(source))
            pending.extend(tensor.source for tensor in source.tensors)
    return [operation for operation in graph.operations if id(operation) in wanted]


def users_of(operations: Sequence[Operation], results: Sequence[Tensor]) -> dict[int, set[int]]:
    """id of a tensor -> ids of the operations that read it; -1 where it leaves the step."""
    users: dict[int, set[int]] = defaultdict(set)
    for operation in operations:
        for tensor in operation.tensors:
            users[id(tensor)].add(id(operation))
    for tensor in results:
        users[id(tensor)].add(-1)
    return users


def again(
    graph: Graph,
    operation: Operation,
    inputs: Sequence[Operand | None],
    sizes: Sequence[int] | None = None,
    **changed: Any,
) -> list[Tensor]:
    """An operation of another graph, on other inputs; with other output sizes and attributes where they are given."""
    x = next(operand for operand in inputs if isinstance(operand, Tensor))  # no operation has numbers only
    given = {**operation.attributes, **changed}
    sizes = operation.outputs[0].sizes if sizes is None else tuple(sizes)
    match operation.kind:
        case "elementwise":
            return [graph.elementwise(given["opcode"], inputs, sizes, operation.outputs[0].precision)]
        case "permute":
            return [graph.permute(x, given["order"])]
        case "reshape":
            return [graph.reshape(x, sizes)]
        case "expand":
            return [graph.expand(x, sizes)]
        case "slice":
            return [graph.slice(x, given["axis"], given["start"], sizes[given["axis"]], given["step"])]
        case "windows":
            return [graph.windows(x, given["axis"], given["size"], given["step"])]
        case "concatenate":
            return [graph.concatenate([piece for piece in inputs if isinstance(piece, Tensor)], given["axis"])]
    return graph.add(
        operation.kind,
        inputs,
        sizes,
        outputs=len(operation.outputs),
        precision=operation.outputs[0].precision,
        **given,
    )


class Pass(ABC):
    """Every operation again, or what a rule puts in its place.

    Rules see the old graph, whose users are known, and build the new one.

    Args:
        operations: all that `results` depend on, in order.
    """

    def __init__(self, operations: Sequence[Operation], results: Sequence[Tensor]) -> None:
        self.operations, self.results = operations, results
        self.graph = Graph()
        self.users = users_of(operations, results)
        self._made: dict[int, Tensor] = {}  # id of an old tensor -> the new one

    @abstractmethod
    def rule(self, operation: Operation) -> Tensor | None:
        """What takes the place of the operation's only output; None: the operation itself."""

    def run(self) -> tuple[Graph, list[Tensor]]:
        """The new graph, in which some operations may be left over, and the results in it."""
        for operation in self.operations:
            self.graph.origin = operation.origin
            found = self.rule(operation)
            outputs = again(self.graph, operation, self.inputs(operation)) if found is None else [found]
            for old, new in zip(operation.outputs, outputs, strict=True):
                self._made[id(old)] = new
        return self.graph, [self.new(x) for x in self.results]

    def new(self, x: Tensor) -> Tensor:
        """What an old tensor has become."""
        return self._made[id(x)] if isinstance(x.source, Operation) else x

    def inputs(self, operation: Operation) -> list[Operand | None]:
        return [self.new(x) if isinstance(x, Tensor) else x for x in operation.inputs]

    def only_used_by(self, x: Tensor, user: Operation) -> bool:
        return self.users[id(x)] == {id(user)}

    def through_reshapes(self, x: Tensor, user: Operation, axes: int) -> tuple[Tensor, Operation]:
        """What x is a reshape of, and who reads that: as far as the last `axes` axes stay and nothing else reads it."""
        source = x.source
        if not isinstance(source, Operation) or source.kind != "reshape" or not self.only_used_by(x, user):
            return x, user
        inner = source.tensors[0]
        if inner.sizes[-axes:] != x.sizes[-axes:]:
            return x, user
        return self.through_reshapes(inner, source, axes)


def opcode(operand: Operand | None) -> str:
    """Of the elementwise operation that makes it; "" for anything else."""
    if isinstance(operand, Tensor) and isinstance(operand.source, Operation) and operand.kind == "elementwise":
        return str(operand.source.attributes["opcode"])
    return ""


def arguments(operand: Operand | None) -> Sequence[Operand | None]:
    """Inputs of the operation that makes it."""
    assert isinstance(operand, Tensor)
    assert isinstance(operand.source, Operation)
    return operand.source.inputs
