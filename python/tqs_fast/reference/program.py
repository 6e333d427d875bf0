"""Oracle of native programs: one plain function per kind of node, and a step run node by node, for one sample.

Everything is computed in float64; numbers stand for booleans (0, 1) and integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special  # type: ignore[import-untyped]

from tqs_fast.reference.quantization import dequantize, quantize_rows

Array = npt.NDArray[Any]

_erf = scipy.special.erf


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


# In the order of enum Opcode (csrc/backend/program_kernels.h), after `constant`.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "negate": np.negative,
    "absolute": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "square_root": np.sqrt,
    "reciprocal_square_root": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "error_function": _erf,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _softplus,
    "relu": lambda x: np.maximum(x, 0),
    "logical_not": lambda x: x == 0,
    "is_nan": np.isnan,
    "is_finite": np.isfinite,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "remainder": np.mod,
    "floor_divide": np.floor_divide,
    "atan2": np.arctan2,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "where": lambda a, b, c: np.where(a != 0, b, c),
}
OPCODES = ("constant", *FUNCTIONS)
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "maximum": np.max,
    "minimum": np.min,
    "product": np.prod,
    "any": np.any,
    "all": np.all,
    "argmax": np.argmax,
    "argmin": np.argmin,
}


def elementwise(
    inputs: Sequence[Array], code: Sequence[int], values: Sequence[float], output_registers: Sequence[int]
) -> list[Array]:
    """Registers 0 ... are the inputs, of equal sizes; each instruction (opcode, out, a, b, c) writes another."""
    registers = dict(enumerate(inputs))
    sizes = inputs[0].shape if inputs else ()
    for number, (opcode, out, *arguments) in enumerate(np.reshape(code, (-1, 5)).tolist()):
        name = OPCODES[opcode]
        if name == "constant":
            registers[out] = np.full(sizes, values[number])
        else:
            function = FUNCTIONS[name]
            arity = 3 if name == "where" else 1 if opcode <= OPCODES.index("is_finite") else 2
            registers[out] = np.asarray(function(*(registers[a] for a in arguments[:arity])), np.float64)
    return [registers[number] for number in output_registers]


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x [..., K], weight [N, K], bias [N] -> [..., N]."""
    y = x @ weight.T
    return y if bias is None else y + bias


def rounded_rows(x: Array) -> Array:
    """x [..., K] as int8 activations hold it; a row with NaN or infinity is NaN."""
    rows = x.reshape(-1, x.shape[-1])
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    codes, scales = quantize_rows(np.where(finite, rows, 0.0))
    return np.where(finite, codes * scales[:, None], np.nan).reshape(x.shape)


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """x [1, C, spatial], weight [O, C / groups, taps] -> [1, O, spatial'], one or two spatial axes, zero padding."""
    spatial = x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    taps = weight.shape[2:]
    extents = [(t - 1) * d + 1 for t, d in zip(taps, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, extents, tuple(range(2, 2 + spatial)))
    pick = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    )
    windows = windows[pick]  # [1, C, spatial', taps]
    per_group = x.shape[1] // groups
    filters = weight.shape[0] // groups
    parts = []
    for group in range(groups):
        seen = windows[:, group * per_group : (group + 1) * per_group]
        own = weight[group * filters : (group + 1) * filters]
        over = [1, *range(2 + spatial, 2 + 2 * spatial)]
        parts.append(np.moveaxis(np.tensordot(seen, own, (over, range(1, 2 + spatial))), -1, 1))
    y = np.concatenate(parts, axis=1)
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


def matmul(a: Array, b: Array) -> Array:
    """[..., M, K] and [..., K, N] of equal leading sizes."""
    return a @ b


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, scale: float, causal: bool, causal_offset: int
) -> Array:
    """softmax(scale q k^T + mask) v; causal: query s sees keys t <= s + causal_offset; a row that sees none is 0."""
    scores = scale * (q @ np.swapaxes(k, -1, -2))
    if mask is not None:
        scores = scores + mask
    if causal:
        queries, keys = scores.shape[-2:]
        hidden = np.arange(keys)[None] > np.arange(queries)[:, None] + causal_offset
        scores = np.where(hidden, -np.inf, scores)
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return (powers / np.where(total == 0, 1, total)) @ v


