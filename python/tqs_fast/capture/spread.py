"""Elementwise operations move past slices and concatenations, and nothing is computed otherwise than before.

- A gate layer computes all gates at once and slices them: the slices move before the elementwise operations, which then
  fuse with what each gate does next.
- An elementwise operation on a concatenation (half of a rotary embedding turned, a shifted series padded) becomes a
  concatenation of elementwise operations, which write their part themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor
from tqs_fast.capture.passes import Pass, again

# The gates of a cell. A series cut into many steps is better computed at once, unless a step is so large that its
# elements, not the number of operations, are what it costs: then they need not go through memory (selective scans).
MOST_SLICES = 4
LARGE_SLICE = 1024  # elements
MOST_PIECES = 3  # of a concatenation that elementwise operations are drawn into


def spread(operations: Sequence[Operation], results: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    """The operations again, moved; what is no longer used may be left over."""
    return _Spread(operations, results).run()


class _Spread(Pass):
    def __init__(self, operations: Sequence[Operation], results: Sequence[Tensor]) -> None:
        super().__init__(operations, results)
        self._by_id = {id(operation): operation for operation in operations}

    def rule(self, operation: Operation) -> Tensor | None:
        if operation.kind == "slice":
            return self._slice(operation)
        return self._spread(operation) if operation.kind == "elementwise" else None

    # ---------------------------------------------------------------- slices before elementwise operations

    def _slice(self, operation: Operation) -> Tensor | None:
        (x,), given = operation.tensors, operation.attributes
        if x.kind != "elementwise" or not self._is_cut_up(x, given["axis"]):
            return None
        return self._part(x, given["axis"], given["start"], operation.outputs[0].sizes[given["axis"]], None)

    def _is_cut_up(self, x: Tensor, axis: int) -> bool:
        """Whether all that is read of x are a few slices along `axis` that do not overlap."""
        many = len(self.users[id(x)]) > MOST_SLICES
        ranges = []
        for user in self.users[id(x)]:
            reader = self._by_id.get(user)
            if reader is None or reader.kind != "slice" or reader.attributes["axis"] != axis:
                return False
            if reader.attributes["step"] != 1 or (many and reader.outputs[0].elements < LARGE_SLICE):
                return False
            start = reader.attributes["start"]
            ranges.append((start, start + reader.outputs[0].sizes[axis]))
        ranges.sort()
        return all(before[1] <= after[0] for before, after in pairwise(ranges))

    def _part(self, x: Tensor, axis: int, start: int, length: int, user: Operation | None) -> Tensor:
        """A slice of an old tensor, taken before the elementwise operations that nothing but `user` reads."""
        source = x.source
        opens = user is None or self.only_used_by(x, user)
        if not (isinstance(source, Operation) and source.kind == "elementwise" and opens):
            return self.graph.slice(self.new(x), axis, start, length)
        inputs: list[Operand | None] = []
        for operand in source.inputs:
            if isinstance(operand, Tensor):
                own = axis - (x.rank - operand.rank)
                whole = own < 0 or operand.sizes[own] == 1
                operand = self.new(operand) if whole else self._part(operand, own, start, length, source)
            inputs.append(operand)
        sizes = [length if a == axis else n for a, n in enumerate(x.sizes)]
        return again(self.graph, source, inputs, sizes)[0]

    # ---------------------------------------------------------------- elementwise operations before concatenations

    def _spread(self, operation: Operation) -> Tensor | None:
        out = operation.outputs[0]
        for x in operation.tensors:
            joined = self.new(x)
            if joined.kind != "concatenate" or not self.only_used_by(x, operation):
                continue
            assert isinstance(joined.source, Operation)
            axis = joined.source.attributes["axis"] + out.rank - x.rank
            pieces = joined.source.tensors
            if len(pieces) > MOST_PIECES or out.sizes[axis] != joined.sizes[joined.source.attributes["axis"]]:
                continue
            lengths = [piece.sizes[joined.source.attributes["axis"]] for piece in pieces]
            starts = [sum(lengths[:number]) for number in range(len(lengths))]
            parts = [self._part(out, axis, a, n, None) for a, n in zip(starts, lengths, strict=True)]
            return self.graph.concatenate(parts, axis)
        return None
