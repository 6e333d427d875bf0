"""From a System's step to a program for the native engine."""

from tqs_fast.capture.capture import capture
from tqs_fast.capture.program import Buffer, Constant, NextState, Node, Program, Value

__all__ = ["Buffer", "Constant", "NextState", "Node", "Program", "Value", "capture"]
