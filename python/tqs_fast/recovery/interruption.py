"""Ctrl-C that waits for the end of a step, so that what is left is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """While entered, the first Ctrl-C only sets `asked`; the next one is a KeyboardInterrupt as ever.

    Outside the main thread, where no signal arrives, and where Ctrl-C is not Python's own, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._entered = False

    def __enter__(self) -> Interruption:
        own = threading.current_thread() is threading.main_thread()
        self._entered = own and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._entered:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._entered:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._entered = False
