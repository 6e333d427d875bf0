"""Finite-time exponents: singular values of the tangent map over the horizon, per initial condition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tqs_fast._files import encode_array
from tqs_fast._progress import Report
from tqs_fast.growth.linearisation import Linearisation
from tqs_fast.growth.products import Products
from tqs_fast.growth.rates import GrowthRates, Outcome
from tqs_fast.growth.singular import SingularValues, singular_values
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import States, System


def finite_time(
    system: System,
    states: States,
    multiplier: Products,
    *,
    directions: int,
    horizon: int,
    method: str,
    iterations: int,
    tolerance: float,
    epsilon: float,
    generator: torch.Generator,
    provenance: dict[str, Any],
    report: Report,
) -> GrowthRates:
    """(1/T) log σ_i(M_T) of `directions` leading singular values; arguments as in `growth_rates`."""
    operator = Linearisation(system, multiplier, states.state, states.inputs, steps=horizon)
    vector = StateVector(states.state)
    alive = operator.samples.numpy()
    samples = np.full((states.count, directions), np.nan)
    frame = torch.full((states.count, vector.size, directions), torch.nan, dtype=torch.float64)
    residuals = np.full((states.count, directions), np.nan)
    found: SingularValues | None = None
    if len(alive):
        found = singular_values(
            operator,
            samples=len(alive),
            size=vector.size,
            count=directions,
            krylov=method == "krylov",
            tolerance=tolerance,
            # every step of both products rounds, relative to the size of what passes through it
            rounding=8 * horizon * epsilon,
            iterations=iterations,
            generator=generator,
            report=lambda done: report(done, iterations),
        )
        logs = found.values.log() + operator.log_scale[:, None]
        samples[alive] = logs.numpy() / horizon
        frame[operator.samples] = found.right
        with np.errstate(invalid="ignore", divide="ignore"):
            residuals[alive] = found.residuals.numpy() / found.values.numpy()
    with np.errstate(invalid="ignore"):
        kept = samples[alive]
        exponents = kept.mean(axis=0) if len(alive) else samples[0]
        spread = kept.std(axis=0, ddof=1) / np.sqrt(len(alive)) if len(alive) > 1 else np.full(directions, np.nan)
    return GrowthRates(
        exponents=exponents,
        stderr=spread,
        samples=samples,
        method=method,
        outcome=_outcome(operator, found),
        size=vector.size,
        horizon=horizon,
        directions=vector.tree(frame),
        diagnostics={
            "iterations": 0 if found is None else found.iterations,
            "products": operator.products,
            "tolerance": tolerance,
            "residual": encode_array(residuals),
            "diverged_at": encode_array(operator.diverged),
        },
        provenance={**provenance, "engine": {**provenance["engine"], **multiplier.how}},
    )


def _outcome(operator: Linearisation, found: SingularValues | None) -> Outcome:
    if found is None or bool((operator.diverged >= 0).any()):
        return Outcome.DIVERGED
    if bool((found.values == 0).any()):
        return Outcome.COLLAPSED
    if bool(found.limited.any()):
        return Outcome.ILL_CONDITIONED
    return Outcome.CONVERGED if bool(found.converged.all()) else Outcome.NOT_CONVERGED
