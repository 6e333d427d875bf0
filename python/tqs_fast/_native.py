"""The one place that imports the compiled module; everything above calls `tqs_fast.kernels`."""

from __future__ import annotations

try:
    from tqs_fast import _core as core
except ImportError as error:
    raise ImportError(
        "[tqs_fast] the native module tqs_fast._core is missing or cannot be loaded; "
        f"build it with `pip install .` in the repository ({error})"
    ) from error

__all__ = ["core"]
