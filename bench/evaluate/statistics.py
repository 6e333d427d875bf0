"""Figures of merit per initial condition, and the paired test that calls a comparison won, tied or lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

RESAMPLES = 2000
CONFIDENCE = 0.95
VALID = 0.4  # normalised error at which a forecast of a chaotic flow stops being valid (Pathak et al., PRL 120, 2018)


def damages(outputs: Array, reference: Array, scale: Array) -> Array:
    """`[lanes, N]`: mean over time and channels of ((outputs - reference) / scale)².

    Args:
        outputs: `[lanes, T, N, C]`.
        reference: `[T, N, C]`, of the float model.
        scale: `[C]`.
    """
    squared = np.square((outputs - reference) / scale).mean(axis=(1, 3))
    return np.where(np.isfinite(squared), squared, np.inf)


def absolute_errors(outputs: Array, truth: Array) -> Array:
    """`[lanes, N]`: mean over time and channels of |outputs - truth|; `truth` is `[T, N, C]`."""
    errors = np.abs(outputs - truth).mean(axis=(1, 3))
    return np.where(np.isfinite(errors), errors, np.inf)


def valid_values(outputs: Array, truth: Array) -> Array:
    """`[lanes, N]`: values before the normalised error first exceeds `VALID`; the horizon where it never does.

    The normalised error is the root of the mean over channels of ((outputs - truth) / s)², s the standard deviation of
    each channel of the truth.
    """
    scale = truth.std(axis=(0, 1))
    errors = np.sqrt(np.square((outputs - truth) / scale).mean(axis=3))  # [lanes, T, N]
    over = ~(errors <= VALID)
    return np.where(over.any(axis=1), over.argmax(axis=1), outputs.shape[1]).astype(np.float64)


@dataclass(frozen=True)
class Ratio:
    """How one method's figure compares with another's, and whether that is more than chance.

    Attributes:
        value: over all judges, the geometric mean of the ratios of their means over initial conditions.
        low, high: 95 % percentile bootstrap interval: initial conditions are drawn with replacement within each judge,
            the same for both methods.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "win" where the whole interval lies below 1, "loss" where it lies above, else "tie"."""
        return "win" if self.high < 1 else "loss" if self.low > 1 else "tie"


def ratio(first: Mapping[str, Array], second: Mapping[str, Array]) -> Ratio:
    """first over second, each a figure per initial condition `[N]` for every judge.

    Two methods of the same figures tie exactly. Where both diverge on a judge it says nothing of which is better and
    counts as 1; where one does, the ratio is 0 or infinite.

    Raises:
        ValueError: not the same judges or initial conditions.
    """
    if first.keys() != second.keys() or any(len(first[name]) != len(second[name]) for name in first):
        raise ValueError("[ratio] expected both methods on the same judges and initial conditions")
    logs, drawn = [], []
    for name in first:
        a, b = np.asarray(first[name], dtype=float), np.asarray(second[name], dtype=float)
        draws = np.random.default_rng(0).integers(len(a), size=(RESAMPLES, len(a)))
        logs.append(_log_ratio(a.mean(), b.mean()))
        drawn.append(_log_ratio(a[draws].mean(axis=1), b[draws].mean(axis=1)))
    with np.errstate(invalid="ignore", over="ignore"):  # one judge infinitely better, another infinitely worse: tie
        values = np.exp(np.nan_to_num(np.mean(drawn, axis=0), nan=0.0, posinf=np.inf, neginf=-np.inf))
        value = float(np.exp(np.nan_to_num(np.mean(logs), nan=0.0, posinf=np.inf, neginf=-np.inf)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return Ratio(value, float(low), float(high))


def _log_ratio(a: Any, b: Any) -> Any:
    """log(a / b); 0 where both are zero or both infinite."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == b, 0.0, np.log(a) - np.log(b))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, with mean ranks for ties; NaN where one side does not vary."""
    x, y = _ranks(np.asarray(a)), _ranks(np.asarray(b))
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
