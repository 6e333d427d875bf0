"""A pass over a graph: every operation again, or what a rule puts in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor, again
from tqs_fast.capture.wiring import users_of


class Pass(ABC):
    """Rules see the old graph, whose users are known, and build the new one.

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
        """What x is a reshape of, as long as its last `axes` axes stay and nothing else reads it, and who reads that."""
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
