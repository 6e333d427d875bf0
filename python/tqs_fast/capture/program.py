"""The program that a step is lowered to: nodes in order over strided views of buffers, all sizes static.

Everything is per *sample* (one initial condition): the step is captured at batch size one, and an engine runs the same
program on every sample of every lane. This text is normative for csrc/program/spec.h, which has the same fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

# How values are stored, with the type of their tensors. Those of 16 bits are computed in float32, on GPUs only.
PRECISIONS = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
BUFFER_KINDS = ("arena", "constant", "state", "input")


def computed_in(*precisions: str) -> str:
    """What an operation on values of these precisions is computed in: float64 where there is one, else float32."""
    return "float64" if "float64" in precisions else "float32"


def promoted(*precisions: str) -> str:
    """That of values that are stored together."""
    return precisions[0] if len(set(precisions)) == 1 else computed_in(*precisions)


@dataclass(frozen=True)
class Buffer:
    """Memory.

    Attributes:
        kind: "arena" (written by one node), "constant", "state" or "input" (a leaf of either, in tree order).
        precision: of `PRECISIONS`. Booleans and integers are stored as numbers: of float64 in a program that has
            any, else of float32 (16 bits do not hold the integers from 256 or 2048 on).
        elements: per sample; of a constant, in all.
    """

    kind: str
    precision: str
    elements: int


@dataclass(frozen=True)
class Value:
    """A view of a buffer: element i of it is at `offset + t * step + sum(i * strides)`; a stride of 0 broadcasts.

    Attributes:
        buffer: index into `Program.buffers`.
        sizes, strides: at most 8 of each; the batch of size one stays in `sizes`.
        step: elements that the view moves on by at every step t of a rollout (a row of a table of positions).
    """

    buffer: int
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    step: int = 0


@dataclass(frozen=True)
class Node:
    """One op.

    Attributes:
        kind: a name of the op registry (csrc/program/registry.cpp).
        inputs: indices into `Program.values`, -1 for an absent optional input.
        outputs: values that the node writes, each the whole of a fresh arena buffer; a "copy" may write a part of one
            that several copies fill (a concatenation).
        ints, floats: attributes.
        origin: "module.path (aten.op)", for messages.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ints: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    floats: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on state or input: a parameter, or what the step derives from parameters.

    Attributes:
        buffer: index into `Program.buffers`.
        tensor: contiguous, of the buffer's precision.
        parameters: qualified names of the module's parameters it is derived from; empty for true constants.
        derive: `derive({name: tensor})` gives it for other values of those parameters (a quantized weight, say),
            differentiable by torch. Parameters not in the mapping keep their float value.
    """

    buffer: int
    tensor: torch.Tensor
    parameters: tuple[str, ...]
    derive: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, eq=False)
class PackedConstant:
    """A weight [N, K] in the packed format (csrc/quant/format.h), which "packed_linear" nodes name by its place.

    It lies in no buffer: nothing else can read it, no lane has another and no tangent moves it. Whether the rows that
    it multiplies are rounded to int8 is said by the node.

    Attributes:
        codes, scales, zeros: contiguous uint8, int16 and uint8 or None, as in `tqs_fast.ops`.
        bits, group_size: the format.
        shape: (N, K).
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bits: int
    group_size: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Stored bytes: codes, scales and zero points."""
        parts = (self.codes, self.scales, self.zeros)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


@dataclass(frozen=True)
class NextState:
    """What the state buffer holds at the next step.

    With `slide` 0 the elements of value `next`, which is no view of a state (copy it first); with `next` -1 what nodes
    have written into it (a cache). With `slide` > 0 the
    buffer holds `[outer, pitch, inner]`, of which `length` positions are the state: `slide` positions leave at the
    front and value `next`, of sizes exactly [outer, slide, inner], joins at the end (a window of past values, without
    copying it every step).
    """

    buffer: int
    next: int
    slide: int = 0
    outer: int = 1
    length: int = 0
    inner: int = 0
    pitch: int = 0


@dataclass(frozen=True, eq=False)
class Program:
    """One step of a system.

    Attributes:
        states: one per leaf of the state tree, in order.
        inputs: buffers, one per leaf of the input tree.
        output: value that the step emits, `[1, C]` or `[1, block, C]`.
        longest: steps that the moving views allow; 0 for no limit.
        packed: weights of "packed_linear" nodes.
    """

    buffers: tuple[Buffer, ...]
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...]
    states: tuple[NextState, ...]
    inputs: tuple[int, ...]
    output: int
    longest: int = 0
    packed: tuple[PackedConstant, ...] = ()
