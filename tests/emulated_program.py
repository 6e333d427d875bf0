"""Cases of tests/cases/ops.py on the CUDA kernels of programs, emulated: operands and task built here as a tile of the
engine would, memory from the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

import emulated
from programs import Case, View

Array = npt.NDArray[Any]
RANK = 8
PRECISIONS = ("float32", "float64")


class Operand(ctypes.Structure):
    """backend/operand.h"""

    _fields_ = (
        *[(name, ctypes.c_int) for name in ("precision", "rank")],
        *[(name, ctypes.c_int64 * RANK) for name in ("sizes", "strides")],
        *[(name, ctypes.c_int64) for name in ("sample_stride", "lane_stride")],
        *[(name, ctypes.c_void_p) for name in ("data", "lanes")],
    )


class Node(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_char_p),
        *[(name, ctypes.c_int64) for name in ("lanes", "samples")],
        *[(name, ctypes.c_int) for name in ("tangent", "precision", "inputs", "outputs")],
        *[(name, ctypes.c_void_p) for name in ("in", "out", "ints")],
        ("int_count", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("floats", "output_registers")],
    )


def runs_here(case: Case) -> bool:
    """Whether the GPU has a kernel of its own for the node (other convolutions are products)."""
    if case.kind == "convolution":
        return len(case.ints["stride"]) == 1 and case.ints["groups"][0] == case.inputs[0].sizes[1] > 1
    return case.kind not in ("linear", "packed_linear", "matmul")


def numbers(case: Case) -> tuple[Sequence[int], Sequence[float]]:
    """ints and floats as nodes.cpp reads them."""
    ints = case.ints
    if case.kind == "elementwise":
        return ints["code"], case.floats["values"]
    if case.kind == "reduce":
        return (ints["kind"][0], sum(1 << axis for axis in ints["axes"])), ()
    if case.kind == "convolution":
        multiplier = case.inputs[1].sizes[0] // ints["groups"][0]
        return (multiplier, *(ints[name][0] for name in ("stride", "padding", "dilation"))), ()
    names = {
        "softmax": ("logarithm",), "normalize": ("axes", "center"), "scan": ("axis", "product"),
        "running_extreme": ("axis", "largest"), "top_k": ("count", "largest"), "remap": ("runs",),
        "gather": ("axis",), "attention": ("causal", "causal_offset", "counted"), "copy": (),
    }  # fmt: skip
    flat = [number for name in names[case.kind] for number in ints.get(name, ())]
    return flat, [number for values in case.floats.values() for number in values]


class Emulated:
    """A case; the calls of programs.Native."""

    def __init__(self, case: Case, precision: str) -> None:
        self.case, self.precision = case, precision
        self.library = emulated.emulator().library
        self.library.emulated_node.restype = ctypes.c_char_p

    def dtype(self, view: View) -> str:
        return view.precision or self.precision

    def kernel_precision(self) -> int:
        """That of the table the op takes its kernel from (csrc/program/ops)."""
        given = [PRECISIONS.index(self.dtype(x)) for x in self.case.inputs if x.source != "absent"]
        out = [PRECISIONS.index(self.dtype(y)) for y in self.case.outputs]
        if self.case.kind in ("elementwise", "softmax", "normalize"):
            return max(given + out)
        return given[0] if self.case.kind in ("reduce", "top_k") else out[0]

    def operand(self, view: View, data: Any, sample: int, lane: int, table: Any = None) -> Operand:
        """`data`: the emulator's array of lane 0; steps in elements."""
        result = Operand(PRECISIONS.index(self.dtype(view)), len(view.sizes))
        result.sizes[: len(view.sizes)] = view.sizes
        result.strides[: len(view.sizes)] = view.steps
        result.sample_stride, result.lane_stride = sample, lane
        result.data = data.address + view.offset * np.dtype(self.dtype(view)).itemsize
        if table is not None:
            result.lanes = ctypes.addressof(table)
        return result

    def given(self, index: int, lanes: Sequence[Array | None], samples: int, tangent: bool, keep: list[Any]) -> Operand:
        """Input `index`, of which lane k has the memory lanes[k] (None: as lane 0, or a tangent that is zero)."""
        view = self.case.inputs[index]
        if view.source == "absent":
            return Operand(PRECISIONS.index(self.precision), 0)
        guard = emulated.Guarded
        if view.source == "series" or (view.source == "constant" and all(x is None for x in lanes[1:])):
            keep.append(guard(self.library, lanes[0].shape, self.dtype(view)))
            keep[-1].array[...] = lanes[0]
            return self.operand(view, keep[-1], 0 if view.source == "constant" else view.elements, 0)
        if view.source == "state":
            keep.append(guard(self.library, (len(lanes), samples, view.elements), self.dtype(view)))
            for k, part in enumerate(lanes):
                keep[-1].array[k] = part if part is not None else (0 if tangent else lanes[0])
            return self.operand(view, keep[-1], view.elements, samples * view.elements)
        table = (ctypes.c_void_p * len(lanes))()
        parts = []
        for k, part in enumerate(lanes):
            if part is None and tangent:
                continue
            parts.append(guard(self.library, (view.elements,), self.dtype(view)))
            parts[-1].array[...] = lanes[0] if part is None else part
            table[k] = parts[-1].address + view.offset * np.dtype(self.dtype(view)).itemsize
        keep += [table, parts]
        return self.operand(view, parts[0], 0, 0, table)

    def run(self, inputs: Sequence[Sequence[Array | None]], tangent: bool, samples: int) -> list[Array]:
        """Per output [lanes, N, size]; inputs[i][k]: the memory of input i in lane k."""
        case, lanes = self.case, max(len(x) for x in inputs)
        keep: list[Any] = []
        given = [self.given(i, x, samples, tangent, keep) for i, x in enumerate(inputs)]
        if case.kind == "attention" and case.inputs[3].source != "absent":
            self.expand_mask(given[3])
        outs = [emulated.Guarded(self.library, (lanes, samples, y.elements), self.dtype(y)) for y in case.outputs]
        places = [
            self.operand(y, out, y.elements, samples * y.elements) for y, out in zip(case.outputs, outs, strict=True)
        ]
        ints, floats = numbers(case)
        arrays = [
            np.asarray(ints, np.int64), np.asarray(floats, np.float64),
            np.asarray(case.ints.get("output_registers", ()), np.int64),
        ]  # fmt: skip
        given_array, out_array = (Operand * len(given))(*given), (Operand * len(places))(*places)
        node = Node(
            case.kind.encode(), lanes, samples, int(tangent), self.kernel_precision(), len(given), len(places),
            ctypes.addressof(given_array), ctypes.addressof(out_array), arrays[0].ctypes.data, arrays[0].size,
            arrays[1].ctypes.data, arrays[2].ctypes.data,
        )  # fmt: skip
        said = self.library.emulated_node(ctypes.byref(node))
        assert said is None, said.decode()
        return [self.read(y, out.array) for y, out in zip(case.outputs, outs, strict=True)]

    def expand_mask(self, mask: Operand) -> None:
        """As [..., S, T] (csrc/program/ops/attention.cpp)."""
        sizes = (*self.case.outputs[0].sizes[:-1], self.case.inputs[1].sizes[-2])
        own = self.case.inputs[3]
        missing = len(sizes) - len(own.sizes)
        steps = [0] * missing + [0 if n == 1 else s for n, s in zip(own.sizes, own.steps, strict=True)]
        mask.rank = len(sizes)
        mask.sizes[: len(sizes)] = sizes
        mask.strides[: len(sizes)] = steps

    @staticmethod
    def read(view: View, memory: Array) -> Array:
        """The view's elements [lanes, N, size]; between them nothing was written."""
        item = memory.itemsize
        steps = [step * item for step in view.steps]
        part = np.lib.stride_tricks.as_strided(
            memory[..., view.offset :], (*memory.shape[:2], *view.sizes), (*memory.strides[:2], *steps)
        )
        result = part.reshape(*memory.shape[:2], prod(view.sizes)).copy()
        rest = memory.copy()
        np.lib.stride_tricks.as_strided(
            rest[..., view.offset :], (*memory.shape[:2], *view.sizes), (*memory.strides[:2], *steps)
        )[...] = np.nan
        assert np.isnan(rest).all(), "written outside of the output"
        return result

    def samples(self, values: Sequence[Array | None]) -> int:
        return next(
            len(v)
            for x, v in zip(self.case.inputs, values, strict=True)
            if x.source in ("state", "series") and v is not None
        )

    def ensemble(self, values: Sequence[Array | None], lanes: Sequence[Mapping[int, Array]] = ({},)) -> list[Array]:
        """Per output [lanes, N, size]; `lanes`: per lane, input -> other values."""
        inputs = [[v, *(lane.get(i) for lane in lanes[1:])] for i, v in enumerate(values)]
        return self.run(inputs, False, self.samples(values))

    def tangents(
        self, values: Sequence[Array | None], seeds: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array]]:
        """Per output [N, size], and [K, N, size]."""
        count = next(len(s) for s in seeds if s is not None)
        inputs = [[v, *([None] * count if s is None else s)] for v, s in zip(values, seeds, strict=True)]
        results = self.run(inputs, True, self.samples(values))
        return [y[0] for y in results], [y[1:] for y in results]
