"""The door to report pages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tqs_fast._files import encode_array, write_text
from tqs_fast.allocation import Plan
from tqs_fast.errors import ArgumentError
from tqs_fast.reporting.evidence import check_layers, gather
from tqs_fast.reporting.figures import report_figures
from tqs_fast.reporting.page import page
from tqs_fast.reporting.words import measurements
from tqs_fast.scoring import RolloutError, Sensitivity
from tqs_fast.search import SearchResult


@dataclass(frozen=True, eq=False)
class Report:
    """A page about one plan: what it was chosen from, its rivals, and what was measured.

    The same arguments give the same bytes. The page is one file without scripts, fonts or links to anything.

    Attributes:
        table: the sensitivity of the layers.
        plan: their bits; about the same layers.
        search: what a search measured; the plan it kept may or may not be `plan`.
        evaluation: errors of the plan where it was evaluated, one or several by name.

    Raises:
        ArgumentError: arguments of other types, or about other layers.
    """

    table: Sensitivity
    plan: Plan
    search: SearchResult | None = field(default=None, kw_only=True)
    evaluation: RolloutError | Mapping[str, RolloutError] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, kind, value in (("table", Sensitivity, self.table), ("plan", Plan, self.plan)):
            if not isinstance(value, kind):
                raise ArgumentError(f"[Report] expected {name} to be a {kind.__name__}, got {type(value).__name__}")
        if self.search is not None and not isinstance(self.search, SearchResult):
            raise ArgumentError(f"[Report] expected search to be a SearchResult, got {type(self.search).__name__}")
        for name, error in self.evaluations.items():
            if not isinstance(error, RolloutError):
                raise ArgumentError(
                    f"[Report] expected evaluation {name!r} to be a RolloutError (from tqs_fast.evaluate), got "
                    f"{type(error).__name__}"
                )
        check_layers(self.table, self.plan, "plan")
        if self.search is not None:
            check_layers(self.table, self.search.plan, "search")

    @property
    def evaluations(self) -> dict[str, RolloutError]:
        """The evaluations by name; a single one is called "evaluation"."""
        if self.evaluation is None:
            return {}
        return dict(self.evaluation) if isinstance(self.evaluation, Mapping) else {"evaluation": self.evaluation}

    def html(self) -> str:
        """The page."""
        return page(gather(self.table, self.plan, self.search, self.evaluations))

    def figures(self) -> dict[str, Any]:
        """The charts for a paper, each a `matplotlib.figure.Figure`: "curves", "heat_map", "frontier", "agreement".

        A chart that has nothing to show is left out.

        Raises:
            ArgumentError: matplotlib is not installed (the extra "plots").
        """
        return report_figures(gather(self.table, self.plan, self.search, self.evaluations))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, atomically.

        Raises:
            ArgumentError: the path cannot be written.
        """
        write_text(path, self.html(), function="Report.save")

    def summary(self) -> dict[str, Any]:
        """The figures on top of the page, JSON values: bytes, predicted damage, and what was measured where."""
        evidence = gather(self.table, self.plan, self.search, self.evaluations)
        return {
            "bytes": self.plan.bytes,
            "average_bits": self.plan.average_bits,
            "predicted_damage": encode_array(evidence.this.predicted),
            "measured": {
                where: {"damage": encode_array(error.damage), "interval": encode_array(error.interval)}
                for where, error in measurements(evidence)
            },
        }
