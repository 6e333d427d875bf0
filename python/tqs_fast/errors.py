"""Every error a user can cause is a `TqsError`: one sentence on what was expected, what came, and what to do."""

from __future__ import annotations


class TqsError(Exception):
    """Base of all errors raised on purpose by tqs-fast."""


class ArgumentError(TqsError, ValueError):
    """An argument has the wrong shape, dtype, range or name."""


class FileFormatError(TqsError, ValueError):
    """A file is missing, truncated, foreign, of another version, or does not match the model."""


class DivergenceError(TqsError, ArithmeticError):
    """A rollout produced NaN or infinity, or died to a constant."""


class InfeasibleError(TqsError, ValueError):
    """No plan meets the budget; the message names the feasible range."""


class OutOfMemoryError(TqsError, MemoryError):
    """There is not enough memory for what was asked; the message says what to lower."""


class CheckpointError(TqsError):
    """A checkpoint belongs to another run or is damaged."""


class EngineError(TqsError, RuntimeError):
    """A program that is not ours (ONNX Runtime, a black box) failed while it ran; the message holds its own."""


class CaptureError(TqsError):
    """A step cannot be lowered to a native program; the message names the op and the module, and the way out."""
