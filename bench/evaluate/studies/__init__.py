"""Studies of what the scores can and cannot say, on the systems of the suite; one JSON file per study and system."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from evaluate.cells import write_whole
from evaluate.studies import additivity, contexts, growth, prediction, stability
from evaluate.subject import Subject

Document = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        question: above its table.
        measure: `measure(subject, seed, folder)`, JSON values.
        table: markdown from the documents of all systems.
    """

    question: str
    measure: Callable[[Subject, int, Path], Document]
    table: Callable[[Sequence[Document]], str]


STUDIES = {
    "stability": Study(
        "Do layers keep their order across seeds, horizons and scorers?", stability.measure, stability.table
    ),
    "contexts": Study("What do real contexts tell that self-generated ones do not?", contexts.measure, contexts.table),
    "growth": Study("Do growth rates of layers become alike on long horizons?", growth.measure, growth.table),
    "additivity": Study("Do the damages of layers add up?", additivity.measure, additivity.table),
    "prediction": Study(
        "Is the predicted damage of random plans the measured one?", prediction.measure, prediction.table
    ),
}


def run(load: Any, folder: Path, *, systems: Sequence[str], only: Sequence[str], seed: int) -> None:
    """Every study of every system whose file is not there yet."""
    for name in systems:
        for study in only:
            path = folder / "studies" / study / f"{name}-{seed}.json"
            if path.exists():
                continue
            begin = time.perf_counter()
            document = STUDIES[study].measure(load(name), seed, folder)
            seconds = time.perf_counter() - begin
            write_whole(path, {"system": name, "seed": seed, "machine": harness.STARTED, "seconds": seconds} | document)
            print(f"{study:10} {name:21} {seconds:.1f} s", flush=True)


def read(folder: Path) -> dict[str, list[Document]]:
    """What has been measured, by study."""
    return {
        study: [json.loads(path.read_text()) for path in sorted((folder / "studies" / study).glob("*.json"))]
        for study in STUDIES
    }


def markdown(documents: dict[str, list[Document]]) -> str:
    """A section per study."""
    return "".join(
        f"\n### {STUDIES[study].question}\n\n{STUDIES[study].table(found)}\n"
        for study, found in documents.items()
        if found
    )
