"""A captured step before it has memory: operations over tensors with static sizes, each computed once.

Kinds of operation are those of programs, but that "elementwise" is a single opcode, "concatenate" stands for its copies
and views are operations of their own (`VIEWS`), in terms of axes. Equal operations are one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import torch

from tqs_fast.capture import eager
from tqs_fast.capture.expressions import Expression
from tqs_fast.capture.program import PackedConstant

VIEWS = frozenset({"permute", "slice", "expand", "reshape", "windows", "diagonal"})


@dataclass(frozen=True)
class Leaf:
    """A leaf of the state ("state") or of the input ("input"), by position in the tree."""

    kind: str
    position: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the step, for one sample.

    Attributes:
        sizes: of its axes, the batch of size one included.
        precision: how it is stored (`PRECISIONS`), also what torch holds as integers or booleans.
        source: what it comes from; of an operation, output number `index`.
    """

    sizes: tuple[int, ...]
    precision: str
    source: Operation | Leaf | Expression
    index: int = 0

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def elements(self) -> int:
        return prod(self.sizes)

    @property
    def is_constant(self) -> bool:
        return isinstance(self.source, Expression)

    @property
    def kind(self) -> str:
        """Of the operation it comes from; "" for a leaf or a constant."""
        return self.source.kind if isinstance(self.source, Operation) else ""


Operand: TypeAlias = Tensor | float


@dataclass(frozen=True, eq=False)
class Operation:
    """`inputs` may hold numbers where `kind` is "elementwise", and None for an absent optional input."""

    kind: str
    inputs: tuple[Operand | None, ...]
    attributes: Mapping[str, Any]
    origin: str
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        return [operand for operand in self.inputs if isinstance(operand, Tensor)]

    @property
    def is_view(self) -> bool:
        return self.kind in VIEWS


