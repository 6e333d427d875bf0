"""The contestants by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from qgemm.contestant import Bind


@dataclass(frozen=True)
class Way:
    """A contestant.

    Attributes:
        file, function: of bench/qgemm, with `further` arguments; imported when it is needed.
        activations: "int8", "float32" or "bfloat16".
        bits: weights it takes.
        packages: it is skipped where one of them is missing.
        bytes: per weight; None for those of the packed form.
    """

    file: str
    function: str
    activations: str
    bits: tuple[int, ...] = (4, 8)
    further: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    bytes: int | None = None

    @property
    def family(self) -> str:
        return "int8" if self.activations == "int8" else "float"


def _ours(activations: str) -> Way:
    quantized = activations == "int8"
    dtype = torch.bfloat16 if activations == "bfloat16" else torch.float32
    return Way(
        "ours", "multiply", activations, further={"activation": "int8" if quantized else "float", "dtype": dtype}
    )


ORT = ("onnx", "onnxruntime")

# ONNX Runtime has no 8-bit MatMulNBits for float activations: it writes the dequantized weight out in every call.
WAYS: dict[str, Way] = {
    "tqs-fast int8": _ours("int8"),
    "ORT MatMulNBits int8": Way("onnx_runtime", "matmul_nbits", "int8", further={"accuracy": 4}, packages=ORT),
    "ORT DynamicQuantizeMatMul": Way("onnx_runtime", "dynamic_quantize", "int8", (8,), packages=ORT),
    "OpenVINO int8": Way("open_vino", "matmul", "int8", further={"quantize": True}, packages=("openvino",)),
    "torch fbgemm int8": Way("torch_ways", "linear_dynamic", "int8", (8,), {"engine": "fbgemm"}),
    "torch oneDNN int8": Way("torch_ways", "linear_dynamic", "int8", (8,), {"engine": "onednn"}),
    "tqs-fast float32": _ours("float32"),
    "tqs-fast bfloat16": _ours("bfloat16"),
    "ORT MatMulNBits float32": Way("onnx_runtime", "matmul_nbits", "float32", (4,), {"accuracy": 0}, packages=ORT),
    "OpenVINO float32": Way("open_vino", "matmul", "float32", further={"quantize": False}, packages=("openvino",)),
    "torch int4pack bfloat16": Way("torch_ways", "int4pack", "bfloat16", (4,)),
    "torch int8pack bfloat16": Way("torch_ways", "int8pack", "bfloat16", (8,)),
    "dense float32": Way("torch_ways", "dense", "float32", further={"dtype": torch.float32}, bytes=4),
    "dense bfloat16": Way("torch_ways", "dense", "bfloat16", further={"dtype": torch.bfloat16}, bytes=2),
}
OURS = tuple(name for name, way in WAYS.items() if way.file == "ours")


def find_function(way: Way) -> Callable[..., Bind]:
    """Of a weight, a number of copies, a number of threads and `way.further`."""
    function: Callable[..., Bind] = getattr(importlib.import_module(f"qgemm.{way.file}"), way.function)
    return function


def missing(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]
