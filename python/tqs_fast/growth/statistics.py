"""Exponents and their errors from the sums of log |R_ii| over blocks of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tqs_fast.growth.stretching import FloatArray, IntArray, Stretching

ENOUGH = 16  # samples whose spread is known to a fifth
BLOCKS = 32  # finest; halved twice below, which leaves 8 blocks to take a standard deviation of
HALVINGS = 2
# Slope of the block means against time, in its own standard error, that is put down to chance. Student's t with the 14
# degrees of freedom of 16 blocks exceeds 5 once in 5,000 times; blocks still correlated a little, somewhat more often.
TREND_BLOCKS = 16
TREND = 5.0


@dataclass(frozen=True, eq=False)
class Estimate:
    """Exponents from a run, natural log per step; K directions, N samples.

    Attributes:
        samples: per sample, nan where it failed, `[N, K]`.
        exponents: mean over the samples that did not fail, `[K]`.
        stderr: `[K]`; nan where there is nothing to take it from.
        drift: change over the horizon, by the least-squares slope of block means, `[K]`; nan with fewer than 8 blocks.
        drifting: whether that is more than chance explains, `[K]`.
    """

    samples: FloatArray
    exponents: FloatArray
    stderr: FloatArray
    drift: FloatArray
    drifting: npt.NDArray[np.bool_]


def estimate(stretching: Stretching) -> Estimate:
    """Exponents with standard errors.

    From 16 samples on the standard error is that of their mean, which knows about every correlation in time. With
    fewer it is the largest of several estimates, each of which is too small under some circumstances: from the spread
    of block means, pooled over samples, with 32, 16 and 8 blocks (short blocks are correlated, long ones few); and from
    the spread of the samples (which may lie on different attractors).
    """
    logs, steps = stretching.logs[:, stretching.alive], stretching.steps
    samples = np.full(stretching.logs.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):  # -inf of an annihilated direction minus itself
        samples[stretching.alive] = logs.sum(axis=0) / steps.sum()
        kept = samples[stretching.alive]
        exponents = kept.mean(axis=0) if len(kept) else np.full(logs.shape[2], np.nan)
        stderr = _standard_error(kept)
        if len(kept) < ENOUGH:
            stderr = np.fmax(stderr, _blocked_error(logs, steps))
        drift, drifting = _trend(logs, steps)
    return Estimate(samples, exponents, stderr, drift, drifting)


def kaplan_yorke(exponents: FloatArray, size: int) -> float:
    """Kaplan-Yorke dimension from the leading exponents, decreasing, of a state of `size` numbers.

    j + (λ_1 + ... + λ_j) / |λ_{j+1}| with the largest j for which the sum is not negative; nan where more exponents
    than given would be needed.
    """
    if len(exponents) == 0 or bool(np.isnan(exponents).any()):
        return float("nan")
    sums = np.cumsum(exponents)
    negative = np.flatnonzero(sums < 0)
    if len(negative) == 0:
        return float(size) if len(exponents) == size else float("nan")
    j = int(negative[0])
    return float(j + (sums[j - 1] / abs(exponents[j]) if j else 0.0))


def _trend(sums: FloatArray, lengths: IntArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Change over the horizon of the block means, averaged over samples, and whether it is more than chance, `[K]`."""
    while len(sums) > TREND_BLOCKS and len(sums) % 2 == 0:
        sums, lengths = _merge(sums, lengths)
    count = len(sums)
    if count < TREND_BLOCKS // 2 or sums.shape[1] == 0:
        return np.full(sums.shape[2], np.nan), np.zeros(sums.shape[2], dtype=bool)
    rates = sums.mean(axis=1) / lengths[:, None]  # [B, K]
    t = np.arange(count) - (count - 1) / 2
    slope = t @ rates / (t @ t)
    residual = rates - rates.mean(axis=0) - t[:, None] * slope
    error = np.sqrt((residual**2).sum(axis=0) / (count - 2) / (t @ t))
    # Rounding alone moves what is exactly constant (a linear map) by a few units in the last place.
    rounding = 1e-12 * np.maximum(1.0, np.abs(rates).max(axis=0))
    change: FloatArray = slope * count
    return change, np.abs(change) > TREND * error * count + rounding


def _blocked_error(sums: FloatArray, lengths: IntArray) -> FloatArray:
    """The largest standard error from block means, with ever longer blocks, `[K]`."""
    largest = _standard_error(_block_means(sums, lengths))
    for _ in range(HALVINGS):
        if len(sums) % 2:
            break
        sums, lengths = _merge(sums, lengths)
        largest = np.fmax(largest, _standard_error(_block_means(sums, lengths)))
    return largest


def _merge(sums: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
    """Blocks joined two by two."""
    return sums[::2] + sums[1::2], lengths[::2] + lengths[1::2]


def _block_means(sums: FloatArray, lengths: IntArray) -> FloatArray:
    """Rates of every block of every sample, `[B * N, K]`."""
    rates: FloatArray = sums / lengths[:, None, None]
    return rates.reshape(-1, sums.shape[2])


def _standard_error(values: FloatArray) -> FloatArray:
    """Of the mean of independent rows `[M, K]`; nan for fewer than two."""
    if len(values) < 2:
        return np.full(values.shape[1], np.nan)
    error: FloatArray = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return error
