"""Keeping a solver's own prints off standard output.

HiGHS prints a line from its C++ code for some problems whatever its display option says, and it would end up amid the
JSON that a command writes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Standard output of the C library goes nowhere inside; what Python holds in its own buffer is not touched."""
    try:
        library, kept = ctypes.CDLL(None), os.dup(1)
    except (OSError, TypeError):  # standard output is closed, or the platform does not open its C library by that name
        yield
        return
    try:
        library.fflush(None)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
