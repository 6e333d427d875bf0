"""Programs of one node, run natively and by the NumPy oracle (tqs_fast.reference.program).

An input of the node is a leaf of the state (so that it has tangents), a leaf of the input series (the same in all
lanes: no tangent) or a constant. Every output is a leaf of the next state, which is where its values and tangents are
read after one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.capture.program import PRECISIONS, Buffer, Constant, NextState, Node, PackedConstant, Program, Value
from tqs_fast.engines.native_call import Place
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.reference.program import run_program
from tqs_fast.reference.quantization import pack_codes, to_bfloat16

Array = npt.NDArray[Any]
DTYPES = PRECISIONS

# Values a generator gives `count` of. All are float32 numbers: the same inputs serve both precisions.
DRAWS = {
    "normal": lambda g, count: g.normal(size=count),
    "positive": lambda g, count: g.uniform(0.7, 2.5, count),
    "wide": lambda g, count: g.normal(size=count) * 4,
    "unit": lambda g, count: g.uniform(-0.9, 0.9, count),
    "between": lambda g, count: g.integers(-3, 4, count) + g.uniform(0.2, 0.4, count) * g.choice([-1, 1], count),
    "apart": lambda g, count: (g.permutation(count) - count // 2) * 0.125 + 0.0625,  # no two alike, none 0
    "aside": lambda g, count: (g.permutation(count) - count // 2) * 0.125 + 0.03125,  # and none like one of those
    "boolean": lambda g, count: g.integers(0, 2, count),
    "integer": lambda g, count: g.integers(-2, 3, count),
    "one": lambda g, count: np.ones(count),
    "mask": lambda g, count: np.where(g.uniform(size=count) < 0.3, -np.inf, 0.0),
    **{f"index{n}": lambda g, count, n=n: g.integers(0, n, count) for n in (1, 5, 7)},
}


def contiguous(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


@dataclass(frozen=True)
class View:
    """An input or output of the node: a view of a buffer of its own.

    Attributes:
        strides: None for contiguous.
        source: of an input: "state", "series", "constant" or "absent".
        draw: how an input's values are drawn.
        precision: None for that of the test.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    offset: int = 0
    source: str = "state"
    draw: str = "normal"
    precision: str | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        return contiguous(self.sizes) if self.strides is None else self.strides

    @property
    def elements(self) -> int:
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.sizes, self.steps, strict=True))


