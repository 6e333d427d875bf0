"""ONNX operator -> torch functions: one file per family, one table."""

from tqs_fast.onnx.operators import attention, elementwise, indexing, movement, normalisation, products, recurrent, rows
from tqs_fast.onnx.operators.registry import OPERATORS, Call, Value

__all__ = [
    "OPERATORS",
    "Call",
    "Value",
    "attention",
    "elementwise",
    "indexing",
    "movement",
    "normalisation",
    "products",
    "recurrent",
    "rows",
]
