"""The table of lowerings: aten op -> function that adds its operations to the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tqs_fast.capture.graph import Graph, Operand, Tensor, broadcast
from tqs_fast.capture.program import PRECISIONS, computed_in
from tqs_fast.errors import CaptureError

Lowering = Callable[..., Any]
OneLowering = TypeVar("OneLowering", bound=Lowering)
LOWERINGS: dict[str, Lowering] = {}
COMPLEX_LOWERINGS: dict[str, Lowering] = {}  # ops that are given or return complex tensors: a last axis of size 2


def lowers(*names: str, complex: bool = False) -> Callable[[OneLowering], OneLowering]:
    """Registers a function for aten ops: `function(context, *arguments, **keywords)`, tensors as `Tensor`."""

    def register(function: OneLowering) -> OneLowering:
        table = COMPLEX_LOWERINGS if complex else LOWERINGS
        for name in names:
            assert name not in table, name
            table[name] = function
        return function

    return register


@dataclass
class Context:
    """What a lowering is given beside its arguments.

    Attributes:
        graph: where operations are added.
        node: the node being lowered; its meta holds what torch returns.
        precision: of integers and booleans.
    """

    graph: Graph
    node: torch.fx.Node
    precision: str

    @property
    def returned(self) -> Any:
        """Fake tensors of the op's results."""
        return self.node.meta["val"]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.returned.shape)

    def dtype(self, position: int) -> torch.dtype:
        """Of the tensor argument at `position`."""
        dtype: torch.dtype = self.node.args[position].meta["val"].dtype  # type: ignore[union-attr]
        return dtype

    def precision_of(self, dtype: torch.dtype) -> str:
        if not dtype.is_floating_point and not dtype.is_complex:
            return self.precision
        name = str(dtype).removeprefix("torch.")
        precision = {"complex64": "float32", "complex128": "float64"}.get(name, name)
        if precision not in PRECISIONS:
            raise self.error(f"{name} tensors are not supported; convert the module to float32")
        return precision

    def error(self, reason: str) -> CaptureError:
        return CaptureError(reason)

    def elementwise(self, opcode: str, *operands: Operand, precision: str | None = None) -> Tensor:
        """One opcode over operands that broadcast; by default the result has the precision that it is computed in."""
        tensors = [operand for operand in operands if isinstance(operand, Tensor)]
        if precision is None:
            precision = computed_in(*(x.precision for x in tensors))
        sizes = broadcast(*(x.sizes for x in tensors))
        given = [self._argument(x, computed_in(precision)) if isinstance(x, Tensor) else float(x) for x in operands]
        return self.graph.elementwise(opcode, given, sizes, precision)

    def _argument(self, x: Tensor, computed: str) -> Operand:
        """Of an operation that is computed in `computed`: what has 16 bits is read as it is."""
        return self.simple(x if computed_in(x.precision) == computed else self.convert(x, computed))

    def convert(self, x: Tensor, precision: str) -> Tensor:
        return self.graph.cast(x, precision)

    def simple(self, x: Tensor) -> Operand:
        """A constant that is one number everywhere, and no parameter, as a number."""
        if not x.is_constant or x.source.parameters or x.elements == 0:  # type: ignore[union-attr]
            return x
        value: torch.Tensor = x.source.value  # type: ignore[union-attr]
        first = value[(0,) * value.dim()]
        if x.elements > 1 and not bool((value == first).all()):
            return x
        return float(first.to(PRECISIONS[x.precision] if value.is_floating_point() else torch.float64))

    def number(self, value: float) -> Tensor:
        """A constant of rank 0."""
        return self.graph.fold(_number, float(value), precision=self.precision)

    def full(self, sizes: Sequence[int], value: float, precision: str) -> Tensor:
        """A constant with one value everywhere."""
        return self.graph.expand(self.graph.fold(_number, float(value), precision=precision), sizes)


def _number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)
