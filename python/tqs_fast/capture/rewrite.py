"""Rewrites that leave fewer or cheaper nodes, and the same result up to rounding.

- A gate layer computes all gates at once and slices them: the slices move before the elementwise operations, which then
  fuse with what each gate does next.
- An elementwise operation on a concatenation (half of a rotary embedding turned, a shifted series padded) becomes a
  concatenation of elementwise operations, which write their part themselves.
- Normalisation, silu and a bias that are written out become one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor, again
from tqs_fast.capture.wiring import users_of

MOST_SLICES = 4  # the gates of a cell; a series cut into its steps is better computed at once
MOST_PIECES = 3  # of a concatenation that elementwise operations are drawn into


def rewrite(operations: Sequence[Operation], results: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    """The operations again, rewritten; what is no longer used may be left over."""
    return _Rewriting(operations, results).run()


class _Rewriting:
    def __init__(self, operations: Sequence[Operation], results: Sequence[Tensor]) -> None:
        self.operations, self.results = operations, results
        self.graph = Graph()
        self.made: dict[int, Tensor] = {}  # id of an old tensor -> the new one
        self.users = users_of(operations, results)
        self.by_id = {id(operation): operation for operation in operations}

    def run(self) -> tuple[Graph, list[Tensor]]:
        for operation in self.operations:
            self.graph.origin = operation.origin
            outputs = self._rewritten(operation)
            for old, new in zip(operation.outputs, outputs, strict=True):
                self.made[id(old)] = new
        return self.graph, [self.new(x) for x in self.results]

    def new(self, x: Tensor) -> Tensor:
        return self.made[id(x)] if isinstance(x.source, Operation) else x

    def _inputs(self, operation: Operation) -> list[Operand | None]:
        return [self.new(x) if isinstance(x, Tensor) else x for x in operation.inputs]

    def _rewritten(self, operation: Operation) -> list[Tensor]:
        found: Tensor | None = None
        if operation.kind == "slice":
            found = self._slice(operation)
        elif operation.kind == "elementwise":
            rules = {
                "multiply": (self._silu, self._root_mean_square),
                "divide": (self._root_mean_square,),
                "add": (self._bias,),
            }
            for rule in (*rules.get(operation.attributes["opcode"], ()), self._spread):
                found = rule(operation)
                if found is not None:
                    break
        elif operation.kind == "attention":
            found = self._shared_heads(operation)
        return [found] if found is not None else again(self.graph, operation, self._inputs(operation))

    def _is_only_used_by(self, x: Tensor, user: Operation) -> bool:
        return self.users[id(x)] == {id(user)}

    # ---------------------------------------------------------------- slices before elementwise operations

    def _slice(self, operation: Operation) -> Tensor | None:
        (x,), given = operation.tensors, operation.attributes
        if x.kind != "elementwise" or not self._is_cut_up(x, given["axis"]):
            return None
        return self._part(x, given["axis"], given["start"], operation.outputs[0].sizes[given["axis"]], None)

    def _is_cut_up(self, x: Tensor, axis: int) -> bool:
        """Whether all that is read of x are a few slices along `axis` that do not overlap."""
        if len(self.users[id(x)]) > MOST_SLICES:
            return False
        ranges = []
        for user in self.users[id(x)]:
            reader = self.by_id.get(user)
            if reader is None or reader.kind != "slice" or reader.attributes["axis"] != axis:
                return False
            if reader.attributes["step"] != 1:
                return False
            start = reader.attributes["start"]
            ranges.append((start, start + reader.outputs[0].sizes[axis]))
        ranges.sort()
        return all(before[1] <= after[0] for before, after in pairwise(ranges))

    def _part(self, x: Tensor, axis: int, start: int, length: int, user: Operation | None) -> Tensor:
        """A slice of an old tensor, taken before the elementwise operations that nothing but `user` reads."""
        source = x.source
        opens = user is None or self._is_only_used_by(x, user)
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
            if joined.kind != "concatenate" or not self._is_only_used_by(x, operation):
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

    # ---------------------------------------------------------------- operations written out

    def _shared_heads(self, operation: Operation) -> Tensor | None:
        """Keys and values that are repeated for several query heads are read where they are."""
        q, k, v, mask = self._inputs(operation)
        repeated = [_unrepeated(x) for x in (k, v)]
        if repeated[0] is None or repeated[1] is None or not isinstance(q, Tensor):
            return None
        *leading, groups, share, _, _ = repeated[0].sizes

        def apart(x: Tensor) -> Tensor:
            return self.graph.reshape(x, (*leading, groups, share, *x.sizes[-2:]))

        if repeated[1].sizes[:-2] != (*leading, groups, share):
            return None
        inputs = [apart(q), *repeated, apart(mask) if isinstance(mask, Tensor) else None]
        out = operation.outputs[0]
        y = again(self.graph, operation, inputs, (*leading, groups, share, *out.sizes[-2:]))[0]
        return self.graph.reshape(y, out.sizes)

    def _silu(self, operation: Operation) -> Tensor | None:
        """x sigmoid(x)."""
        first, second = self._inputs(operation)
        for x, gate in ((first, second), (second, first)):
            if isinstance(x, Tensor) and _opcode(gate) == "sigmoid" and _arguments(gate)[0] is x:
                return self.graph.add("elementwise", [x], x.sizes, precision=x.precision, opcode="silu")[0]
        return None

    def _root_mean_square(self, operation: Operation) -> Tensor | None:
        """x / sqrt(mean(x x) + epsilon) over the last axes."""
        first, second = self._inputs(operation)
        division = operation.attributes["opcode"] == "divide"
        for x, root in ((first, second),) if division else ((first, second), (second, first)):
            if not isinstance(x, Tensor) or _opcode(root) != ("square_root" if division else "reciprocal_square_root"):
                continue
            found = _mean_square(x, _arguments(root)[0])
            if found is not None:
                axes, epsilon = found
                return self.graph.add("normalize", [x], x.sizes, axes=axes, epsilon=epsilon, center=False)[0]
        return None

    def _bias(self, operation: Operation) -> Tensor | None:
        """A constant [N] added to a linear layer without a bias."""
        first, second = operation.inputs
        for old, other in ((first, second), (second, first)):
            if not isinstance(old, Tensor) or not isinstance(other, Tensor) or not other.is_constant:
                continue
            y: Tensor = old
            user: Operation = operation
            while y.kind == "reshape" and self._is_only_used_by(y, user):
                reshape = y.source
                assert isinstance(reshape, Operation)
                inner = reshape.tensors[0]
                if inner.sizes[-1:] != y.sizes[-1:]:
                    break
                y, user = inner, reshape
            made = self.new(y)
            if made.kind != "linear" or y.kind != "linear" or not self._is_only_used_by(y, user):
                continue
            assert isinstance(made.source, Operation)
            x, weight, bias = made.source.inputs
            fits = other.elements == made.sizes[-1] == other.sizes[-1] if other.rank else False
            if bias is None and fits and old.sizes == operation.outputs[0].sizes and other.precision == old.precision:
                own = self.graph.reshape(other, (other.elements,))
                y = self.graph.add("linear", [x, weight, own], made.sizes)[0]
                return self.graph.reshape(y, old.sizes)
        return None


def _unrepeated(x: Operand | None) -> Tensor | None:
    """[..., G, R, T, D], the same for all R, where x is [..., G R, T, D] made of it."""
    if not isinstance(x, Tensor) or not isinstance(x.source, Operation) or x.kind != "reshape":
        return None
    inner = x.source.tensors[0]
    if not isinstance(inner.source, Operation) or inner.kind != "expand" or inner.rank != x.rank + 1:
        return None
    once = inner.source.tensors[0]
    together = (*inner.sizes[:-4], inner.sizes[-4] * inner.sizes[-3], *inner.sizes[-2:])
    return inner if together == x.sizes and once.sizes[-3] == 1 else None


def _opcode(operand: Operand | None) -> str:
    if isinstance(operand, Tensor) and isinstance(operand.source, Operation) and operand.kind == "elementwise":
        return str(operand.source.attributes["opcode"])
    return ""


def _arguments(operand: Operand | None) -> Sequence[Operand | None]:
    assert isinstance(operand, Tensor)
    assert isinstance(operand.source, Operation)
    return operand.source.inputs


def _mean_square(x: Tensor, total: Operand | None) -> tuple[int, float] | None:
    """(axes, epsilon) where `total` is mean(x x, last axes) + epsilon."""
    if _opcode(total) != "add":
        return None
    first, second = _arguments(total)
    mean, epsilon = (first, second) if isinstance(first, Tensor) else (second, first)
    if not isinstance(mean, Tensor) or not isinstance(epsilon, float) or mean.kind != "reduce":
        return None
    assert isinstance(mean.source, Operation)
    given = mean.source.attributes
    axes = len(given["axes"])
    square = mean.source.tensors[0]
    last = tuple(range(x.rank - axes, x.rank))
    if given["reduction"] != "mean" or given["axes"] != last or _opcode(square) != "multiply":
        return None
    return (axes, epsilon) if all(part is x for part in _arguments(square)) else None
