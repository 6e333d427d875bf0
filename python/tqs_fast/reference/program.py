"""Oracle of native programs: a step run node by node, for one sample.

Everything is computed in float64; numbers stand for booleans (0, 1) and integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.reference import ops
from tqs_fast.reference.elementwise import elementwise
from tqs_fast.reference.quantization import dequantize

Array = npt.NDArray[Any]


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
            return [ops.linear(*given)]
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
                x = ops.rounded_rows(x)
            return [ops.linear(x, matrix, given[1])]
        case "convolution":
            weight, bias = given[1:]
            return [ops.convolution(x, weight, bias, ints["stride"], ints["padding"], ints["dilation"], one["groups"])]
        case "matmul":
            return [ops.matmul(*given)]
        case "attention":
            k, v, mask = given[1:]
            return [ops.attention(x, k, v, mask, one["scale"], bool(one["causal"]), one["causal_offset"])]
        case "reduce":
            return [ops.reduce(x, tuple(ops.REDUCTIONS)[one["kind"]], ints["axes"])]
        case "softmax":
            return [ops.softmax(x, bool(one["logarithm"]))]
        case "normalize":
            return [ops.normalize(x, one["axes"], one["epsilon"], bool(one["center"]))]
        case "scan":
            return [ops.scan(x, one["axis"], bool(one["product"]))]
        case "running_extreme":
            return ops.running_extreme(x, one["axis"], bool(one["largest"]))
        case "top_k":
            return ops.top_k(x, one["count"], bool(one["largest"]))
        case "copy":
            return [x]
        case "remap":
            value = program.values[node.inputs[0]]
            flat = memory[value.buffer][value.offset :].astype(np.float64)
            return [ops.remap(flat, prod(out), ints["runs"], one["fill"]).reshape(out)]
        case "gather":
            return [ops.gather(x, given[1], one["axis"])]
    raise ValueError(f"no op is called {node.kind!r}")
