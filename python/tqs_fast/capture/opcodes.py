"""The elementwise opcodes, in the order of enum Opcode in csrc/backend/elementwise_code.h."""

from __future__ import annotations

NULLARY = ("constant",)
UNARY = (
    "negate",
    "absolute",
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "square_root",
    "reciprocal_square_root",
    "reciprocal",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "sigmoid",
    "error_function",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "relu",
    "logical_not",
    "is_nan",
    "is_finite",
)
BINARY = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "maximum",
    "minimum",
    "remainder",
    "floor_divide",
    "atan2",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
)
TERNARY = ("where",)
OPCODES = (*NULLARY, *UNARY, *BINARY, *TERNARY)
OPCODE = {name: position for position, name in enumerate(OPCODES)}
ARITY = (
    {name: 0 for name in NULLARY}
    | {name: 1 for name in UNARY}
    | {name: 2 for name in BINARY}
    | {name: 3 for name in TERNARY}
)

# enum Reduction of the same header.
REDUCTIONS = ("sum", "mean", "maximum", "minimum", "product", "any", "all", "argmax", "argmin")

MAX_RANK = 8
MAX_INPUTS = 16
MAX_OUTPUTS = 4
MAX_INSTRUCTIONS = 64  # of the derivative there are up to MAX_INPUTS times as many
