"""The optional packages, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from tqs_fast.errors import ArgumentError

MESSAGE = 300  # characters kept of what another package says


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


def reason(error: Exception) -> str:
    """The first line of another package's error, cut where it is long."""
    text = str(error).strip() or type(error).__name__
    return text.split("\n")[0].strip()[:MESSAGE]
