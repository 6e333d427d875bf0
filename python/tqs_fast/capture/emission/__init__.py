"""From operations to nodes: one function per kind of operation."""

from __future__ import annotations

from collections.abc import Callable

from tqs_fast.capture.emission import movement, products, rows
from tqs_fast.capture.emission.elementwise import elementwise
from tqs_fast.capture.emission.memory import Memory
from tqs_fast.capture.graph import Operation

EMITTERS: dict[str, Callable[[Memory, Operation], None]] = {
    function.__name__: function
    for function in (
        movement.concatenate,
        movement.remap,
        movement.gather,
        products.linear,
        products.packed_linear,
        products.convolution,
        products.matmul,
        products.attention,
        rows.reduce,
        rows.softmax,
        rows.normalize,
        rows.top_k,
        rows.scan,
        rows.running_extreme,
    )
}

__all__ = ["EMITTERS", "Memory", "elementwise"]
