"""The optional packages, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from tqs_fast.errors import ArgumentError


def require(name: str) -> Any:
    """The module `name` of the extra `[onnx]`.

    Raises:
        ArgumentError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(
            f'[onnx] ONNX models need {name.split(".")[0]} ({error}): pip install "tqs-fast[onnx]"'
        ) from error
