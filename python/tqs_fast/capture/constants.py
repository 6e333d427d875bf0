"""The constants of a program: parameters without a copy, and what is derived from them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tqs_fast.capture import eager
from tqs_fast.capture.expressions import Expression
from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.layout import Layout, contiguous
from tqs_fast.capture.program import PRECISIONS, Constant, PackedConstant


class ConstantPool:
    """Buffers of constants, and packed weights, each registered once.

    Args:
        new_buffer: `new_buffer(kind, precision, elements)` -> its index.
    """

    def __init__(self, new_buffer: Callable[[str, str, int], int]) -> None:
        self.listed: list[Constant] = []
        self.packed_weights: list[PackedConstant] = []
        self._new_buffer = new_buffer
        self._layouts: dict[tuple[int, str, bool], Layout] = {}
        self._stored: dict[tuple[int, str], int] = {}
        self._alike: dict[tuple[str, bytes], int] = {}
        self._kept: list[Expression] = []

    def layout(self, tensor: Tensor, *, whole: bool = False) -> Layout:
        """Where a constant lies.

        Broadcast axes are not stored, and transposed ones stay as they lie in the parameter, unless `whole`: then the
        buffer is exactly the tensor, row-major.
        """
        expression = tensor.source
        assert isinstance(expression, Expression)
        key = (id(expression), tensor.precision, whole)
        if key not in self._layouts:
            self._kept.append(expression)
            value: torch.Tensor = expression.value
            order = tuple(range(value.dim()))
            narrow: tuple[int, ...] = ()
            if not whole:
                narrow = tuple(axis for axis in order if value.stride(axis) == 0 and value.shape[axis] > 1)
                order = tuple(sorted(order, key=[-stride for stride in value.stride()].__getitem__))
                if not value.permute(order)[_first(narrow, order)].is_contiguous():
                    order = tuple(range(value.dim()))
            buffer = self._store(expression, narrow, order, tensor.precision)
            kept = [1 if axis in narrow else size for axis, size in enumerate(value.shape)]
            strides = contiguous(kept, order)
            strides = tuple(0 if axis in narrow else stride for axis, stride in enumerate(strides))
            self._layouts[key] = Layout(buffer, 0, tuple(value.shape), strides)
        return self._layouts[key]

    def packed(self, weight: PackedConstant) -> int:
        """The place of a packed weight."""
        if weight not in self.packed_weights:
            self.packed_weights.append(weight)
        return self.packed_weights.index(weight)

    def _store(self, expression: Expression, narrow: tuple[int, ...], order: tuple[int, ...], precision: str) -> int:
        if (
            expression.function is not None
            or narrow
            or order != tuple(range(len(order)))
            or not _fits(expression.value, precision)
        ):
            plain = _unpermuted(expression, order) if not narrow else None
            expression = plain or Expression(_stored, (expression, narrow, order, precision))
        if not _fits(expression.value, precision):
            expression = Expression(_stored, (expression, (), tuple(range(expression.value.dim())), precision))
        key = (id(expression), precision)
        if key in self._stored:
            return self._stored[key]
        tensor: torch.Tensor = expression.value
        content = None
        if not expression.parameters:
            content = (precision, _bytes(tensor))
            if content in self._alike:
                return self._alike[content]
        buffer = self._new_buffer("constant", precision, tensor.numel())
        self._stored[key] = buffer
        if content is not None:
            self._alike[content] = buffer
        self._kept.append(expression)
        self.listed.append(Constant(buffer, tensor, expression.parameters, expression.derive))
        return buffer


def _first(narrow: tuple[int, ...], order: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if axis in narrow else slice(None) for axis in order)


def _bytes(tensor: torch.Tensor) -> bytes:
    here = tensor.cpu()  # whose bfloat16 NumPy does not know
    return (here.view(torch.int16) if here.dtype == torch.bfloat16 else here).numpy().tobytes()


def _fits(tensor: torch.Tensor, precision: str) -> bool:
    return tensor.dtype == PRECISIONS[precision] and tensor.is_contiguous()


def _unpermuted(expression: Expression, order: tuple[int, ...]) -> Expression | None:
    """What `expression` is a permutation of, where `order` undoes it."""
    if expression.function is eager.permute:
        inner, before = expression.arguments
        if tuple(before[axis] for axis in order) == tuple(range(len(order))):
            return inner  # type: ignore[no-any-return]
    return None


def _stored(tensor: torch.Tensor, narrow: tuple[int, ...], order: tuple[int, ...], precision: str) -> torch.Tensor:
    return tensor.permute(order)[_first(narrow, order)].to(PRECISIONS[precision]).contiguous()
