"""Every system of the suite by name."""

from __future__ import annotations

from pathlib import Path

from evaluate.subject import Subject
from evaluate.systems import built_in, trained
from evaluate.systems.rows import ROWS

NAMES = (*built_in.SUBJECTS, *ROWS)


def load(name: str, cache: Path) -> Subject:
    """A system with its judges; a forecaster that `cache` does not have is trained."""
    if name in built_in.SUBJECTS:
        return built_in.SUBJECTS[name]()
    return trained.subject(name, cache)
