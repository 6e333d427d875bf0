"""An ONNX Runtime session whose inputs and outputs are torch tensors, bound where they lie: no copies between steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tqs_fast.errors import ArgumentError, EngineError, FileFormatError
from tqs_fast.onnx.extra import reason, require

TYPES: dict[str, tuple[torch.dtype, Any]] = {
    "tensor(float)": (torch.float32, np.float32),
    "tensor(double)": (torch.float64, np.float64),
    "tensor(float16)": (torch.float16, np.float16),
    "tensor(int64)": (torch.int64, np.int64),
    "tensor(int32)": (torch.int32, np.int32),
    "tensor(bool)": (torch.bool, np.bool_),
}
Size = int | str | None


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: of its tensors.
        shape: a number, the name of a free size, or None for one without a name.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} [{sizes}] {str(self.dtype).removeprefix('torch.')}"


class Session:
    """One model, built once; `run` may be called by several threads.

    Args:
        model: the file's content.
        path: for messages.
        threads: of ONNX Runtime within one call, which do not spin.

    Attributes:
        inputs, outputs: `Port`s by name, in the order of the graph; lifted weights are inputs.

    Raises:
        FileFormatError: ONNX Runtime refuses the model, or a port is of a type that no state can have.
    """

    def __init__(self, model: bytes, path: Path, *, threads: int = 1) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong comes as an exception
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own for every status code
            raise FileFormatError(f"[onnx] ONNX Runtime refuses {path}: {reason(error)}") from error
        self._path = path
        try:
            self.inputs = {port.name: _port(port, path) for port in self._session.get_inputs()}
            self.outputs = {port.name: _port(port, path) for port in self._session.get_outputs()}
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"[onnx] {path} has names that are no text ({reason(error)}); export it again"
            ) from error
        self._shapes: dict[Any, dict[str, tuple[int, ...]]] = {}

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One call of the model.

        Output shapes are learnt from the first call with inputs of some shapes; from then on ONNX Runtime writes
        straight into the tensors that are returned.

        Args:
            feeds: a tensor for every input; contiguous ones are read in place.

        Raises:
            ArgumentError: an input that is missing, or of another type or shape than the graph declares.
            EngineError: the session failed while it ran.
        """
        held = {name: self._fitting(port, feeds) for name, port in self.inputs.items()}
        key = tuple(tensor.shape for tensor in held.values())
        binding = self._session.io_binding()
        for name, tensor in held.items():
            kind = _numpy_type(tensor.dtype)
            binding.bind_input(name, "cpu", 0, kind, list(tensor.shape), tensor.data_ptr())
        known = self._shapes.get(key)
        results: dict[str, torch.Tensor] = {}
        for name, port in self.outputs.items():
            if known is None:
                binding.bind_output(name, "cpu")
                continue
            result = results[name] = torch.empty(known[name], dtype=port.dtype)
            binding.bind_output(name, "cpu", 0, _numpy_type(port.dtype), list(result.shape), result.data_ptr())
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(
                f"[onnx] {self._path.name}: ONNX Runtime failed: {reason(error)}; check sizes, initial states "
                "and constants"
            ) from error
        if known is None:
            arrays = dict(zip(self.outputs, binding.copy_outputs_to_cpu(), strict=True))
            results = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
            self._shapes[key] = {name: tuple(result.shape) for name, result in results.items()}
        return results

    def _fitting(self, port: Port, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if port.name not in feeds:
            raise ArgumentError(f"[onnx] {self._path.name}: expected a value for the input {port}; name it")
        tensor = feeds[port.name]
        fits = len(port.shape) == tensor.dim() and all(
            not isinstance(size, int) or size == given for size, given in zip(port.shape, tensor.shape, strict=False)
        )
        if tensor.dtype != port.dtype or not fits:
            given = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            raise ArgumentError(f"[onnx] {self._path.name}: expected the input {port}, got {given}")
        try:
            tensor.data_ptr()
        except RuntimeError as error:  # the tensors of torch.func and torch.export hold no values
            raise ArgumentError(
                f"[onnx] {self._path.name} runs outside torch, where nothing can be differentiated or traced; use "
                "Residual() or Noise(), or the torch module that it was exported from"
            ) from error
        return tensor.detach().cpu().contiguous()


def _port(port: Any, path: Path) -> Port:
    if port.type not in TYPES:
        raise FileFormatError(
            f"[onnx] {path}: {port.name} is a {port.type}, expected one of {', '.join(TYPES)}; export it as one of them"
        )
    return Port(port.name, TYPES[port.type][0], tuple(port.shape))


def _numpy_type(dtype: torch.dtype) -> Any:
    return next(kind for known, kind in TYPES.values() if known == dtype)
