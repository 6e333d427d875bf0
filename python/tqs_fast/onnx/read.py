"""An ONNX file as a model in memory whose large external tensors stay on disk until they are asked for."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.errors import FileFormatError
from tqs_fast.onnx.extra import reason, require

OLDEST_OPSET = 12
Array = npt.NDArray[Any]


def read_model(path: str | os.PathLike[str]) -> Any:
    """The ModelProto of a file, external data not loaded.

    Raises:
        FileFormatError: missing, unreadable, truncated, not ONNX, without a graph, or of an opset before 12.
    """
    onnx = require("onnx")
    try:
        model = onnx.load_model(os.fspath(path), load_external_data=False)
    except OSError as error:
        raise FileFormatError(f"[onnx] cannot read {path} ({error.strerror}); check the path") from error
    except Exception as error:  # protobuf's DecodeError, a class of another package
        raise FileFormatError(
            f"[onnx] {path} is not an ONNX file, or was truncated ({reason(error)}); export it again"
        ) from error
    if not model.graph.node:
        raise FileFormatError(f"[onnx] {path} holds no graph: expected an ONNX model with nodes; export it again")
    if not model.graph.output:
        raise FileFormatError(f"[onnx] the graph of {path} has no output; export it again")
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise FileFormatError(
            f"[onnx] {path} is of opset {opset}, expected {OLDEST_OPSET} or newer; export it again, or convert it with "
            "onnx.version_converter"
        )
    return model


def opset_of(model: Any) -> int:
    """Version of the operators of the standard domain; 0 where the model does not say."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def check_model(model: Any, path: Path) -> None:
    """The checker of the onnx package on a model without external data.

    Raises:
        FileFormatError: it refuses the model.
    """
    _check(model, path)


def check_file(path: Path) -> None:
    """The checker of the onnx package on a file and its external data. Raises FileFormatError."""
    _check(os.fspath(path), path)


def _check(model: Any, path: Path) -> None:
    onnx = require("onnx")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, or what serialising a broken message raises
        raise FileFormatError(f"[onnx] {path} is not a valid model ({reason(error)}); export it again") from error


def tensor_array(tensor: Any, path: Path) -> Array:
    """The values of an initializer, those of external data mapped from disk (copy on write).

    Raises:
        FileFormatError: values that do not fill its dims, missing or truncated external data, or data that lie outside
            the model's folder.
    """
    onnx = require("onnx")
    dims = tuple(tensor.dims)
    if any(size < 0 for size in dims):
        raise FileFormatError(f"[onnx] {path}: {tensor.name} has a negative size in {list(dims)}; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _mapped(tensor, dims, path)
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # ValueError, TypeError, KeyError, MemoryError: whatever a broken tensor leads to
        raise FileFormatError(
            f"[onnx] {path}: the values of {tensor.name} do not fill its shape {list(dims)} ({reason(error)}); "
            "export it again"
        ) from error
    return array


def _mapped(tensor: Any, dims: tuple[int, ...], path: Path) -> Array:
    onnx = require("onnx")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.parent.resolve()
    file = (folder / entries.get("location", "")).resolve()
    if not file.is_relative_to(folder) or file == folder:
        raise FileFormatError(
            f"[onnx] {path}: expected the data of {tensor.name} in the model's folder, got "
            f"{entries.get('location')!r}; save the model again with its data beside it"
        )
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        offset = int(entries.get("offset", 0))
        needed = math.prod(dims) * dtype.itemsize
        length = int(entries.get("length", needed))
        size = file.stat().st_size
    except OSError as error:
        raise FileFormatError(
            f"[onnx] {path}: the data of {tensor.name} are missing ({file.name}: {error.strerror}); put that file "
            "beside the model"
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"[onnx] {path}: {tensor.name} is damaged ({reason(error)}); export it again") from error
    if offset < 0 or offset + needed > size or length != needed:
        raise FileFormatError(
            f"[onnx] {path}: {tensor.name} of shape {list(dims)} needs {needed} bytes at {offset} of {file.name}, "
            f"which holds {size} (the model says {length}); copy the data file again"
        )
    if needed == 0:
        return np.empty(dims, dtype)
    return np.memmap(file, dtype=dtype, mode="c", offset=offset, shape=dims)
