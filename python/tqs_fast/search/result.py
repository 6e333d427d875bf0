"""What a search found: the plan, every plan it was decided against, and everything that was measured on the way."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr  # type: ignore[import-untyped]  # scipy ships no types

from tqs_fast._files import Fields, encode_array, json_copy, read_json, write_json
from tqs_fast._table import Table, format_count, format_number
from tqs_fast.allocation.plan import Plan
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.scoring.evaluate import RolloutError

FORMAT = "tqs-fast/search"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan that was measured on the deciding set.

    Attributes:
        name: "start", "uniform 4", "rival 1", "searched 1" (by damage while searching) and so on.
        plan: its bits.
        searched_damage: on the conditions the search ran on.
        error: on the deciding set.
        hurts: families in which it is worse than the best given plan by more than the rule allows.
    """

    name: str
    plan: Plan
    searched_damage: float
    error: RolloutError
    hurts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One plan measured while searching.

    Attributes:
        bits: of every layer.
        origin: "start", "uniform 4", "rival 1", "tempered" or "proposed".
        predicted: first-order damage.
        measured: damage on the conditions the search ran on; infinite where a rollout diverged.
    """

    bits: tuple[int | None, ...]
    origin: str
    predicted: float
    measured: float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The plan of least measured damage.

    Attributes:
        chosen: name of the candidate that was kept.
        plan: its bits, with the method "search" and how they were found.
        candidates: all plans that were decided upon: given ones first, then found ones by damage while searching.
        history: every plan measured while searching, in order.
        stopped: why the search ended.
        provenance: system, seeds, initial conditions, engine, budget; JSON values.

    Raises:
        ArgumentError: no candidate is called `chosen`.
    """

    chosen: str
    plan: Plan
    candidates: tuple[Candidate, ...]
    history: tuple[Evaluation, ...]
    stopped: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chosen not in [candidate.name for candidate in self.candidates]:
            raise ArgumentError(f"[SearchResult] expected one candidate to be called {self.chosen!r}, got none")

    def candidate(self, name: str) -> Candidate:
        """The candidate of that name.

        Raises:
            ArgumentError: there is none.
        """
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        raise ArgumentError(f"[SearchResult] expected one of {[c.name for c in self.candidates]}, got {name!r}")

    @property
    def error(self) -> RolloutError:
        """Its errors on the deciding set."""
        return self.candidate(self.chosen).error

    @property
    def damage(self) -> float:
        """Its damage on the deciding set."""
        return self.error.damage

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of that damage."""
        return self.error.interval

    @property
    def evaluations(self) -> int:
        """Plans measured while searching."""
        return len(self.history)

    @property
    def rank_correlation(self) -> float:
        """Spearman correlation of predicted and measured damage over all plans with both finite; NaN below 3."""
        pairs = [(e.predicted, e.measured) for e in self.history if math.isfinite(e.predicted + e.measured)]
        if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
            return math.nan
        return float(spearmanr(*zip(*pairs, strict=True)).statistic)

    @property
    def best_so_far(self) -> npt.NDArray[np.float64]:
        """Least damage on the searched conditions after each evaluation, `[E]`."""
        return np.minimum.accumulate([evaluation.measured for evaluation in self.history])

    def table(self) -> Table:
        """One row per candidate: size, predicted, searched and decided damage with its interval and families."""
        families = self.error.families
        apart = families if len(families) > 1 else ()
        rows = []
        for candidate in self.candidates:
            low, high = candidate.error.interval
            of_family = candidate.error.damage_of_family
            rows.append(
                (
                    candidate.name + (" *" if candidate.name == self.chosen else ""),
                    format_count(candidate.plan.bytes),
                    format_number(candidate.plan.predicted_damage),
                    format_number(candidate.searched_damage),
                    format_number(candidate.error.damage),
                    f"{format_number(low)} to {format_number(high)}",
                    *(format_number(of_family[name]) for name in apart),
                    ", ".join(candidate.hurts) or "-",
                )
            )
        columns = ("plan", "bytes", "predicted", "searched", "decided", "95 % interval", *apart, "hurts")
        right = (False, True, True, True, True, True, *[True] * len(apart), False)
        return Table(columns, tuple(rows), right, self.summary())

    def summary(self) -> str:
        """One line: what was kept, on how much evidence."""
        low, high = self.interval
        return (
            f"* kept: damage {format_number(self.damage)} ({format_number(low)} to {format_number(high)}) on "
            f"{len(self.error.samples)} deciding conditions, {format_count(self.plan.bytes)} bytes; "
            f"{self.evaluations} plans measured, {self.stopped}; rank correlation of predicted and measured "
            f"{format_number(self.rank_correlation, 2)}"
        )

    def __str__(self) -> str:
        return str(self.table())

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes; NaN is None, infinity "inf"."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "chosen": self.chosen,
            "plan": self.plan.to_json(),
            "stopped": self.stopped,
            "candidates": [
                {
                    "name": candidate.name,
                    "plan": candidate.plan.to_json(),
                    "searched_damage": encode_array(candidate.searched_damage),
                    "error": candidate.error.to_json(),
                    "hurts": list(candidate.hurts),
                }
                for candidate in self.candidates
            ],
            "history": {
                "bits": [[b or 0 for b in evaluation.bits] for evaluation in self.history],
                "origin": [evaluation.origin for evaluation in self.history],
                "predicted": encode_array([evaluation.predicted for evaluation in self.history]),
                "measured": encode_array([evaluation.measured for evaluation in self.history]),
            },
            "provenance": json_copy(self.provenance, function="SearchResult.to_json", name="provenance"),
            # Derived, for readers of the file in other languages; `load` computes them again.
            "damage": encode_array(self.damage),
            "interval": encode_array(self.interval),
            "rank_correlation": encode_array(self.rank_correlation),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON, atomically.

        Raises:
            ArgumentError: the path cannot be written.
        """
        write_json(path, self.to_json(), function="SearchResult.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SearchResult:
        """Read a result that `save` wrote.

        Raises:
            FileFormatError: missing, truncated, foreign, of another version, or inconsistent in itself.
        """
        fields = read_json(path, format=FORMAT, version=VERSION, function="SearchResult.load")
        try:
            return cls(
                fields.text("chosen"),
                Plan.from_json(fields.object("plan"), function="SearchResult.load"),
                tuple(_candidate(item) for item in fields.items("candidates")),
                _history(fields.fields("history")),
                fields.text("stopped"),
                fields.object("provenance"),
            )
        except (ArgumentError, ValueError) as error:
            raise FileFormatError(f"{fields.where}: inconsistent content: {error}") from error


def _candidate(fields: Fields) -> Candidate:
    return Candidate(
        fields.text("name"),
        Plan.from_json(fields.object("plan"), function="SearchResult.load"),
        fields.number("searched_damage"),
        RolloutError.from_fields(fields.fields("error")),
        fields.texts("hurts"),
    )


def _history(fields: Fields) -> tuple[Evaluation, ...]:
    rows = zip(
        fields.integers("bits", 2).tolist(),
        fields.texts("origin"),
        fields.array("predicted", 1).tolist(),
        fields.array("measured", 1).tolist(),
        strict=True,
    )
    return tuple(Evaluation(tuple(b or None for b in bits), *row) for bits, *row in rows)