class Graph:
    """Operations in order, and the functions that add one (or find that it is there already)."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.origin = ""
        self._known: dict[Hashable, Operation] = {}
        self._constants: dict[tuple[int, str], Tensor] = {}
        self._folded: dict[Hashable, Expression] = {}
        self._leaves: dict[tuple[Leaf, str], Tensor] = {}
        self._packed: dict[Hashable, PackedConstant] = {}

    def leaf(self, kind: str, position: int, sizes: Sequence[int], precision: str) -> Tensor:
        leaf = Leaf(kind, position)
        return self._leaves.setdefault((leaf, precision), Tensor(tuple(sizes), precision, leaf))

    def constant(self, expression: Expression, precision: str) -> Tensor:
        key = (id(expression), precision)
        if key not in self._constants:
            self._constants[key] = Tensor(tuple(expression.value.shape), precision, expression)
        return self._constants[key]

    def packed(
        self, codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, columns: int
    ) -> PackedConstant:
        """Three constants as a packed weight, an attribute of operations; the same memory is the same weight."""
        parts = [None if part is None else _value(part) for part in (codes, scales, zeros)]
        key = (*((part.data_ptr(), part.shape) for part in parts if part is not None), bits, group_size, columns)
        if key not in self._packed:
            first, second, third = (None if part is None else part.contiguous() for part in parts)
            assert first is not None
            assert second is not None
            shape = (codes.sizes[0], columns)
            self._packed[key] = PackedConstant(first, second, third, bits, group_size, shape)
        return self._packed[key]

    def fold(self, function: Callable[..., Any], *arguments: Any, precision: str) -> Tensor:
        """`function` of constants and plain values, which is a constant."""
        given = tuple(argument.source if isinstance(argument, Tensor) else argument for argument in arguments)
        key = (function, tuple(id(item) if isinstance(item, Expression) else _by_value(item) for item in given))
        expression = self._folded.setdefault(key, Expression(function, given))
        return self.constant(expression, precision)

    def add(
        self,
        kind: str,
        inputs: Sequence[Operand | None],
        sizes: Sequence[int],
        *,
        outputs: int = 1,
        precision: str | None = None,
        **attributes: Any,
    ) -> list[Tensor]:
        """The outputs of an operation, all of `sizes`, and of the precision of its first input by default."""
        sizes = tuple(int(size) for size in sizes)
        if precision is None:
            precision = next(operand.precision for operand in inputs if isinstance(operand, Tensor))
        key = (
            kind,
            tuple(_identity(operand) for operand in inputs),
            sizes,
            precision,
            tuple(sorted(attributes.items())),
        )
        found = self._known.get(key)
        if found is None:
            found = Operation(kind, tuple(inputs), attributes, self.origin)
            found.outputs.extend(Tensor(sizes, precision, found, index) for index in range(outputs))
            self.operations.append(found)
            self._known[key] = found
        return found.outputs

    def elementwise(
        self, opcode: str, operands: Sequence[Operand | None], sizes: Sequence[int], precision: str
    ) -> Tensor:
        """One opcode over operands that broadcast to `sizes`; of constants alone it is a constant."""
        if all(isinstance(x, float) or (isinstance(x, Tensor) and x.is_constant) for x in operands):
            return self.fold(eager.elementwise, opcode, tuple(sizes), precision, *operands, precision=precision)
        return self.add("elementwise", operands, sizes, precision=precision, opcode=opcode)[0]

    def cast(self, x: Tensor, precision: str) -> Tensor:
        """x in another precision."""
        if x.precision == precision:
            return x
        if isinstance(x.source, Expression):
            return self.constant(x.source, precision)
        return self.elementwise("cast", [x], x.sizes, precision)

    # ---------------------------------------------------------------- views

    def permute(self, x: Tensor, order: Sequence[int]) -> Tensor:
        order = tuple(axis % x.rank for axis in order)
        if isinstance(x.source, Expression):
            if x.source.function is eager.permute:
                inner, before = x.source.arguments
                return self.permute(self.constant(inner, x.precision), [before[axis] for axis in order])
            if order == tuple(range(x.rank)):
                return x
            return self.fold(eager.permute, x, order, precision=x.precision)
        if isinstance(x.source, Operation) and x.kind == "permute":
            before = x.source.attributes["order"]
            order, x = tuple(before[axis] for axis in order), x.source.tensors[0]
        sizes = [x.sizes[axis] for axis in order]
        moved = [axis for axis in order if x.sizes[axis] != 1]
        if moved == sorted(moved):  # einsum moves axes of size one about
            return self.reshape(x, sizes)
        return self.add("permute", [x], sizes, order=order)[0]

    def reshape(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """In row-major order of the logical axes, whatever lies in memory."""
        sizes = tuple(sizes)
        assert prod(sizes) == x.elements, f"reshape {x.sizes} to {sizes}"
        if sizes == x.sizes:
            return x
        if isinstance(x.source, Expression):
            return self.fold(eager.reshape, x, sizes, precision=x.precision)
        if isinstance(x.source, Operation) and x.kind == "reshape":
            return self.reshape(x.source.tensors[0], sizes)
        return self.add("reshape", [x], sizes)[0]

    def expand(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Broadcast; new axes come first."""
        sizes = tuple(sizes)
        if len(sizes) > x.rank:
            x = self.reshape(x, (1,) * (len(sizes) - x.rank) + x.sizes)
        sizes = tuple(have if want == -1 else want for have, want in zip(x.sizes, sizes, strict=True))
        if sizes == x.sizes:
            return x
        if isinstance(x.source, Expression):
            return self.fold(eager.expand, x, sizes, precision=x.precision)
        return self.add("expand", [x], sizes)[0]

    def slice(self, x: Tensor, axis: int, start: int, length: int, step: int = 1) -> Tensor:
        axis %= x.rank
        if start == 0 and length == x.sizes[axis]:
            return x
        if isinstance(x.source, Expression):
            return self.fold(eager.cut, x, axis, start, length, step, precision=x.precision)
        if isinstance(x.source, Operation):
            found = self._slice_of(x, x.source, axis, start, length, step)
            if found is not None:
                return found
        sizes = [length if i == axis else size for i, size in enumerate(x.sizes)]
        return self.add("slice", [x], sizes, axis=axis, start=start, step=step)[0]

    def _slice_of(self, x: Tensor, source: Operation, axis: int, start: int, length: int, step: int) -> Tensor | None:
        """A slice of a slice is one slice; a slice that lies in one piece of a concatenation is one of that piece."""
        inner = source.tensors[0]
        if source.kind == "slice" and source.attributes["axis"] == axis:
            before = source.attributes
            return self.slice(inner, axis, before["start"] + start * before["step"], length, before["step"] * step)
        if source.kind == "concatenate" and source.attributes["axis"] == axis and step == 1:
            begin = 0
            for piece in source.tensors:
                if begin <= start and start + length <= begin + piece.sizes[axis]:
                    return self.slice(piece, axis, start - begin, length)
                begin += piece.sizes[axis]
        return None

    def select(self, x: Tensor, axis: int, position: int) -> Tensor:
        axis %= x.rank
        row = self.slice(x, axis, position % x.sizes[axis], 1)
        return self.reshape(row, row.sizes[:axis] + row.sizes[axis + 1 :])

    def windows(self, x: Tensor, axis: int, size: int, step: int) -> Tensor:
        """Overlapping windows along `axis`, whose elements become a new last axis."""
        axis %= x.rank
        if isinstance(x.source, Expression):
            return self.fold(eager.windows, x, axis, size, step, precision=x.precision)
        count = (x.sizes[axis] - size) // step + 1
        sizes = [count if i == axis else n for i, n in enumerate(x.sizes)] + [size]
        return self.add("windows", [x], sizes, axis=axis, size=size, step=step)[0]

    def diagonal(self, x: Tensor, offset: int, axis1: int, axis2: int) -> Tensor:
        """As torch.diagonal: the diagonal becomes the last axis."""
        axis1, axis2 = axis1 % x.rank, axis2 % x.rank
        rows, columns = x.sizes[axis1] - max(-offset, 0), x.sizes[axis2] - max(offset, 0)
        sizes = [size for i, size in enumerate(x.sizes) if i not in (axis1, axis2)] + [max(0, min(rows, columns))]
        return self.add("diagonal", [x], sizes, offset=offset, axis1=axis1, axis2=axis2)[0]

    # ---------------------------------------------------------------- movement

    def concatenate(self, pieces: Sequence[Tensor], axis: int) -> Tensor:
        """Pieces of equal sizes but along `axis`; concatenations inside are flattened."""
        axis %= pieces[0].rank
        flat: list[Tensor] = []
        for piece in pieces:
            source = piece.source
            if isinstance(source, Operation) and source.kind == "concatenate" and source.attributes["axis"] == axis:
                flat.extend(source.tensors)
            elif piece.sizes[axis] > 0:
                flat.append(piece)
        if len(flat) == 1:
            return flat[0]
        if all(piece.is_constant for piece in flat):
            return self.fold(eager.concatenate, axis, *flat, precision=flat[0].precision)
        sizes = list(flat[0].sizes)
        sizes[axis] = sum(piece.sizes[axis] for piece in flat)
        return self.add("concatenate", flat, sizes, axis=axis)[0]


def _value(constant: Tensor) -> torch.Tensor:
    assert isinstance(constant.source, Expression)
    value: torch.Tensor = constant.source.value
    return value


def _identity(operand: Operand | None) -> Hashable:
    return _by_value(operand) if isinstance(operand, float) else id(operand)


def _by_value(item: Any) -> Hashable:
    # 0.0 == -0.0, but they are different constants
    return ("number", repr(item)) if isinstance(item, float) else item


def broadcast(*sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes of an elementwise result."""
    return tuple(torch.broadcast_shapes(*sizes))  # type: ignore[no-untyped-call]