@dataclass(frozen=True)
class Packed:
    """The format of a packed weight [rows, columns]; its codes, scales and zero points are drawn."""

    rows: int
    columns: int
    bits: int = 4
    group_size: int = 32
    symmetric: bool = True

    def constant(self, generator: np.random.Generator) -> PackedConstant:
        groups = -(-self.columns // self.group_size) if self.group_size else 1
        codes = generator.integers(0, 2**self.bits, (self.rows, self.columns))
        scales = generator.uniform(0.5, 1, (self.rows, groups)) * generator.choice([-1, 1], (self.rows, groups))
        zeros = None if self.symmetric else generator.integers(0, 2**self.bits, (self.rows, groups)).astype(np.uint8)
        return PackedConstant(
            torch.from_numpy(pack_codes(codes, self.bits)),
            torch.from_numpy(to_bfloat16(scales / 2 ** (self.bits - 1)).view(np.int16)),
            None if zeros is None else torch.from_numpy(zeros),
            self.bits,
            self.group_size,
            (self.rows, self.columns),
        )


@dataclass(frozen=True)
class Case:
    """A row of tests/cases/ops.py.

    Attributes:
        packed: the program's only packed weight.
        roundings: bound of the error of results and tangents in roundings of their size (`close` in test_program_ops).
    """

    name: str
    kind: str
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    ints: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    floats: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    roundings: float = 32.0
    packed: Packed | None = None

    def __str__(self) -> str:
        return self.name

    __hash__ = object.__hash__

    def seeded(self) -> list[int]:
        """Inputs that tangents come from."""
        return [i for i, x in enumerate(self.inputs) if x.source in ("state", "constant")]

    def states(self) -> list[int]:
        return [i for i, x in enumerate(self.inputs) if x.source == "state"]


def build(case: Case, precision: str, values: Sequence[Array | None]) -> Program:
    """The program; `values[i]` is the flat memory of input i if that is a constant."""
    buffers: list[Buffer] = []
    views: list[Value] = []

    def add(kind: str, view: View) -> int:
        buffers.append(Buffer(kind, view.precision or precision, view.elements))
        views.append(Value(len(buffers) - 1, view.offset, view.sizes, view.steps))
        return len(views) - 1

    def whole(view: View, kind: str) -> View:
        return replace(view, sizes=(view.elements,), strides=(1,), offset=0)

    kinds = {"state": "state", "series": "input", "constant": "constant"}
    inputs = [-1 if x.source == "absent" else add(kinds[x.source], x) for x in case.inputs]
    outputs = [add("arena", y) for y in case.outputs]
    node = Node(case.kind, tuple(inputs), tuple(outputs), case.ints, case.floats, case.name)
    constants, states, nodes = [], [], [node]
    for i in case.states():
        flat = whole(case.inputs[i], "state")
        views.append(Value(views[inputs[i]].buffer, 0, flat.sizes, (1,)))
        kept = add("arena", flat)
        nodes.append(Node("copy", (len(views) - 2,), (kept,)))
        states.append(NextState(views[inputs[i]].buffer, kept))
    for y, index in zip(case.outputs, outputs, strict=True):
        buffers.append(Buffer("state", y.precision or precision, prod(y.sizes)))
        states.append(NextState(len(buffers) - 1, index))
    for i, x in enumerate(case.inputs):
        if x.source == "constant":
            tensor = torch.from_numpy(np.asarray(values[i])).to(DTYPES[x.precision or precision])
            constants.append(Constant(views[inputs[i]].buffer, tensor, (), lambda _, tensor=tensor: tensor))
    series = tuple(views[inputs[i]].buffer for i, x in enumerate(case.inputs) if x.source == "series")
    first = views[outputs[0]]
    views.append(Value(first.buffer, 0, (1, case.outputs[0].elements), (case.outputs[0].elements, 1)))
    packed = () if case.packed is None else (case.packed.constant(generator_of(case)),)
    return Program(
        tuple(buffers),
        tuple(views),
        tuple(nodes),
        tuple(constants),
        tuple(states),
        series,
        len(views) - 1,
        packed=packed,
    )


def generator_of(case: Case) -> np.random.Generator:
    return np.random.default_rng(sum(map(ord, case.name)))


@dataclass(frozen=True, eq=False)
class Data:
    """Memory of the inputs, of samples, and directions.

    Attributes:
        values: per input `[N, elements]` (a constant: `[elements]`, absent: None).
        seeds: per input `[K, N, elements]` (a constant: `[K, elements]`), None where it has no tangent; of 12 bits, so
            that small multiples of them add up exactly.
        outputs: per output `[N, size]`, of the oracle in float64.
        tangents: per output `[K, N, size]`, by central differences of the oracle.
    """

    values: list[Array | None]
    seeds: list[Array | None]
    outputs: list[Array]
    tangents: list[Array]


# Central differences in float64, of two steps so that the error of second order cancels: left are STEP^4 / 480 times a
# fifth derivative and about 3 * 2^-53 / STEP of the value.
STEP = 2.0**-11


@cache
def draw(case: Case, samples: int, tangents: int) -> Data:
    generator = generator_of(case)
    values: list[Array | None] = []
    seeds: list[Array | None] = []
    for x in case.inputs:
        shape = (x.elements,) if x.source == "constant" else (samples, x.elements)
        if x.source == "absent":
            values.append(None)
        else:
            flat = [DRAWS[x.draw](generator, x.elements) for _ in range(prod(shape) // x.elements)]
            values.append(np.asarray(flat, np.float32).astype(np.float64).reshape(shape))
        directions = generator.integers(-4095, 4096, (tangents, *shape)) / 4096
        seeds.append(directions if x.source in ("state", "constant") else None)
    outputs = evaluate(case, values)
    moved = [difference(case, values, [s if s is None else s[k] for s in seeds]) for k in range(tangents)]
    return Data(values, seeds, outputs, [np.stack(parts) for parts in zip(*moved, strict=True)])


def difference(case: Case, values: Sequence[Array | None], direction: Sequence[Array | None]) -> list[Array]:
    """The derivative of the outputs along `direction`."""

    def moved(by: float) -> list[Array]:
        return evaluate(case, [v if d is None else v + by * d for v, d in zip(values, direction, strict=True)])

    def central(step: float) -> list[Array]:
        return [(up - down) / (2 * step) for up, down in zip(moved(step), moved(-step), strict=True)]

    return [(4 * fine - coarse) / 3 for fine, coarse in zip(central(STEP / 2), central(STEP), strict=True)]


def evaluate(case: Case, values: Sequence[Array | None]) -> list[Array]:
    """The oracle, everything in float64: per output `[N, size]`."""
    wide = replace(
        case,
        inputs=tuple(replace(x, precision=None) for x in case.inputs),
        outputs=tuple(replace(y, precision=None) for y in case.outputs),
    )
    program = build(wide, "float64", values)
    of = {source: [v for x, v in zip(case.inputs, values, strict=True) if x.source == source] for source in SOURCES}
    samples = next((len(v) for v in of["state"] + of["series"]), 1)
    rows = []
    for n in range(samples):
        leaves = [v[n] for v in of["state"]] + [np.zeros(prod(y.sizes)) for y in case.outputs]
        states, _ = run_program(program, leaves, [v[n] for v in of["series"]])
        rows.append(states[len(of["state"]) :])
    return [np.stack(parts) for parts in zip(*rows, strict=True)]


SOURCES = ("state", "series")


def array(tensor: torch.Tensor) -> Array:
    """In NumPy, which has no bfloat16: 16 bits in float64."""
    return (tensor.double() if tensor.dtype.itemsize == 2 else tensor).numpy()


class Native:
    """A case on the instruction set in use, or on a GPU."""

    def __init__(self, case: Case, precision: str, values: Sequence[Array | None], place: Place | None = None) -> None:
        self.case, self.precision = case, precision
        self.program = NativeProgram(build(case, precision, values), place=place)

    def dtype(self, view: View) -> torch.dtype:
        return DTYPES[view.precision or self.precision]

    def leaves(self, values: Sequence[Array | None]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """States and input series of the samples of `values`."""
        tensors = [
            None if v is None else torch.from_numpy(v).to(self.dtype(x))
            for x, v in zip(self.case.inputs, values, strict=True)
        ]
        states = [tensors[i] for i in self.case.states()]
        series = [t[:, None] for x, t in zip(self.case.inputs, tensors, strict=True) if x.source == "series"]
        samples = len((states + series)[0])
        states += [torch.zeros(samples, prod(y.sizes), dtype=self.dtype(y)) for y in self.case.outputs]
        return states, series

    def constants(self) -> dict[int, int]:
        """Input -> buffer."""
        names = [i for i, x in enumerate(self.case.inputs) if x.source == "constant"]
        return dict(zip(names, [c.buffer for c in self.program.program.constants], strict=True))

    def ensemble(self, values: Sequence[Array | None], lanes: Sequence[Mapping[int, Array]] = ({},)) -> list[Array]:
        """Per output `[lanes, N, size]`; `lanes`: per lane, input -> other values of a constant."""
        states, series = self.leaves(values)
        buffers = self.constants()
        variants = [{buffers[i]: torch.from_numpy(v) for i, v in lane.items()} for lane in lanes]
        _, final = self.program.ensemble(states, series, steps=1, values=1, lanes=variants)
        return [array(leaf) for leaf in final[len(self.case.states()) :]]

    def tangents(
        self, values: Sequence[Array | None], seeds: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array]]:
        """Per output `[N, size]`, and `[K, N, size]`."""
        states, series = self.leaves(values)
        count = next(len(s) for s in seeds if s is not None)
        directions = [None if seeds[i] is None else torch.from_numpy(seeds[i]) for i in self.case.states()]
        directions += [None] * len(self.case.outputs)
        weights = [
            {buffer: torch.from_numpy(seeds[i][k]) for i, buffer in self.constants().items() if seeds[i] is not None}
            for k in range(count)
        ]
        result = self.program.tangents(states, series, steps=1, values=1, seeds=directions, weight_seeds=weights)
        skip = len(self.case.states())
        return [array(x) for x in result.states[skip:]], [array(x) for x in result.state_tangents[skip:]]
