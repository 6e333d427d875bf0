"""Plans on programs outside torch: weights swapped for what they are rounded to, and quantized ONNX files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from tqs_fast.allocation.plan import Plan
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.kernels import PackedWeight
from tqs_fast.onnx import OnnxModule
from tqs_fast.onnx.write import write_quantized
from tqs_fast.quantization.held import Swappable
from tqs_fast.rewriting.packed import PackedTensor

PACKED_ATTRIBUTE = "tqs_packed"  # where a swapped module keeps its packed weights, by parameter name
METADATA = "tqs_fast.plan"


def swap_packed(module: Swappable, packed: Mapping[str, PackedTensor], plan: Plan) -> nn.Module:
    """The same program with the dequantized values of `packed` in place of the float weights.

    Raises:
        ArgumentError: the plan rounds activations, which such a program does not.
    """
    if plan.activations:
        raise ArgumentError(
            f"[quantize] the plan rounds the activations of {next(iter(plan.activations))} to int8, which a program "
            "outside torch cannot; use a plan without activations"
        )
    swapped = module.with_weights({name: tensor.dequantized() for name, tensor in packed.items()})
    setattr(swapped, PACKED_ATTRIBUTE, dict(packed))
    return swapped


def save_onnx(module: OnnxModule, plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the quantized model; raises ArgumentError for a path that does not end in .onnx or cannot be written."""
    if not os.fspath(path).endswith(".onnx"):
        raise ArgumentError(
            f"[save] a quantized ONNX model is an ONNX file, expected a path that ends in .onnx, got {path}"
        )
    tensors: dict[str, PackedTensor] = getattr(module, PACKED_ATTRIBUTE, {})
    packed = {module.lifted[name].name: [_stored(b) for _, _, b in tensor.spans()] for name, tensor in tensors.items()}
    write_quantized(module.path, packed, {METADATA: json.dumps(plan.to_json())}, path)


def load_onnx(module: OnnxModule, path: str | os.PathLike[str]) -> tuple[OnnxModule, Plan]:
    """The quantized model of `path` as a drop-in for the float `module`, and its plan.

    Raises:
        FileFormatError: not an ONNX file, without a plan, or with other inputs and outputs than `module`.
    """
    small = OnnxModule(path, frozen=True)
    if METADATA not in small.metadata:
        raise FileFormatError(f"[load] {path} holds no plan of ours; write it with tqs_fast.save")
    for mine, theirs in ((small.inputs, module.inputs), (small.outputs, module.outputs)):
        if list(mine) != list(theirs):
            raise FileFormatError(
                f"[load] {path} has {', '.join(mine)} where {module.path.name} has {', '.join(theirs)}; give the float "
                "model that was quantized"
            )
    try:
        document = json.loads(small.metadata[METADATA])
    except json.JSONDecodeError as error:
        raise FileFormatError(f"[load] the plan in {path} is damaged ({error}); write the model again") from error
    return small, Plan.from_json(document, function="load")


def _stored(block: Any) -> PackedWeight:
    matrix = (block.shape[0], block.in_features)
    zeros = None if block.zeros is None else block.zeros.numpy()
    scales = block.scales.numpy().view(np.uint16)
    return PackedWeight(block.codes.numpy(), scales, zeros, block.bits, block.group_size, matrix)
