"""Finding a system by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.fracast import fracast
from tqs_fast.systems.lorenz_gru import lorenz_gru
from tqs_fast.systems.onnx_system import open_onnx
from tqs_fast.systems.silero_vad import silero_vad
from tqs_fast.systems.system import System

BUILT_IN: dict[str, Callable[..., System]] = {"lorenz-gru": lorenz_gru, "fracast": fracast, "silero-vad": silero_vad}


def load_system(name: str, **options: Any) -> System:
    """A built-in system, or what a factory of yours returns.

    Args:
        name: "lorenz-gru" (ships with tqs-fast), "fracast" or "silero-vad" (from `pip install "tqs-fast[models]"`), or
            "package.module:factory", looked up as `python -m` would, the current directory included; or an ONNX file,
            "model.onnx" (see `OnnxSystem`).
        options: passed to the factory, or to `OnnxSystem`.

    Raises:
        FileFormatError: an ONNX file that cannot be read or run.
        ArgumentError: an unknown name or option, a package or module that cannot be found, no such factory, or one that
            does not return a System. What a module or a factory raises itself is passed on.
    """
    if name in BUILT_IN:
        if options:
            raise ArgumentError(f"[load_system] {name} takes no options, got {sorted(options)}")
        return BUILT_IN[name]()
    if name.endswith(".onnx"):
        return open_onnx(name, **options)
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ArgumentError(
            f"[load_system] unknown system {name!r}; choose {', '.join(BUILT_IN)}, "
            '"package.module:factory" or "model.onnx"'
        )
    factory = getattr(_import(module_name), attribute, None)
    if factory is None:
        raise ArgumentError(
            f"[load_system] module {module_name} has no {attribute!r}; define `def {attribute}() -> System`"
        )
    if not callable(factory):
        raise ArgumentError(
            f"[load_system] {name} is a {type(factory).__name__}, not a function; define `def {attribute}() -> System`"
        )
    system = factory(**options)
    if not isinstance(system, System):
        raise ArgumentError(f"[load_system] {name} must return a System, got {type(system).__name__}")
    return system


def _import(module_name: str) -> Any:
    # as `python -m` does; a console script has its own folder there instead
    if "" not in sys.path:
        sys.path.insert(0, "")
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and (module_name == missing or module_name.startswith(f"{missing}.")):
            raise ArgumentError(
                f"[load_system] no module named {missing!r} in the current directory or installed; check the name and "
                "where you run from"
            ) from error
        raise  # the module is there, and something that it imports is not
