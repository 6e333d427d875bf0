"""Operations that a model writes out become the one that they are: attention, normalisation, silu, a bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tqs_fast.capture.graph import Graph, Operand, Operation, Tensor, broadcast
from tqs_fast.capture.masks import HIDDEN, causal_offset
from tqs_fast.capture.passes import Pass, again, arguments, opcode
from tqs_fast.capture.program import computed_in


def recognise(operations: Sequence[Operation], results: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    """The operations again, recognised; the results are the same up to rounding."""
    return _Patterns(operations, results).run()


@dataclass(frozen=True)
class _Scores:
    """scale q k^T + mask, q [..., S, D] and k^T [..., D, T] of the old graph, mask of the new one."""

    q: Tensor
    k: Tensor
    scale: float
    mask: Tensor | None


class _Patterns(Pass):
    def rule(self, operation: Operation) -> Tensor | None:
        if operation.kind == "attention":
            return self._shared_heads(operation)
        if operation.kind == "matmul":
            return self._attention(operation)
        if operation.kind != "elementwise":
            return None
        match operation.attributes["opcode"]:
            case "multiply":
                return self._silu(operation) or self._root_mean_square(operation)
            case "divide":
                return self._root_mean_square(operation)
            case "add":
                return self._bias(operation)
        return None

    # ---------------------------------------------------------------- attention

    def _attention(self, operation: Operation) -> Tensor | None:
        """softmax(scale q k^T + mask) v."""
        left, v = operation.tensors
        weights, user = self.through_reshapes(left, operation, 2)
        source = weights.source
        if not isinstance(source, Operation) or source.kind != "softmax" or source.attributes["logarithm"]:
            return None
        if not self.only_used_by(weights, user):
            return None
        scores = self._scores(source.tensors[0], source)
        if scores is None:
            return None
        graph, leading = self.graph, weights.sizes[:-2]
        q, k, value = (self.new(x) for x in (scores.q, scores.k, v))
        if not q.precision == k.precision == value.precision:
            return None
        k = graph.permute(k, (*range(k.rank - 2), k.rank - 1, k.rank - 2))
        q, k, value = (graph.reshape(x, (*leading, *x.sizes[-2:])) for x in (q, k, value))
        mask, offset = scores.mask, None
        if mask is not None:
            offset = causal_offset(mask)
            mask = graph.cast(graph.expand(mask, weights.sizes), q.precision) if offset is None else None
        sizes = (*leading, q.sizes[-2], value.sizes[-1])
        y = graph.add(
            "attention",
            [q, k, value, mask],
            sizes,
            causal=offset is not None,
            causal_offset=offset or 0,
            scale=scores.scale,
        )[0]
        return graph.reshape(y, operation.outputs[0].sizes)

    def _scores(self, x: Tensor, user: Operation) -> _Scores | None:
        if not self.only_used_by(x, user):
            return None
        product, reader = self.through_reshapes(x, user, 2)
        if product.kind == "matmul" and self.only_used_by(product, reader):
            assert isinstance(product.source, Operation)
            q, k = product.source.tensors
            return _Scores(q, k, 1.0, None)
        source = x.source
        if not isinstance(source, Operation) or source.kind != "elementwise":
            return None
        match source.attributes["opcode"], source.inputs:
            case "multiply", (Tensor() as inner, float() as factor):
                return self._scaled(inner, source, factor)
            case "multiply", (float() as factor, Tensor() as inner):
                return self._scaled(inner, source, factor)
            case "divide", (Tensor() as inner, float() as factor):
                return self._scaled(inner, source, 1 / factor)
            case "add", (Tensor() as first, Tensor() as second):
                return self._masked(first, source, self.new(second)) or self._masked(second, source, self.new(first))
            case "where", (Tensor() as mask, float() as hidden, Tensor() as inner) if hidden < HIDDEN:
                return self._hidden(inner, source, mask, hidden, where=True)
            case "where", (Tensor() as mask, Tensor() as inner, float() as hidden) if hidden < HIDDEN:
                return self._hidden(inner, source, mask, hidden, where=False)
        return None

    def _scaled(self, inner: Tensor, user: Operation, factor: float) -> _Scores | None:
        found = self._scores(inner, user) if inner.sizes == user.outputs[0].sizes else None
        return None if found is None or found.mask is not None else replace(found, scale=found.scale * factor)

    def _masked(self, inner: Tensor, user: Operation, mask: Tensor) -> _Scores | None:
        """inner + mask."""
        found = self._scores(inner, user) if inner.sizes == user.outputs[0].sizes else None
        if found is None or found.mask is None:
            return None if found is None else replace(found, mask=mask)
        return replace(found, mask=self._combined("add", found.mask, mask))

    def _hidden(self, inner: Tensor, user: Operation, mask: Tensor, value: float, *, where: bool) -> _Scores | None:
        """inner, or `value` where the boolean mask is `where`: then what is added to a score does not count."""
        found = self._scores(inner, user) if inner.sizes == user.outputs[0].sizes else None
        if found is None:
            return None
        added: Operand = 0.0 if found.mask is None else found.mask
        choice = (value, added) if where else (added, value)
        return replace(found, mask=self._combined("where", self.new(mask), *choice))

    def _combined(self, name: str, *operands: Operand) -> Tensor:
        tensors = [x for x in operands if isinstance(x, Tensor)]
        precision = computed_in(*(x.precision for x in tensors))
        return self.graph.elementwise(name, operands, broadcast(*(x.sizes for x in tensors)), precision)

    def _shared_heads(self, operation: Operation) -> Tensor | None:
        """Keys and values that are repeated for several query heads are read where they are."""
        q, k, v, mask = self.inputs(operation)
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

    # ---------------------------------------------------------------- elementwise operations

    def _silu(self, operation: Operation) -> Tensor | None:
        """x sigmoid(x)."""
        first, second = self.inputs(operation)
        for x, gate in ((first, second), (second, first)):
            if isinstance(x, Tensor) and opcode(gate) == "sigmoid" and arguments(gate)[0] is x:
                return self.graph.elementwise("silu", [x], x.sizes, operation.outputs[0].precision)
        return None

    def _root_mean_square(self, operation: Operation) -> Tensor | None:
        """x / sqrt(mean(x x) + epsilon) over the last axes."""
        first, second = self.inputs(operation)
        division = operation.attributes["opcode"] == "divide"
        for x, root in ((first, second),) if division else ((first, second), (second, first)):
            if not isinstance(x, Tensor) or opcode(root) != ("square_root" if division else "reciprocal_square_root"):
                continue
            found = _mean_square(x, arguments(root)[0])
            if found is not None:
                axes, epsilon = found
                return self.graph.add(
                    "normalize",
                    [x],
                    x.sizes,
                    precision=operation.outputs[0].precision,
                    axes=axes,
                    epsilon=epsilon,
                    center=False,
                )[0]
        return None

    def _bias(self, operation: Operation) -> Tensor | None:
        """A constant [N] added to a linear layer without a bias."""
        first, second = operation.inputs
        for old, other in ((first, second), (second, first)):
            if not isinstance(old, Tensor) or not isinstance(other, Tensor) or not other.is_constant:
                continue
            y, user = self.through_reshapes(old, operation, 1)
            made = self.new(y)
            if made.kind != "linear" or y.kind != "linear" or not self.only_used_by(y, user):
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


def _mean_square(x: Tensor, total: Operand | None) -> tuple[int, float] | None:
    """(axes, epsilon) where `total` is mean(x x, last axes) + epsilon."""
    if opcode(total) != "add":
        return None
    first, second = arguments(total)
    mean, epsilon = (first, second) if isinstance(first, Tensor) else (second, first)
    if not isinstance(mean, Tensor) or not isinstance(epsilon, float) or mean.kind != "reduce":
        return None
    assert isinstance(mean.source, Operation)
    given = mean.source.attributes
    axes = len(given["axes"])
    square = mean.source.tensors[0]
    last = tuple(range(x.rank - axes, x.rank))
    if given["reduction"] != "mean" or given["axes"] != last or opcode(square) != "multiply":
        return None
    return (axes, epsilon) if all(part is x for part in arguments(square)) else None
