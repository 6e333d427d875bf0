"""aten op -> operations of the graph: one file per family, one table."""

from tqs_fast.capture.lowering import (
    activations,
    complex,
    elementwise,
    indexing,
    movement,
    normalisation,
    packed,
    products,
    rows,
    views,
)
from tqs_fast.capture.lowering.registry import COMPLEX_LOWERINGS, LOWERINGS, Context

__all__ = [
    "COMPLEX_LOWERINGS",
    "LOWERINGS",
    "Context",
    "activations",
    "complex",
    "elementwise",
    "indexing",
    "movement",
    "normalisation",
    "packed",
    "products",
    "rows",
    "views",
]
