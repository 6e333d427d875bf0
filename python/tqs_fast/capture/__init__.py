"""From a System's step to a program for the native engine."""

from tqs_fast.capture.capture import capture
from tqs_fast.capture.describe import describe, sizes
from tqs_fast.capture.program import Buffer, Constant, NextState, Node, Program, Value
from tqs_fast.capture.streaming import Streamed, stream
from tqs_fast.capture.transpose import transposed
from tqs_fast.capture.verify import verify

__all__ = [
    "Buffer",
    "Constant",
    "NextState",
    "Node",
    "Program",
    "Streamed",
    "Value",
    "capture",
    "describe",
    "sizes",
    "stream",
    "transposed",
    "verify",
]
