"""A group of elementwise operations as one node."""

from __future__ import annotations

from collections.abc import Sequence

from tqs_fast.capture.emission.memory import Memory
from tqs_fast.capture.emission.movement import part_of_concatenation
from tqs_fast.capture.fuse import Group
from tqs_fast.capture.graph import Operand, Operation, Tensor
from tqs_fast.capture.layout import Layout, Sizes, coalesce, memory_order
from tqs_fast.capture.opcodes import ARITY, OPCODE


def elementwise(memory: Memory, group: Group) -> None:
    """All operations of the group; conversions alone are copies."""
    sizes = group.operations[0].outputs[0].sizes
    made = {id(operation) for operation in group.operations}
    tensors = group.inputs()
    inputs = [_broadcast(memory.layout(x), sizes) for x in tensors]
    order = memory_order(sizes, inputs)
    results = [op.outputs[0] for op in group.operations if memory.wired.leaves(op.outputs[0], made)]
    outputs = [part_of_concatenation(memory, x, order) or memory.output(x, order) for x in results]
    code = _Code(tensors)
    for operation in group.operations:
        code.add(operation)
    registers = [code.registers[id(x)] for x in results]
    if not code.instructions:
        for register, out in zip(registers, outputs, strict=True):
            memory.copy(inputs[register], out)
        return
    turned = tuple(sizes[axis] for axis in order)
    strides = [tuple(layout.strides[axis] for axis in order) for layout in (*inputs, *outputs)]
    fewest, steps = coalesce(turned, strides)
    flat = [
        Layout(layout.buffer, layout.offset, fewest, step)
        for layout, step in zip((*inputs, *outputs), steps, strict=True)
    ]
    memory.node(
        "elementwise",
        flat[: len(inputs)],
        flat[len(inputs) :],
        {"code": tuple(code.instructions), "output_registers": tuple(registers)},
        {"values": tuple(code.numbers)},
    )


class _Code:
    """The instructions of a node.

    Attributes:
        registers: id of a tensor -> the register that holds it; inputs come first.
        instructions: flat (opcode, out, a, b, c)*.
        numbers: one per instruction, of use to "constant" alone.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.registers = {id(x): number for number, x in enumerate(inputs)}
        self.instructions: list[int] = []
        self.numbers: list[float] = []
        self._inputs = len(inputs)
        self._constants: dict[str, int] = {}  # repr, as 0.0 == -0.0

    def add(self, operation: Operation) -> None:
        arguments = [self._register(operand) for operand in operation.inputs]
        opcode = operation.attributes["opcode"]
        # a node computes in one precision, and converts what it reads and writes
        register = arguments[0] if opcode == "cast" else self._instruct(opcode, arguments)
        self.registers[id(operation.outputs[0])] = register

    def _register(self, operand: Operand | None) -> int:
        if isinstance(operand, Tensor):
            return self.registers[id(operand)]
        assert operand is not None
        if repr(operand) not in self._constants:
            self._constants[repr(operand)] = self._instruct("constant", [], operand)
        return self._constants[repr(operand)]

    def _instruct(self, opcode: str, arguments: Sequence[int], number: float = 0.0) -> int:
        assert ARITY[opcode] == len(arguments), opcode
        out = self._inputs + len(self.numbers)
        self.instructions.extend((OPCODE[opcode], out, *arguments, *(0,) * (3 - len(arguments))))
        self.numbers.append(number)
        return out


def _broadcast(layout: Layout, sizes: Sizes) -> Layout:
    """Stride 0 along the axes in which `sizes` are larger."""
    missing = len(sizes) - len(layout.sizes)
    padded = ((1,) * missing + layout.sizes, (0,) * missing + layout.strides)
    strides = tuple(0 if have != want else stride for have, stride, want in zip(*padded, sizes, strict=True))
    return Layout(layout.buffer, layout.offset, sizes, strides)