def reduce(x: Array, kind: str, axes: Sequence[int]) -> Array:
    """Reduced axes keep size 1; positions (argmax, argmin) are along one axis; ties go to the first."""
    over = axes[0] if kind.startswith("arg") else tuple(axes)
    return np.asarray(REDUCTIONS[kind](x, axis=over, keepdims=True), np.float64)


def softmax(x: Array, logarithm: bool) -> Array:
    """Over the last axis."""
    shifted = x - x.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(total) if logarithm else np.exp(shifted) / total)


def normalize(x: Array, axes: int, epsilon: float, center: bool) -> Array:
    """Over the last `axes` axes: zero mean where `center`, and unit mean square of the rest."""
    over = tuple(range(x.ndim - axes, x.ndim))
    if center:
        x = x - x.mean(axis=over, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(axis=over, keepdims=True) + epsilon))


def scan(x: Array, axis: int, product: bool) -> Array:
    """Running sum or product."""
    return np.cumprod(x, axis=axis) if product else np.cumsum(x, axis=axis)


def running_extreme(x: Array, axis: int, largest: bool) -> tuple[Array, Array]:
    """Running maximum or minimum and its positions; ties: the later. NaN replaces every number and earlier NaNs."""
    rows = np.moveaxis(x, axis, 0)
    values, positions = rows.copy(), np.zeros(rows.shape)
    for i in range(1, len(rows)):
        taken = np.isnan(rows[i]) | (rows[i] >= values[i - 1] if largest else rows[i] <= values[i - 1])
        values[i] = np.where(taken, rows[i], values[i - 1])
        positions[i] = np.where(taken, i, positions[i - 1])
    return np.moveaxis(values, 0, axis), np.moveaxis(positions, 0, axis)


