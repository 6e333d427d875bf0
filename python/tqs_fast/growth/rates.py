"""What a growth computation found: rates with errors, how it ended, and what to do about that."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from tqs_fast._files import encode_array, json_copy, read_json, write_json
from tqs_fast._table import Table, format_number
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.growth.statistics import kaplan_yorke
from tqs_fast.growth.stretching import FloatArray
from tqs_fast.systems.tree import Tree, tree_map

FORMAT = "tqs-fast/growth-rates"
VERSION = 1


class Outcome(str, Enum):
    """How a computation ended; the first that applies, in this order."""

    DIVERGED = "diverged"
    COLLAPSED = "collapsed"
    ILL_CONDITIONED = "ill_conditioned"
    RESTING = "resting"
    NOT_CONVERGED = "not_converged"
    CONVERGED = "converged"

    @property
    def advice(self) -> str:
        """What it means for the rates, and what to do."""
        return _ADVICE[self]


_ADVICE = {
    Outcome.DIVERGED: (
        "some trajectories became NaN or infinite and were left out; start elsewhere (Contexts), or shorten the horizon"
    ),
    Outcome.COLLAPSED: (
        "a direction was annihilated (its rate is -inf: the step forgets part of its state); the rates above it stand, "
        "lower count to see them alone"
    ),
    Outcome.ILL_CONDITIONED: (
        "rounding has eaten the small end of the spectrum; lower interval (qr) or the horizon (krylov, power), lower "
        "count, or use precision='float64'"
    ),
    Outcome.RESTING: (
        "a trajectory came to rest, so that the rates are partly those of a fixed point (in float32 chaos can collapse "
        "onto one by rounding); start elsewhere if the attractor was meant"
    ),
    Outcome.NOT_CONVERGED: (
        "the rates still drift, or the iteration had not settled; raise transient, horizon or iterations"
    ),
    Outcome.CONVERGED: "nothing to do",
}


@dataclass(frozen=True, eq=False)
class GrowthRates:
    """Growth rates of E directions in a state of D numbers, over N initial conditions; natural log per step.

    With method "qr" they are Lyapunov exponents; with "krylov" and "power" finite-time exponents (1/T) log σ_i(M_T) of
    the product of Jacobians over the horizon, which are another thing and depend on the horizon.

    Attributes:
        exponents: decreasing, `[E]`; mean over the initial conditions that did not diverge.
        stderr: standard error of `exponents`, `[E]`; nan where there is nothing to take it from.
        samples: one estimate per initial condition, nan where it diverged, `[N, E]`.
        method: "qr", "krylov" or "power".
        outcome: how it ended; `outcome.advice` says what to do.
        size: D.
        horizon: steps T that the rates are taken over (the transient not counted).
        directions: state tree of `[E, N, ...]`, orthonormal per sample. "qr": the frame after the last step, which has
            aligned with the directions that grow most (its first is where any error ends up pointing). "krylov" and
            "power": the right singular vectors, those errors at the start that grow by σ_i. None when loaded from a
            file.
        diagnostics: what the outcome was judged by; JSON values.
        provenance: how it was obtained; JSON values.
    """

    exponents: FloatArray
    stderr: FloatArray
    samples: FloatArray
    method: str
    outcome: Outcome
    size: int
    horizon: int
    directions: Tree | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dimensions in (("exponents", 1), ("stderr", 1), ("samples", 2)):
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.ndim != dimensions or array.shape[-1] != len(np.asarray(self.exponents)):
                raise ArgumentError(f"[GrowthRates] {name} has shape {list(array.shape)}, which does not fit exponents")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for name in ("diagnostics", "provenance"):
            object.__setattr__(self, name, json_copy(dict(getattr(self, name)), function="GrowthRates", name=name))

    @property
    def sum(self) -> float:
        """Of the exponents; with all D of them the mean log |det J| per step, the rate at which volume grows."""
        return float(self.exponents.sum())

    @property
    def kaplan_yorke(self) -> float:
        """Kaplan-Yorke dimension of the exponents; nan where they do not reach a negative sum (raise count)."""
        return kaplan_yorke(self.exponents, self.size)

    @property
    def direction(self) -> Tree | None:
        """The leading direction of every initial condition, a state tree of `[N, ...]`."""
        return None if self.directions is None else tree_map(lambda leaf: leaf[0], self.directions)

    def table(self) -> Table:
        """One row per direction."""
        rows = tuple(
            (str(i + 1), format_number(float(value), 6), format_number(float(error), 2), *_range(self.samples[:, i]))
            for i, (value, error) in enumerate(zip(self.exponents, self.stderr, strict=True))
        )
        columns = ("direction", "rate/step", "stderr", "least", "largest")
        caption = (
            f"{self.method}, {self.horizon} steps, {len(self.samples)} initial conditions, state of {self.size}; sum "
            f"{format_number(self.sum, 6)}, Kaplan-Yorke dimension {format_number(self.kaplan_yorke, 4)}\n"
            f"{self.outcome.value}: {self.outcome.advice}"
        )
        return Table(columns, rows, (True,) * len(columns), caption)

    def __str__(self) -> str:
        return str(self.table())

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes, without directions; NaN is None, infinity "inf"."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "outcome": self.outcome.value,
            "advice": self.outcome.advice,
            "exponents": encode_array(self.exponents),
            "stderr": encode_array(self.stderr),
            "samples": encode_array(self.samples),
            "size": self.size,
            "horizon": self.horizon,
            "sum": encode_array(self.sum),
            "kaplan_yorke": encode_array(self.kaplan_yorke),
            "diagnostics": self.diagnostics,
            "provenance": self.provenance,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically; directions are not written.

        Raises:
            ArgumentError: the path cannot be written.
        """
        write_json(path, self.to_json(), function="GrowthRates.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GrowthRates:
        """Read what `save` wrote.

        Raises:
            FileFormatError: missing, truncated, foreign, of another version, or inconsistent in itself.
        """
        fields = read_json(path, format=FORMAT, version=VERSION, function="GrowthRates.load")
        try:
            return cls(
                exponents=fields.array("exponents", 1),
                stderr=fields.array("stderr", 1),
                samples=fields.array("samples", 2),
                method=fields.text("method"),
                outcome=Outcome(fields.text("outcome")),
                size=fields.integer("size"),
                horizon=fields.integer("horizon"),
                diagnostics=fields.object("diagnostics"),
                provenance=fields.object("provenance"),
            )
        except ValueError as error:  # ArgumentError is one
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"{fields.where}: inconsistent content: {error}") from error


def _range(values: FloatArray) -> tuple[str, str]:
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return format_number(math.nan), format_number(math.nan)
    return format_number(float(known.min()), 4), format_number(float(known.max()), 4)
