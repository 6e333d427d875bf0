"""Growth rate of an injected error: a finite-time Lyapunov exponent read off its error curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SATURATION = 0.1  # of the reference variance: above it the error feels the size of the attractor
FEWEST = 3  # steps: a slope through two points has no residual to speak for it

FloatArray = npt.NDArray[np.float64]


def growth_rate(curve: FloatArray, *, saturates: bool = True) -> tuple[float, tuple[int, int]]:
    """Least-squares slope of ½ log mse_t against t, over the steps before saturation.

    Args:
        curve: mse_t, `[T]`, scaled by the variance of the reference.
        saturates: False for tangents, which are infinitesimal: the whole curve is used.

    Returns:
        The slope (natural log, per value of the horizon) and the window `[first, end)` it was fitted on. NaN and an
        empty window where fewer than 3 steps lie below saturation or the error is zero.
    """
    saturated = np.flatnonzero(~(curve < (SATURATION if saturates else np.inf)))
    end = int(saturated[0]) if len(saturated) else len(curve)
    positive = np.flatnonzero(curve[:end] > 0)
    first = int(positive[0]) if len(positive) else end
    window = curve[first:end]
    if len(window) < FEWEST or not bool((window > 0).all()):
        return float("nan"), (0, 0)
    t = np.arange(first, end, dtype=np.float64)
    centred = t - t.mean()
    return float(centred @ (0.5 * np.log(window)) / (centred @ centred)), (first, end)
