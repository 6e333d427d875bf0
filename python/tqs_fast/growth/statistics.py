"""Exponents and their errors from the sums of log |R_ii| over blocks of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqs_fast.growth.stretching import FloatArray, Stretching

BLOCKS = 32  # finest; halved twice below, which leaves 8 blocks to take a standard deviation of
HALVINGS = 2
# Difference of the means of two halves of the horizon, in its own standard error, that is put down to chance: a normal
# variable exceeds 4 once in 16,000 times, and with few blocks (Student) still less than once in 100.
DRIFT = 4.0


@dataclass(frozen=True, eq=False)
class Estimate:
    """Exponents from a run, natural log per step; K directions, N samples.

    Attributes:
        samples: per sample, nan where it failed, `[N, K]`.
        exponents: mean over the samples that did not fail, `[K]`.
        stderr: `[K]`; nan where there is nothing to take it from.
        drift: mean of the second half of the horizon minus that of the first, `[K]`.
        drifting: whether that is more than chance explains, `[K]`.
    """

    samples: FloatArray
    exponents: FloatArray
    stderr: FloatArray
    drift: FloatArray
    drifting: np.ndarray[tuple[int], np.dtype[np.bool_]]


def estimate(stretching: Stretching) -> Estimate:
    """Exponents with standard errors.

    The standard error is the largest of several estimates, each of which is too small under some circumstances: from
    the spread of block means, pooled over samples, with 32, 16 and 8 blocks (short blocks are correlated, long ones
    few); and from the spread of the samples themselves (which may lie on different attractors).
    """
    logs, steps = stretching.logs[:, stretching.alive], stretching.steps
    samples = np.full(stretching.logs.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):  # -inf of an annihilated direction minus itself
        samples[stretching.alive] = logs.sum(axis=0) / steps.sum()
        kept = samples[stretching.alive]
        exponents = kept.mean(axis=0) if len(kept) else np.full(logs.shape[2], np.nan)
        candidates = [_standard_error(kept)]
        sums, lengths = logs, steps
        for _ in range(HALVINGS + 1):
            candidates.append(_standard_error(_block_means(sums, lengths)))
            if len(sums) % 2:
                break
            sums, lengths = sums[::2] + sums[1::2], lengths[::2] + lengths[1::2]
        stderr = np.fmax.reduce(candidates)
        half = len(logs) // 2
        if half and len(kept):
            halves = [
                logs[part].sum(axis=0).mean(axis=0) / steps[part].sum() for part in (slice(half), slice(half, None))
            ]
            drift = halves[1] - halves[0]
        else:
            drift = np.full(logs.shape[2], np.nan)
    # Each half has √2 times the error of the whole, and their difference twice. Rounding alone moves what is exactly
    # constant (a linear map) by a few units in the last place.
    rounding = 1e-12 * np.maximum(1.0, np.abs(exponents))
    drifting = np.abs(drift) > DRIFT * 2 * np.nan_to_num(stderr) + rounding
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


def _block_means(sums: FloatArray, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
    """Rates of every block of every sample, `[B * N, K]`."""
    rates: FloatArray = sums / lengths[:, None, None]
    return rates.reshape(-1, sums.shape[2])


def _standard_error(values: FloatArray) -> FloatArray:
    """Of the mean of independent rows `[M, K]`; nan for fewer than two."""
    if len(values) < 2:
        return np.full(values.shape[1], np.nan)
    error: FloatArray = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return error
