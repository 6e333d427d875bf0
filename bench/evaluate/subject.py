"""What is evaluated: a system, where it is scored, and what its plans are judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tqs_fast as tqs

HORIZONS = (32, 96)  # values per rollout: short and long

Array = np.ndarray[Any, np.dtype[np.float64]]
InitialConditions = tqs.Attractor | tqs.Contexts | tqs.Synthetic


@dataclass(frozen=True, eq=False)
class Judge:
    """One family of unseen initial conditions.

    Attributes:
        name: in tables.
        initial: where rollouts start.
        truth: `[N, T, C]`, what really followed, in the units of the outputs; None where there is none.
        naive: mean absolute difference between values one season apart, over the contexts: the unit of MASE (Hyndman
            and Koehler, 2006); NaN without a truth.
    """

    name: str
    initial: InitialConditions
    truth: Array | None = None
    naive: float = float("nan")


@dataclass(frozen=True, eq=False)
class Subject:
    """One system of the suite.

    Attributes:
        system: the float model.
        scored_on: self-generated initial conditions, the same for every scorer.
        judges: `judges(seed, horizon)`; `seed` is never one that scoring used.
        lyapunov: largest exponent of the true flow, natural log per value; NaN where it is no chaotic flow.
    """

    system: tqs.System
    scored_on: tuple[InitialConditions, ...]
    judges: Callable[[int, int], list[Judge]]
    lyapunov: float = float("nan")

    @property
    def name(self) -> str:
        return self.system.name


def naive_error(contexts: Array, season: int) -> float:
    """Mean absolute difference over `season` values of `[N, context, C]`; missing values do not count."""
    return float(np.nanmean(np.abs(contexts[:, season:] - contexts[:, :-season])))
