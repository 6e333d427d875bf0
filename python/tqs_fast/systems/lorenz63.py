"""The Lorenz-63 flow, x' = 10 (y - x), y' = x (28 - z) - y, z' = x y - 8/3 z (Lorenz, 1963).

Physical units here; networks see values standardised with `MEAN` and `STD`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
STEP = 0.02  # time units per sample
SUBSTEPS = 4  # Runge-Kutta steps per sample: a local error near 1e-10, far below float32
LYAPUNOV = 0.906  # largest exponent, natural log per time unit (Sprott, 2003)
TRANSIENT = 500  # samples dropped, 10 time units: the flow contracts towards its attractor at 13.7 per time unit

# Of the natural measure: 512 trajectories of 20,000 samples; x and y have mean 0 by the symmetry (x, y) -> (-x, -y).
MEAN: Array = np.array([0.0, 0.0, 23.55])
STD: Array = np.array([7.92, 9.01, 8.62])


def integrate(start: Array, samples: int) -> Array:
    """Fourth-order Runge-Kutta from `start` [N, 3]: `[N, samples + 1, 3]`, `STEP` apart, `start` first."""
    path = np.empty((start.shape[0], samples + 1, 3))
    path[:, 0] = start
    h = STEP / SUBSTEPS
    state = start.astype(np.float64)
    for t in range(samples):
        for _ in range(SUBSTEPS):
            k1 = _slope(state)
            k2 = _slope(state + 0.5 * h * k1)
            k3 = _slope(state + 0.5 * h * k2)
            k4 = _slope(state + h * k3)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path[:, t + 1] = state
    return path


def trajectories(count: int, samples: int, *, seed: int) -> Array:
    """`[count, samples, 3]` on the attractor, from random starts after a transient."""
    start = MEAN + STD * np.random.default_rng(seed).standard_normal((count, 3))
    return integrate(integrate(start, TRANSIENT)[:, -1], samples - 1)


def standardise(path: Array) -> Array:
    """Physical units to zero mean and unit standard deviation per coordinate."""
    scaled: Array = (path - MEAN) / STD
    return scaled


def _slope(state: Array) -> Array:
    x, y, z = state[:, 0], state[:, 1], state[:, 2]
    return np.stack([SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z], axis=1)
