"""ONNX Runtime: one node per product, activations and outputs bound beforehand.

Threads of a session spin for a while after a run, so as to be there for the next one; by default for tens of
milliseconds, into the samples of whoever is next. SPIN is enough from call to call. Threads of several sessions would
spin against each other: the first copy has a session of its own, and all copies share another, as the layers of a model
would. A run of that one multiplies by all of them (`only_execute_path_to_fetches` is ignored by sessions on the CPU).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from qgemm.contestant import Bind, Bound, Call
from qgemm.weight import Weight, nibbles, turned

Array = npt.NDArray[Any]
SPIN = "1000"  # microseconds


def matmul_nbits(weight: Weight, copies: int, threads: int, accuracy: int) -> Bind:
    """`MatMulNBits`; accuracy level 4 rounds activations to int8 block by block, 0 leaves them."""
    bits, (rows, columns) = weight.packed.bits, weight.packed.shape
    block = weight.block()
    scales, zeros = weight.by_block(weight.scales), weight.by_block(weight.zeros)
    blocks = scales.shape[1]
    codes = np.pad(weight.codes, ((0, 0), (0, blocks * block - columns)))
    parts: dict[str, Array] = {"B": codes.reshape(rows, blocks, block), "S": scales}
    if not weight.packed.symmetric:
        parts["Z"] = zeros
    if bits == 4:
        parts["B"] = nibbles(parts["B"])
        if "Z" in parts:
            parts["Z"] = nibbles(np.pad(zeros, ((0, 0), (0, blocks % 2))))
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": accuracy}
    return _binding("MatMulNBits", parts, copies, threads, attributes)


def dynamic_quantize(weight: Weight, copies: int, threads: int) -> Bind:
    """`DynamicQuantizeMatMul`, which DynamicQuantizeLinear and MatMulIntegerToFloat are fused into."""
    parts: dict[str, Array] = {
        "B": weight.signed(),
        "S": weight.scales[:, 0],
        "Z": np.zeros(len(weight.codes), np.int8),
    }
    return _binding("DynamicQuantizeMatMul", parts, copies, threads, {})


def _binding(op: str, parts: dict[str, Array], copies: int, threads: int, attributes: dict[str, Any]) -> Bind:
    one = _session(op, parts, range(1), threads, attributes)
    many = _session(op, parts, range(copies), threads, attributes)
    width = len(parts["B"])

    def bind(x: torch.Tensor) -> Bound:
        given = x.numpy()
        y = np.empty((len(given), width), np.float32)
        hot = _call(one, given, y, 1)
        return Bound(
            hot=hot,
            cold=_call(many, given, y, copies),
            products=copies,
            outputs=lambda: [np.array(hot()), *many.run(None, {"x": given})[1:]],
        )

    return bind


def _call(session: onnxruntime.InferenceSession, x: Array, y: Array, copies: int) -> Call:
    """All copies write to the same output, as the other contestants' do: nodes run one after another."""
    memory = x, y  # which the binding points to and does not keep alive
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    for copy in range(copies):
        binding.bind_output(f"y{copy}", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def call() -> Array:
        session.run_with_iobinding(binding)
        return memory[1]

    return call


def _session(
    op: str, parts: dict[str, Array], copies: range, threads: int, attributes: dict[str, Any]
) -> onnxruntime.InferenceSession:
    width = len(parts["B"])
    nodes, weights = [], []
    for copy in copies:
        inputs = {name: f"{name}{copy}" for name in parts}
        nodes.append(helper.make_node(op, ["x", *inputs.values()], [f"y{copy}"], domain="com.microsoft", **attributes))
        for name, array in parts.items():
            here = turned(array, copy)
            if op == "DynamicQuantizeMatMul" and name == "B":
                here = np.ascontiguousarray(here.T)
            weights.append(numpy_helper.from_array(here, inputs[name]))
    kind = onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info("x", kind, ["M", "K"])]
    made = [helper.make_tensor_value_info(f"y{copy}", kind, ["M", width]) for copy in copies]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "products", given, made, weights), opset_imports=opsets)
    model.ir_version = 10  # the newest that this and some earlier versions read
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