def top_k(x: Array, count: int, largest: bool) -> tuple[Array, Array]:
    """The largest or smallest of the last axis, in order, and their positions; ties: the lower position first."""
    order = np.argsort(-x if largest else x, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(x, order, axis=-1), order.astype(np.float64)


def remap(memory: Array, elements: int, runs: Sequence[int], fill: float) -> Array:
    """Runs (to, from, count, step) into a flat result from `memory`, which starts at the input's first element."""
    out = np.full(elements, np.nan)
    for to, source, count, step in np.reshape(runs, (-1, 4)).tolist():
        out[to : to + count] = fill if source < 0 else memory[source + step * np.arange(count)]
    return out


def gather(x: Array, index: Array, axis: int) -> Array:
    """torch.gather; NaN where the index is out of range."""
    inside = (index >= 0) & (index < x.shape[axis])
    positions = np.where(inside, index, 0).astype(np.int64)
    seen = tuple(slice(0, n) if a != axis else slice(None) for a, n in enumerate(index.shape))
    return np.where(inside, np.take_along_axis(x[seen], positions, axis=axis), np.nan)


def run_program(
    program: Any, state_leaves: Sequence[npt.ArrayLike], input_leaves: Sequence[npt.ArrayLike] = ()
) -> tuple[list[npt.NDArray[Any]], npt.NDArray[Any]]:
    """One step of one sample.

    Results are rounded to the precision of the buffer they are stored in, as an engine does.

    Args:
        program: anything with the fields of `tqs_fast.capture.Program`.
        state_leaves, input_leaves: arrays of one sample, with or without the batch of one.

    Returns:
        The next state leaves, of the shapes given, and the output.
    """
    memory = _load(program, state_leaves, input_leaves)
    with np.errstate(all="ignore"):
        for node in program.nodes:
            for value, result in zip(node.outputs, _run_node(program, memory, node), strict=True):
                _view(program, memory, value)[...] = result
    states = [_next_state(program, memory, state) for state in program.states]
    shaped = [new.reshape(np.shape(old)) for new, old in zip(states, state_leaves, strict=True)]
    return shaped, _view(program, memory, program.output).copy()


def _load(
    program: Any, state_leaves: Sequence[npt.ArrayLike], input_leaves: Sequence[npt.ArrayLike]
) -> list[npt.NDArray[Any]]:
    """Flat memory of every buffer; NaN where nothing has been written."""
    memory = [np.full(buffer.elements, np.nan, buffer.precision) for buffer in program.buffers]
    for constant in program.constants:
        memory[constant.buffer][:] = np.asarray(constant.tensor.detach().cpu()).reshape(-1)
    for state, leaf in zip(program.states, state_leaves, strict=True):
        values = np.asarray(leaf)
        if state.slide:
            rows = memory[state.buffer].reshape(state.outer, state.pitch, state.inner)
            rows[:, : state.length] = values.reshape(state.outer, state.length, state.inner)
        else:
            memory[state.buffer][:] = values.reshape(-1)
    for buffer, leaf in zip(program.inputs, input_leaves, strict=True):
        memory[buffer][:] = np.asarray(leaf).reshape(-1)
    return memory


def _view(program: Any, memory: Sequence[npt.NDArray[Any]], index: int) -> npt.NDArray[Any]:
    value = program.values[index]
    flat = memory[value.buffer]
    last = value.offset + sum((size - 1) * stride for size, stride in zip(value.sizes, value.strides, strict=True))
    assert 0 <= value.offset <= last < len(flat), f"value {index} leaves its buffer"
    strides = [stride * flat.itemsize for stride in value.strides]
    return np.lib.stride_tricks.as_strided(flat[value.offset :], value.sizes, strides)


def _next_state(program: Any, memory: Sequence[npt.NDArray[Any]], state: Any) -> npt.NDArray[Any]:
    joining = _view(program, memory, state.next)
    if not state.slide:
        return joining.reshape(-1).astype(memory[state.buffer].dtype)
    rows = memory[state.buffer].reshape(state.outer, state.pitch, state.inner)[:, : state.length]
    return np.concatenate([rows[:, state.slide :], joining], axis=1).astype(rows.dtype)


def _run_node(program: Any, memory: Sequence[npt.NDArray[Any]], node: Any) -> Sequence[Array]:
    given: list[Any] = [
        None if index < 0 else _view(program, memory, index).astype(np.float64) for index in node.inputs
    ]
    ints: Mapping[str, Any] = node.ints
    floats: Mapping[str, Any] = node.floats
    one = {name: values[0] for name, values in (*ints.items(), *floats.items()) if len(values) == 1}
    out = program.values[node.outputs[0]].sizes
    x: Any = given[0] if given else None
    match node.kind:
        case "elementwise":
            return elementwise(given, ints["code"], floats["values"], ints["output_registers"])
        case "linear":
            return [linear(*given)]
        case "packed_linear":
            packed = program.packed[one["weight"]]
            codes, scales, zeros = (
                None if part is None else np.asarray(part.cpu()) for part in (packed.codes, packed.scales, packed.zeros)
            )
            assert codes is not None
            assert scales is not None
            columns = packed.shape[1]
            matrix = dequantize(codes, scales.view(np.uint16), zeros, packed.bits, packed.group_size, columns)
            if one.get("int8"):
                x = rounded_rows(x)
            return [linear(x, matrix, given[1])]
        case "convolution":
            weight, bias = given[1:]
            return [convolution(x, weight, bias, ints["stride"], ints["padding"], ints["dilation"], one["groups"])]
        case "matmul":
            return [matmul(*given)]
        case "attention":
            k, v, mask = given[1:]
            return [attention(x, k, v, mask, one["scale"], bool(one["causal"]), one["causal_offset"])]
        case "reduce":
            return [reduce(x, tuple(REDUCTIONS)[one["kind"]], ints["axes"])]
        case "softmax":
            return [softmax(x, bool(one["logarithm"]))]
        case "normalize":
            return [normalize(x, one["axes"], one["epsilon"], bool(one["center"]))]
        case "scan":
            return [scan(x, one["axis"], bool(one["product"]))]
        case "running_extreme":
            return running_extreme(x, one["axis"], bool(one["largest"]))
        case "top_k":
            return top_k(x, one["count"], bool(one["largest"]))
        case "copy":
            return [x]
        case "remap":
            value = program.values[node.inputs[0]]
            flat = memory[value.buffer][value.offset :].astype(np.float64)
            return [remap(flat, prod(out), ints["runs"], one["fill"]).reshape(out)]
        case "gather":
            return [gather(x, given[1], one["axis"])]
    raise ValueError(f"no op is called {node.kind!r}")
