"""Oracle of growth rates: the textbook loops over one trajectory, with Jacobians that the caller writes down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def qr_logs(
    step: Callable[[Array], Array], jacobian: Callable[[Array], Array], state: Array, frame: Array, steps: int
) -> tuple[Array, Array, Array]:
    """Benettin's method, orthonormalised after every step.

    Args:
        step: z [D] -> z [D].
        jacobian: z [D] -> dstep/dz [D, D].
        state: [D].
        frame: [D, K], orthonormal columns.
        steps: T.

    Returns:
        log |R_ii| of every step [T, K], the state [D] and the frame [D, K] after the last.
    """
    logs = np.empty((steps, frame.shape[1]))
    for t in range(steps):
        frame, r = np.linalg.qr(jacobian(state) @ frame)
        logs[t] = np.log(np.abs(np.diag(r)))
        state = step(state)
    return logs, state, frame


def tangent_map(step: Callable[[Array], Array], jacobian: Callable[[Array], Array], state: Array, steps: int) -> Array:
    """M = J_{T-1} ... J_0 [D, D], formed."""
    product = np.eye(len(state))
    for _ in range(steps):
        product = jacobian(state) @ product
        state = step(state)
    return product


def log_volume(jacobian: Callable[[Array], Array], states: Array) -> float:
    """Mean of log |det J| over states [T, D]: what all exponents add up to."""
    return float(np.mean([np.linalg.slogdet(jacobian(state))[1] for state in states]))


def runge_kutta_jacobian(
    field: Callable[[Array], Array], derivative: Callable[[Array], Array], state: Array, h: float
) -> Array:
    """d/dz of one classical Runge-Kutta step of z' = field(z), by the chain rule through its four stages [D, D]."""
    identity = np.eye(len(state))
    k1 = field(state)
    d1 = derivative(state)
    k2 = field(state + 0.5 * h * k1)
    d2 = derivative(state + 0.5 * h * k1) @ (identity + 0.5 * h * d1)
    k3 = field(state + 0.5 * h * k2)
    d3 = derivative(state + 0.5 * h * k2) @ (identity + 0.5 * h * d2)
    d4 = derivative(state + h * k3) @ (identity + h * d3)
    result: Array = identity + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return result


def gru_step(weights: dict[str, Array], x: Array, h: Array) -> Array:
    """A GRU cell as torch defines it: x [I], h [H] -> h' [H]; weight_ih [3H, I], weight_hh [3H, H], biases [3H]."""
    _, z, n, _ = _gates(weights, x, h)
    result: Array = (1 - z) * n + z * h
    return result


def gru_jacobian(weights: dict[str, Array], x: Array, h: Array) -> tuple[Array, Array]:
    """(dh'/dx [H, I], dh'/dh [H, H]) of `gru_step`."""
    size = len(h)
    r, z, n, inner = _gates(weights, x, h)
    ih = weights["weight_ih"].reshape(3, size, -1)
    hh = weights["weight_hh"].reshape(3, size, size)
    dr, dz, dn = (r * (1 - r))[:, None], (z * (1 - z))[:, None], (1 - n**2)[:, None]
    by_x = ((1 - z)[:, None] * dn) * (ih[2] + inner[:, None] * dr * ih[0]) + (h - n)[:, None] * dz * ih[1]
    by_h = ((1 - z)[:, None] * dn) * (r[:, None] * hh[2] + inner[:, None] * dr * hh[0])
    by_h = by_h + (h - n)[:, None] * dz * hh[1] + np.diag(z)
    return by_x, by_h


def _gates(weights: dict[str, Array], x: Array, h: Array) -> tuple[Array, Array, Array, Array]:
    """Reset r, update z, candidate n, and the part of the candidate that r multiplies."""
    size = len(h)
    a = (weights["weight_ih"] @ x + weights["bias_ih"]).reshape(3, size)
    b = (weights["weight_hh"] @ h + weights["bias_hh"]).reshape(3, size)
    r, z = 1 / (1 + np.exp(-(a[0] + b[0]))), 1 / (1 + np.exp(-(a[1] + b[1])))
    return r, z, np.tanh(a[2] + r * b[2]), b[2]
