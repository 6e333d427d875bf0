"""Attention of bfloat16 and float16 on the emulated device: problems, the call, and what results may be off by."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import emulated
from emulated_program import Node, Operand
from tqs_fast.reference import ops as reference

Array = npt.NDArray[Any]
PRECISIONS = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}  # backend/operand.h
ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
FLOAT32 = 2.0**-24
Q, K, V, MASK = range(4)


@dataclass(frozen=True)
class Problem:
    """`moves`: which of q, k, v, mask have tangents; `missing`: pairs (operand, tangent) that are zero all the same;
    `mask_shared`: by which of samples (0), heads (1), queries (2) and keys (3) the mask is; its rows lie `mask_padding`
    elements apart."""

    queries: int
    keys: int
    depth: int
    width: int
    dtype: str = "bfloat16"
    tangents: int = 0
    moves: tuple[int, ...] = (Q, K, V)
    missing: tuple[tuple[int, int], ...] = ()
    heads: int = 1
    samples: int = 1
    causal: bool = False
    offset: int = 0
    masked: bool = False
    mask_shared: tuple[int, ...] = ()
    mask_padding: int = 0
    scale: float | None = None
    spread: float = 1.0  # of q

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """q, k, v, mask and out of one lane and sample."""
        rows = [(self.queries, self.depth), (self.keys, self.depth), (self.keys, self.width)]
        return [(self.heads, *shape) for shape in (*rows, (self.queries, self.keys), (self.queries, self.width))]


def rounded(values: Array, dtype: str) -> Array:
    return emulated.from_bits(emulated.to_bits(values, dtype), dtype).astype(np.float64)


@dataclass
class Data:
    """Per operand [1 + tangents, samples, heads, rows, columns], numbers of the dtype in float64, or None."""

    values: list[Array | None] = field(default_factory=list)


def draw(problem: Problem, seed: int = 0) -> Data:
    generator = np.random.default_rng(seed + problem.queries + 1000 * problem.keys)
    data = Data()
    for operand, shape in enumerate(problem.shapes[:4]):
        if operand == MASK and not problem.masked:
            data.values.append(None)
            continue
        sizes = (1 + problem.tangents, problem.samples, *shape)
        shared = [1 + axis for axis in problem.mask_shared] if operand == MASK else []
        values = generator.standard_normal([1 if axis in shared else size for axis, size in enumerate(sizes)])
        if operand == Q:
            values[0] *= problem.spread
        if operand == MASK:  # hidden keys, a row that sees none, and any tangent where nothing is seen
            values[0][generator.random(values[0].shape) < 0.2] = -np.inf
            if values.shape[3] > 1:
                values[0, :, :, -1] = -np.inf
            values[1:][np.broadcast_to(values[0] == -np.inf, values[1:].shape)] = np.inf
        values = np.broadcast_to(values, sizes).copy()
        for tangent in range(problem.tangents):
            if operand not in problem.moves or (operand, tangent) in problem.missing:
                values[1 + tangent] = 0.0
        data.values.append(rounded(values, problem.dtype))
    return data


def run(
    problem: Problem, data: Data, ensemble: int = 0, row_padding: int = 0, counted: tuple[int, ...] = ()
) -> tuple[Array, Array]:
    """out [samples, heads, S, E] and dout [tangents, ...]; with `ensemble` the lanes of `data` are lanes of their own
    and out has them all. Rows lie `row_padding` elements apart. `counted`: what the causal offset grows by per step,
    and the step that the device has counted to."""
    library = emulated.emulator().library
    library.emulated_node.restype = ctypes.c_char_p
    lanes = ensemble or 1 + problem.tangents
    keep: list[Any] = []

    def operand(i: int, values: Array | None) -> Operand:
        if values is None:
            return Operand(PRECISIONS[problem.dtype], 0)
        moves = bool(ensemble) or i in problem.moves
        zero = [1 + n for own, n in problem.missing if own == i]
        shared = problem.mask_shared if i == MASK else ()
        values = values[(slice(None), *(slice(1) if axis in shared else slice(None) for axis in range(4)))]
        pitch = values.shape[-1] + row_padding + (problem.mask_padding if i == MASK else 0)
        result = Operand(PRECISIONS[problem.dtype], 3)
        result.sizes[:3] = problem.shapes[i]
        steps = [math.prod(values.shape[axis + 2 : 4]) * pitch for axis in range(3)]
        steps = [0 if axis in shared else step for axis, step in enumerate(steps)]
        result.sample_stride, result.strides[:3] = steps[0], (*steps[1:], 0 if 3 in shared else 1)
        table = (ctypes.c_void_p * lanes)()
        for lane in range(lanes if moves else 1):
            if lane in zero:
                continue
            array = emulated.Guarded(library, (*values.shape[1:4], pitch), np.uint16)
            array.array[..., : values.shape[-1]] = emulated.to_bits(values[lane], problem.dtype)
            table[lane] = array.address
            keep.append(array)
        result.data = table[0]
        if moves:
            result.lanes = ctypes.addressof(table)
            keep.append(table)
        return result

    shapes = problem.shapes
    given = [operand(i, values) for i, values in enumerate(data.values)]
    pitch = shapes[4][-1] + row_padding
    memory = emulated.Guarded(library, (lanes, problem.samples, *shapes[4][:2], pitch), np.uint16)
    out = Operand(PRECISIONS[problem.dtype], 3)
    out.sizes[:3], out.strides[:3] = shapes[4], (shapes[4][1] * pitch, pitch, 1)
    out.sample_stride = shapes[4][0] * shapes[4][1] * pitch
    out.lane_stride, out.data = out.sample_stride * problem.samples, memory.address
    ints = np.asarray([problem.causal, problem.offset, *counted], np.int64)
    floats = np.asarray([scale_of(problem)], np.float64)
    inputs, outputs = (Operand * 4)(*given), (Operand * 1)(out)
    node = Node(
        b"attention", lanes, problem.samples, int(not ensemble), PRECISIONS[problem.dtype], 4, 1,
        ctypes.addressof(inputs), ctypes.addressof(outputs), ints.ctypes.data, ints.size, floats.ctypes.data, 0,
    )  # fmt: skip
    said = library.emulated_node(ctypes.byref(node))
    assert said is None, said.decode()
    bits = memory.array
    assert (bits[..., shapes[4][-1] :] == 0xFFFF).all(), "written between rows"
    results = emulated.from_bits(bits[..., : shapes[4][-1]].copy(), problem.dtype)
    return (results, results[:0]) if ensemble else (results[0], results[1:])


def scale_of(problem: Problem) -> float:
    return problem.depth**-0.5 if problem.scale is None else problem.scale


def check(problem: Problem, data: Data, out: Array, dout: Array) -> None:
    """Assert that results are as far from float64 as their roundings allow.

    Element bound. With h the roundoff of 16 bits and u that of float32: w and w ds are rounded before their product
    with v (h of every term); the rest is float32: A = scale |q||k| + |mask| is off by (D + 8) u A, twice in exp(s - m),
    6 u for exp; sums over T keys, cut and not rounded, by 2 T u and their totals by as much. So out is off by
    h sum p |v| + (2 (D + 8) A + 4 T + 32) u sum p |v|, and h |out| where it is stored. dout likewise with p |ds| |v| +
    p |dv| + p |ds| |out|, ds itself by (2 D + 16) u of its terms, the float32 part twice since out has its own.
    float16: below 2^-14 steps are 2^-24, half of one for every w and w ds, beside values up to max |v|; weights are
    relative to the largest, so the sum is at least 1.
    Aggregate bound: independent roundings, whose squares add; 4 for small samples.
    """
    q, k, v, mask = (None if x is None else x[0] for x in data.values)
    h, scale, keys = ROUNDOFF[problem.dtype], scale_of(problem), problem.keys
    identity = np.broadcast_to(np.eye(keys), (*q.shape[:-2], keys, keys))
    p = reference.attention(q, k, identity, mask, scale, problem.causal, problem.offset)
    sizes = abs(scale) * (np.abs(q) @ np.abs(k).swapaxes(-1, -2))
    if mask is not None:
        sizes = sizes + np.where(np.isinf(mask), 0, np.abs(mask))
    top = np.where(p > 0, sizes, 0).max(-1, keepdims=True, initial=0)
    worst = 2 * (problem.depth + 8) * top + 4 * keys + 32
    typical = 2 * np.sqrt(problem.depth + 8) * top + 2 * np.sqrt(4 * keys + 32)
    step = 2.0**-25 if problem.dtype == "float16" else 0.0
    exact, size = p @ v, p @ np.abs(v)
    compare(
        "out", out, exact, h * (size + np.abs(exact)) + worst * FLOAT32 * size + step * (keys * np.abs(v).max() + 1),
        h * (np.sqrt(p**2 @ v**2) + np.abs(exact)) + typical * FLOAT32 * size + step * (keys * np.abs(v).max() + 1),
    )  # fmt: skip
    for n in range(problem.tangents):
        dq, dk, dv, dmask = (None if x is None else x[1 + n] for x in data.values)
        ds = scale * (dq @ k.swapaxes(-1, -2) + q @ dk.swapaxes(-1, -2))
        ds_size = abs(scale) * (np.abs(dq) @ np.abs(k).swapaxes(-1, -2) + np.abs(q) @ np.abs(dk).swapaxes(-1, -2))
        if dmask is not None:
            seen = np.where(p > 0, dmask, 0)
            ds, ds_size = ds + seen, ds_size + np.abs(seen)
        moved = p * ds
        drift = moved.sum(-1, keepdims=True)
        exact_tangent = moved @ v - drift * exact + p @ dv
        halves = np.abs(moved) @ np.abs(v) + p @ np.abs(dv)
        floats = (p * ds_size) @ np.abs(v) + (p * ds_size).sum(-1, keepdims=True) * size + p @ np.abs(dv)
        roots = np.sqrt(moved**2 @ v**2 + p**2 @ dv**2)
        small = step * (2 * keys * max(np.abs(v).max(), np.abs(dv).max()) + 1)
        end = h * np.abs(exact_tangent)
        more = 2 * problem.depth + 16
        compare(
            f"tangent {n}", dout[n], exact_tangent, h * halves + end + 2 * (worst + more) * FLOAT32 * floats + small,
            h * roots + end + 2 * (typical + np.sqrt(more)) * FLOAT32 * floats + small,
        )  # fmt: skip


def compare(label: str, got: Array, expected: Array, bound: Array, typical: Array) -> None:
    error = np.abs(got - expected)
    within = error <= 1.01 * bound  # 1.01: products of roundings; False for NaN
    if not within.all():
        place = tuple(int(i) for i in np.argwhere(~within)[0])
        raise AssertionError(
            f"{label}: {(~within).sum()} of {error.size} out of bound; first at {place}: got {got[place]!r}, expected "
            f"{expected[place]!r}, bound {bound[place]:.3e}"
        )
    norm, allowed = np.linalg.norm(error), 4 * np.linalg.norm(typical)
    assert norm <= allowed, f"{label}: error norm {norm:.3e} above {allowed:.3e}"
