"""Capture: opcodes shared with the kernels, and what a program promises to an engine."""

from __future__ import annotations

import re
from pathlib import Path

from tqs_fast.capture import opcodes
from tqs_fast.reference import program as oracle

HEADER = Path(__file__).resolve().parents[1] / "csrc" / "backend" / "program_kernels.h"


def enumerators(name: str) -> list[str]:
    body = re.search(rf"enum class {name}[^{{]*{{(.*?)}}", HEADER.read_text(), re.DOTALL)
    assert body is not None
    return re.findall(r"\w+", re.sub(r"//.*", "", body[1]))


def test_opcodes_are_those_of_the_kernels():
    assert list(opcodes.OPCODES) == enumerators("Opcode")
    assert list(oracle.OPCODES) == enumerators("Opcode")
    assert list(opcodes.REDUCTIONS) == enumerators("Reduction") == list(oracle.REDUCTIONS)
