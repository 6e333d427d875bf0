"""The result of `diagnose_basin`: scans along the lines from float weights to their rounded ones, together."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from tqs_fast._files import encode_array, write_json
from tqs_fast._table import Table, format_number
from tqs_fast.recovery.figures import basin_figure
from tqs_fast.recovery.scan import ADVICE, FloatArray, LineScan

FORMAT = "tqs-fast/basin"
VERSION = 1


@dataclass(frozen=True, eq=False)
class BasinDiagnosis:
    """Line scans of every layer, and of all layers together.

    Attributes:
        positions: `[A]`, the values of a.
        layers: one scan per packed layer of the plan, every other layer float.
        whole: all layers moved together.
        provenance: system, horizon, initial conditions, engine, and how the weights were rounded.
    """

    positions: FloatArray
    layers: tuple[LineScan, ...]
    whole: LineScan
    provenance: dict[str, Any] = field(default_factory=dict)

    def table(self) -> Table:
        """One row per layer, and one for all."""
        rows = tuple(
            (
                scan.name,
                *map(format_number, (scan.at_rounded, scan.ratio, scan.exponent, scan.flat_radius, scan.distance)),
                scan.verdict,
            )
            for scan in (*self.layers, self.whole)
        )
        columns = ("layer", "damage", "true / quadratic", "exponent", "flat radius", "distance", "verdict")
        caption = "\n".join(
            f"{verdict}: {ADVICE[verdict]}" for verdict in ADVICE if any(row[-1] == verdict for row in rows)
        )
        return Table(columns, rows, (False, *[True] * 5, False), caption)

    def __str__(self) -> str:
        return str(self.table())

    def plot(self) -> Any:
        """Damage along every line, with the quadratic of all layers together, as a `matplotlib.figure.Figure`.

        Raises:
            ArgumentError: matplotlib is not installed (the extra "plots").
        """
        return basin_figure(self.positions, self.layers, self.whole)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes; NaN is None, infinity "inf"."""

        def scan_json(scan: LineScan) -> dict[str, Any]:
            numbers = ("quadratic", "distance", "at_rounded", "slope", "flat_radius", "tolerance")
            return {
                "name": scan.name,
                "damage": encode_array(scan.damage),
                **{name: encode_array(getattr(scan, name)) for name in numbers},
                # Derived, for readers in other languages.
                "ratio": encode_array(scan.ratio),
                "exponent": encode_array(scan.exponent),
                "verdict": scan.verdict,
                "advice": scan.advice,
            }

        return {
            "format": FORMAT,
            "version": VERSION,
            "positions": encode_array(self.positions),
            "layers": [scan_json(scan) for scan in self.layers],
            "whole": scan_json(self.whole),
            "provenance": self.provenance,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_json(), function="BasinDiagnosis.save")
