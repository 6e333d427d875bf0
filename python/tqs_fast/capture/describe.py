"""A program in words: one line per node, and its sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

from tqs_fast.capture.layout import contiguous
from tqs_fast.capture.opcodes import ARITY, OPCODES, REDUCTIONS
from tqs_fast.capture.program import PRECISIONS, Node, Program

BYTES = {name: dtype.itemsize for name, dtype in PRECISIONS.items()}
MARKS = {"float32": "", "float64": "d", "bfloat16": "b", "float16": "h"}
LETTERS = {"arena": "a", "constant": "c", "state": "s", "input": "i"}
RUN_FIELDS = 4


def sizes(program: Program) -> dict[str, Any]:
    """Counts and bytes of a program, for one sample; constants are shared by all samples.

    `arena_bytes` is the most that is alive at once, `multiply_adds` those of linear, matmul, convolution and attention.
    """

    def total(kind: str) -> int:
        return sum(buffer.elements * BYTES[buffer.precision] for buffer in program.buffers if buffer.kind == kind)

    return {
        "nodes": len(program.nodes),
        "kinds": dict(sorted(Counter(node.kind for node in program.nodes).items())),
        "constant_bytes": total("constant") + sum(weight.nbytes for weight in program.packed),
        "state_bytes": total("state"),
        "input_bytes": total("input"),
        "arena_bytes": arena_bytes(program),
        "multiply_adds": sum(multiply_adds(program, node) for node in program.nodes),
    }


def arena_bytes(program: Program) -> int:
    """The most bytes of arena buffers between first write and last read of each."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, node in enumerate(program.nodes):
        for value in (*node.inputs, *node.outputs):
            if value >= 0:
                buffer = program.values[value].buffer
                first.setdefault(buffer, number)
                last[buffer] = number
    for value in (program.output, *(state.next for state in program.states if state.next >= 0)):
        last[program.values[value].buffer] = len(program.nodes)
    change = Counter[int]()
    for buffer, begin in first.items():
        if program.buffers[buffer].kind == "arena":
            size = program.buffers[buffer].elements * BYTES[program.buffers[buffer].precision]
            change[begin] += size
            change[last[buffer] + 1] -= size
    alive = most = 0
    for number in sorted(change):
        alive += change[number]
        most = max(most, alive)
    return most


def multiply_adds(program: Program, node: Node) -> int:
    """Of one node; 0 for kinds that are not products."""
    out = program.values[node.outputs[0]].sizes
    given = [program.values[value].sizes for value in node.inputs if value >= 0]
    if node.kind == "linear":
        return prod(out) * given[1][1]
    if node.kind in ("matmul", "packed_linear"):
        return prod(out) * given[0][-1]
    if node.kind == "convolution":
        return prod(out) * prod(given[1][1:])
    if node.kind == "attention":
        return prod(given[0][:-1]) * given[1][-2] * (given[0][-1] + given[2][-1])
    return 0


def describe(program: Program) -> str:
    """One line per node: number, kind, what it reads and writes, attributes, origin.

    Values are named by their buffer (s state, i input, c constant, a arena), with sizes, and with an offset and strides
    where they are not the whole of it.
    """
    lines = [f"{_state(program, number)}" for number in range(len(program.states))]
    lines += [f"input {_name(program, buffer)}[{program.buffers[buffer].elements}]" for buffer in program.inputs]
    for number, node in enumerate(program.nodes):
        reads = ", ".join("-" if value < 0 else value_text(program, value) for value in node.inputs)
        writes = ", ".join(value_text(program, value) for value in node.outputs)
        details = _details(program, node)
        lines.append(
            f"{number:4} {node.kind:<11} {writes} <- {reads}{'  ' + details if details else ''}  {node.origin}"
        )
    lines.append(f"output {value_text(program, program.output)}")
    return "\n".join(lines)


def _name(program: Program, buffer: int) -> str:
    kind = program.buffers[buffer].kind
    return f"{LETTERS[kind]}{MARKS[program.buffers[buffer].precision]}{buffer}"


def value_text(program: Program, index: int) -> str:
    """`a5[8x12]`; `a5+96[8x12:24,1]` for a part, `c5+96+12t[1x12]` for one that moves on with the steps."""
    value = program.values[index]
    shape = "x".join(str(size) for size in value.sizes)
    plain = all(
        stride == own
        for size, stride, own in zip(value.sizes, value.strides, contiguous(value.sizes), strict=True)
        if size > 1
    )
    strides = "" if plain else ":" + ",".join(str(stride) for stride in value.strides)
    offset = f"+{value.offset}" if value.offset else ""
    offset += f"+{value.step}t" if value.step else ""
    return f"{_name(program, value.buffer)}{offset}[{shape}{strides}]"


def _state(program: Program, number: int) -> str:
    state = program.states[number]
    name = _name(program, state.buffer)
    if state.next < 0:
        return f"state {name}[{program.buffers[state.buffer].elements}] keeps what nodes write into it"
    after = value_text(program, state.next)
    if state.slide:
        return f"state {name}[{state.outer}x{state.length}x{state.inner}] slides by {state.slide}, joined by {after}"
    return f"state {name}[{program.buffers[state.buffer].elements}] becomes {after}"


def _details(program: Program, node: Node) -> str:
    if node.kind == "elementwise":
        return expression(node, len(node.inputs))
    if node.kind == "packed_linear":
        weight = program.packed[node.ints["weight"][0]]
        rounded = " int8 activations" if node.ints.get("int8", (0,))[0] else ""
        return f"weight={node.ints['weight'][0]} int{weight.bits} group_size={weight.group_size}{rounded}"
    parts = []
    for name, values in (*node.ints.items(), *node.floats.items()):
        if node.kind == "reduce" and name == "kind":
            parts.append(REDUCTIONS[int(values[0])])
        elif name == "runs":
            parts.append(f"runs={len(values) // RUN_FIELDS}")
        elif len(values) == 1:
            parts.append(f"{name}={values[0]:g}")
        else:
            parts.append(f"{name}={','.join(f'{value:g}' for value in values)}")
    return " ".join(parts)


def expression(node: Node, inputs: int) -> str:
    """The chain of an elementwise node: `r3 = multiply(r0, r2); ...`, constants in place."""
    code: Sequence[int] = node.ints["code"]
    names = {register: f"r{register}" for register in range(inputs)}
    parts = []
    for number, place in enumerate(range(0, len(code), 5)):
        opcode, out, *arguments = code[place : place + 5]
        name = OPCODES[opcode]
        if name == "constant":
            names[out] = f"{node.floats['values'][number]:g}"
        else:
            names[out] = f"r{out}"
            parts.append(f"r{out} = {name}({', '.join(names[a] for a in arguments[: ARITY[name]])})")
    results = ", ".join(names[register] for register in node.ints["output_registers"])
    return "; ".join([*parts, f"-> {results}"])
