"""Only what is needed: every operation computes the box of its result that some other one reads.

A forecaster that uses the last position of its last layer then computes that position only (its keys and values still
come from all of them), and a stack of causal convolutions the part of each layer that the forecast can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqs_fast.capture.boxes import Box, lengths, requirements, union, whole
from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor
from tqs_fast.capture.passes import again
from tqs_fast.capture.positions import Positions


def narrow(operations: Sequence[Operation], results: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    """The operations again, each for the box that is needed; `results` are needed whole.

    Args:
        operations: all that the results depend on, in order.
    """
    return _Narrowing(_demands(operations, results)).run(operations, results)


def _demands(operations: Sequence[Operation], results: Sequence[Tensor]) -> dict[int, Box]:
    """id of a tensor -> box of it that is needed."""
    boxes: dict[int, Box] = {id(x): whole(x.sizes) for x in results}
    for operation in reversed(operations):
        wanted = [boxes[id(out)] for out in operation.outputs if id(out) in boxes]
        if not wanted:
            continue
        box = wanted[0]
        for other in wanted[1:]:
            box = union(box, other)
        made, needed = requirements(operation, box)
        for out in operation.outputs:
            boxes[id(out)] = made
        for x, part in zip(operation.inputs, needed, strict=False):
            if isinstance(x, Tensor) and part is not None:
                boxes[id(x)] = union(boxes.get(id(x)), part)
    return boxes


class _Narrowing:
    def __init__(self, boxes: dict[int, Box]) -> None:
        self.boxes = boxes
        self.graph = Graph()
        self.made: dict[int, Tensor] = {}

    def run(self, operations: Sequence[Operation], results: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
        for operation in operations:
            if id(operation.outputs[0]) in self.boxes:
                self.graph.origin = operation.origin
                self._again(operation)
        return self.graph, [self._part(x, whole(x.sizes)) for x in results]

    def _again(self, operation: Operation) -> None:
        made, needed = requirements(operation, self.boxes[id(operation.outputs[0])])
        parts: list[Box | None] = [*needed, *[None] * (len(operation.inputs) - len(needed))]
        inputs: list[Operand | None] = []
        for x, part in zip(operation.inputs, parts, strict=True):
            if operation.kind == "concatenate" and part is None:
                continue
            inputs.append(self._part(x, part) if isinstance(x, Tensor) else x)
        outputs = self._build(operation, made, inputs, needed)
        for old, new in zip(operation.outputs, outputs, strict=True):
            self.made[id(old)] = new

    def _part(self, x: Tensor, box: Box | None) -> Tensor:
        """A box of a tensor of the old graph."""
        if isinstance(x.source, Operation):
            have, tensor = self.boxes[id(x)], self.made[id(x)]
        else:
            have, tensor = whole(x.sizes), x
        for axis, ((start, stop), (begin, _)) in enumerate(zip(box or have, have, strict=True)):
            tensor = self.graph.slice(tensor, axis, start - begin, stop - start)
        return tensor

    def _build(
        self, operation: Operation, made: Box, inputs: list[Operand | None], needed: list[Box | None]
    ) -> list[Tensor]:
        given: dict[str, Any] = {}
        match operation.kind:
            case "slice":
                given["start"] = 0
            case "linear":
                inputs = [inputs[0], *(self._rows(part, made[-1]) for part in inputs[1:])]
            case "convolution":
                assert needed[0] is not None
                spatial = zip(
                    operation.attributes["padding"], needed[0][2:], operation.tensors[0].sizes[2:], strict=True
                )
                given["padding"] = tuple(0 if part != (0, size) else padding for padding, part, size in spatial)
            case "attention":
                offset = operation.attributes["causal_offset"] + made[-2][0]
                # rows that see every key need no test
                keys = inputs[1].sizes[-2] if isinstance(inputs[1], Tensor) else 0
                given["causal"] = operation.attributes["causal"] and offset < keys - 1
                given["causal_offset"] = offset if given["causal"] else 0
            case "remap":
                given["positions"] = self._positions(operation, made, needed[0])
        return again(self.graph, operation, inputs, lengths(made), **given)

    def _rows(self, constant: Operand | None, part: tuple[int, int]) -> Tensor | None:
        """Of a weight or bias, those of the outputs that are needed."""
        return self.graph.slice(constant, 0, part[0], part[1] - part[0]) if isinstance(constant, Tensor) else None

    def _positions(self, operation: Operation, made: Box, needed: Box | None) -> Positions:
        assert needed is not None
        source = operation.attributes["positions"].array[tuple(slice(*part) for part in made)]
        return Positions.within(source, operation.tensors[0].sizes, needed)
