"""OpenVINO: a MatMul by a weight that is decompressed on the fly, as its weight compression writes it.

Activations are quantized at run time in groups of DYNAMIC_QUANTIZATION_GROUP_SIZE, if the weight's groups are multiples
of it; else silently not at all. Calls go through `infer` with tensors that are set beforehand and share memory, which
is no slower than `start_async` and `wait`. The first copy has a model of its own, and another multiplies by them all:
taking turns with a model per copy costs up to twice as much per product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import opset13 as ops

from qgemm.contestant import Bind, Bound, Call, UnsupportedError
from qgemm.weight import Weight, nibbles, turned

Array = npt.NDArray[Any]


def matmul(weight: Weight, copies: int, threads: int, quantize: bool) -> Bind:
    """u4 with zero points, or i8; `quantize`: activations too."""
    columns = weight.codes.shape[1]
    if not weight.per_channel and columns % weight.packed.group_size:
        raise UnsupportedError("K must be a multiple of the group size")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": weight.block() if quantize else 0,
    }
    one, many = (_compile(weight, range(count), settings) for count in (1, copies))

    def bind(x: torch.Tensor) -> Bound:
        y = np.empty((len(x), len(weight.codes)), np.float32)
        hot = one.call(x.numpy(), y)
        return Bound(
            hot=hot,
            cold=many.call(x.numpy(), y),
            products=copies,
            outputs=lambda: [np.array(hot()), *many.products(x.numpy())[1:]],
        )

    return bind


@dataclass(frozen=True, eq=False)
class Model:
    """One product per output. `constants` is the memory that the model points to and does not keep alive."""

    compiled: openvino.CompiledModel
    constants: list[Array]

    def call(self, x: Array, y: Array) -> Call:
        """All products into the same output, one after another, as the other contestants'."""
        request = self.compiled.create_infer_request()
        request.set_input_tensor(0, openvino.Tensor(x, shared_memory=True))
        for output in range(len(self.compiled.outputs)):
            request.set_output_tensor(output, openvino.Tensor(y, shared_memory=True))
        memory = x, y, self.constants

        def call() -> Array:
            request.infer({}, share_inputs=True, share_outputs=True)
            return memory[1]

        return call

    def products(self, x: Array) -> list[Array]:
        found = self.compiled(x)
        return [found[output] for output in self.compiled.outputs]


def _compile(weight: Weight, copies: range, settings: dict[str, Any]) -> Model:
    constants: list[Array] = []
    x = ops.parameter([-1, weight.codes.shape[1]], openvino.Type.f32, name="x")
    products = [ops.matmul(x, _decompressed(weight, copy, constants), False, True) for copy in copies]
    model = openvino.Model(products, [x], "products")
    return Model(openvino.Core().compile_model(model, "CPU", settings), constants)


def _decompressed(weight: Weight, rows: int, kept: list[Array]) -> openvino.Node:
    """Scales are float16, as compressed models have them, where that holds bfloat16's values."""
    symmetric, bits = weight.packed.symmetric, weight.packed.bits
    scales, zeros = turned(weight.scales, rows), turned(weight.zeros, rows)
    if bits == 8 and symmetric:
        codes, kind = turned(weight.signed(), rows), openvino.Type.i8
    else:
        codes, kind = turned(weight.codes, rows), openvino.Type.u4 if bits == 4 else openvino.Type.u8
    shape = list(codes.shape)
    if not weight.per_channel:
        shape = [len(codes), scales.shape[1], weight.packed.group_size]
        scales, zeros = scales[..., None], zeros[..., None]
    if bits == 4:
        flat = codes.reshape(-1)
        codes = nibbles(np.pad(flat, (0, flat.size % 2)))
    precision = np.float16 if np.array_equal(scales.astype(np.float16), scales) else np.float32
    w = ops.convert(_constant(codes, shape, kind, kept), precision)
    if bits == 4 or not symmetric:
        zeros = np.full([1] * len(shape), 8, np.uint8) if symmetric else zeros
        w = ops.subtract(w, ops.convert(_constant(zeros, list(zeros.shape), openvino.Type.u8, kept), precision))
    w = ops.multiply(w, ops.constant(scales.astype(precision)))
    if not weight.per_channel:
        w = ops.reshape(w, ops.constant(np.array(weight.packed.shape, np.int64)), False)
    return w if precision is np.float32 else ops.convert(w, np.float32)


def _constant(array: Array, shape: list[int], kind: openvino.Type, kept: list[Array]) -> openvino.Node:
    kept.append(np.ascontiguousarray(array))
    return openvino.op.Constant(openvino.Tensor(kept[-1], openvino.Shape(shape), kind))
