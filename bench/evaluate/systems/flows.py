"""Chaotic flows of the dysts collection (Gilpin, NeurIPS 2021), sampled, in units of their own mean and spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench_growth import dysts

Array = np.ndarray[Any, np.dtype[np.float64]]
TRANSIENT = 40.0  # time units dropped: many contraction times of each of these flows
SCALED_ON = 64  # trajectories that mean and spread are taken from, from a seed that nothing else uses
SCALING_SEED = 977


@dataclass(frozen=True)
class Flow:
    """A flow and how it is sampled.

    Attributes:
        name: of its class in dysts.
        step: time units per sample.
        substeps: classical Runge-Kutta steps per sample.
        lyapunov: largest exponent, natural log per time unit.
        dimension: of the state, where it is not the collection's own (Lorenz-96 takes any).
        constants: that replace the collection's.

    The exponents that dysts lists are estimates from short runs (0.15 for Rössler). Lorenz and Rössler are from Sprott,
    Chaos and Time-Series Analysis, 2003; the others were measured with `tqs.growth_rates` on the Runge-Kutta map
    (16 trajectories of 400 time units and more, standard errors near 0.01).
    """

    name: str
    step: float
    substeps: int
    lyapunov: float
    dimension: int | None = None
    constants: dict[str, float] = field(default_factory=dict)

    def trajectories(self, count: int, samples: int, *, seed: int) -> Array:
        """`[count, samples, D]` on the attractor, standardised, from random starts near the collection's own."""
        mean, spread = scaling(self.name)
        return (self._sample(count, samples, seed) - mean) / spread

    def _sample(self, count: int, samples: int, seed: int) -> Array:
        slope, begin = self._slope()
        noise = np.random.default_rng(seed).standard_normal((len(begin), count))
        state = begin[:, None] + 0.1 * (1 + np.abs(begin[:, None])) * noise
        h = self.step / self.substeps
        for _ in range(round(TRANSIENT / h)):
            state = runge_kutta(slope, state, h)
        path = np.empty((samples, *state.shape))
        for t in range(samples):
            path[t] = state
            for _ in range(self.substeps):
                state = runge_kutta(slope, state, h)
        return path.transpose(2, 0, 1)

    def _slope(self) -> tuple[Callable[[Array], Array], Array]:
        """The right-hand side on `[D, count]`, and where the collection starts."""
        found = dysts()
        if found is None:
            raise ModuleNotFoundError(
                "[Flow] dysts is not installed: pip install --no-deps -r bench/evaluate/requirements.txt"
            )
        module, table = found
        entry, flow = table[self.name], getattr(module, self.name)
        constants = entry["parameters"] | self.constants
        begin = np.array(entry["initial_conditions"])
        if self.dimension is not None:  # a state that is written as one vector
            holder = SimpleNamespace(**constants)
            rest = np.full(self.dimension, constants["f"])
            return lambda state: flow.rhs(holder, state, 0.0), rest
        return lambda state: np.stack(flow._rhs(*state, 0.0, **constants)), begin


FLOWS = {
    flow.name: flow
    for flow in (
        Flow("Lorenz", 0.02, 4, 0.906, constants={"beta": 8 / 3}),
        Flow("Rossler", 0.25, 12, 0.0714),
        Flow("Halvorsen", 0.02, 4, 0.688),
        Flow("Lorenz96", 0.02, 4, 0.965, dimension=6, constants={"f": 8.0}),
    )
}


@cache
def scaling(name: str) -> tuple[Array, Array]:
    """Mean and standard deviation of each coordinate over the attractor, `[D]`."""
    path = FLOWS[name]._sample(SCALED_ON, 1000, SCALING_SEED)
    return path.mean(axis=(0, 1)), path.std(axis=(0, 1))


def runge_kutta(slope: Callable[[Array], Array], state: Array, h: float) -> Array:
    """One classical fourth-order step."""
    k1 = slope(state)
    k2 = slope(state + 0.5 * h * k1)
    k3 = slope(state + 0.5 * h * k2)
    k4 = slope(state + h * k3)
    return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
