"""Progress of long work: drawn on a terminal, handed to a callback, or silent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report: TypeAlias = Callable[[int, int], None]


@contextmanager
def tracking(progress: bool | Report, title: str) -> Iterator[Report]:
    """A function `(done, total)` to call as work proceeds.

    Args:
        progress: True draws a bar when standard error is a terminal; a function is called itself; False is silent.
        title: of the bar.
    """
    if callable(progress):
        yield progress
    elif not progress or not sys.stderr.isatty():
        yield lambda done, total: None
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
