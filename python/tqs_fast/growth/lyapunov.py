"""Lyapunov exponents of a system: transient, orthonormalisation interval, averages, and how it ended."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tqs_fast._files import encode_array
from tqs_fast._progress import Report
from tqs_fast.growth.rates import GrowthRates, Outcome
from tqs_fast.growth.statistics import BLOCKS, Estimate, estimate
from tqs_fast.growth.stretching import Stretcher, Stretching, pick_samples
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import States, System
from tqs_fast.systems.system import advance
from tqs_fast.systems.tree import tree_leaves, tree_map

MAX_INTERVAL = 64


def lyapunov(
    system: System,
    states: States,
    engine: Stretcher,
    *,
    directions: int,
    transient: int,
    horizon: int,
    interval: int | None,
    epsilon: float,
    generator: torch.Generator,
    provenance: dict[str, Any],
    report: Report,
) -> GrowthRates:
    """Exponents of `directions` directions from all `states`; arguments as in `growth_rates`.

    Args:
        engine: pushes the frames.
        epsilon: of the precision of the rollout.
        generator: of the frame that it starts from.
    """
    vector = StateVector(states.state)
    start = torch.randn(states.count, vector.size, directions, generator=generator, dtype=torch.float64)
    frame = torch.linalg.qr(start)[0]
    state, chosen = states.state, interval or 1
    alive = np.arange(states.count)
    runs = []
    report(0, transient + horizon)
    if transient:
        warm = engine.run(
            state,
            states.inputs,
            frame,
            first=0,
            steps=transient,
            interval=chosen,
            blocks=1,
            report=lambda done: report(done, transient + horizon),
        )
        runs.append(warm)
        alive = np.flatnonzero(warm.alive)
        state, frame = pick_samples(warm.state, alive), warm.frame[alive]
        if interval is None and len(alive):
            chosen = choose_interval(float(warm.condition[alive].max()), horizon, epsilon)
    if len(alive):
        main = engine.run(
            state,
            pick_samples(states.inputs, alive),
            frame,
            first=transient,
            steps=horizon,
            interval=chosen,
            blocks=BLOCKS,
            report=lambda done: report(transient + done, transient + horizon),
        )
        main = _spread(main, alive, states)
        runs.append(main)
    else:
        main = replace(runs[0], logs=np.full_like(runs[0].logs, np.nan))
    found = estimate(main)
    condition = main.condition  # that of the transient cannot touch the rates: any frame is as good to start from
    diverged = np.max([run.diverged for run in runs], axis=0)
    resting = _resting(system, main) if system.inputs is None else []
    limit = epsilon**-0.5
    outcome = _outcome(found, diverged, condition[diverged < 0], resting, limit)
    order = np.argsort(-found.exponents, kind="stable")  # nan last
    frame = main.frame[:, :, order.copy()]
    return GrowthRates(
        exponents=found.exponents[order],
        stderr=found.stderr[order],
        samples=found.samples[:, order],
        method="qr",
        outcome=outcome,
        size=vector.size,
        horizon=horizon,
        directions=vector.tree(frame),
        diagnostics={
            "interval": chosen,
            "blocks": len(main.steps),
            "condition": encode_array(condition),
            "condition_limit": limit,
            "drift": encode_array(found.drift[order]),
            "diverged_at": encode_array(diverged),
            "resting": resting,
        },
        provenance={**provenance, "engine": {**provenance["engine"], "tangents": engine.how}},
    )


def choose_interval(condition: float, horizon: int, epsilon: float) -> int:
    """Steps between orthonormalisations for which the condition stays below epsilon^(-1/4).

    Args:
        condition: the largest that a single step was seen to give; over n steps it grows to about its n-th power.
        horizon: its blocks need an interval each.
        engine: pushes the frames.
        epsilon: of the precision of the rollout.
    """
    longest = max(1, min(MAX_INTERVAL, horizon // BLOCKS))
    if not math.isfinite(condition):
        return 1
    return max(1, min(longest, int(-0.25 * math.log(epsilon) / max(math.log(condition), 1e-9))))


def _spread(run: Stretching, alive: np.ndarray[Any, np.dtype[np.int64]], states: States) -> Stretching:
    """A run of the samples `alive` as one of all, the others failed."""
    blocks, _, directions = run.logs.shape
    count = states.count
    logs = np.full((blocks, count, directions), np.nan)
    condition, diverged = np.ones(count), np.full(count, -1, dtype=np.int64)
    logs[:, alive], condition[alive], diverged[alive] = run.logs, run.condition, run.diverged
    frame = torch.full((count, *run.frame.shape[1:]), torch.nan, dtype=torch.float64)
    frame[alive] = run.frame
    leaves = iter(tree_leaves(run.state))

    def put(leaf: torch.Tensor) -> torch.Tensor:
        whole = leaf.clone()
        whole[alive] = next(leaves)
        return whole

    return Stretching(logs, run.steps, condition, diverged, tree_map(put, states.state), frame)


def _resting(system: System, run: Stretching) -> list[int]:
    """Samples whose state no further step changes, bit for bit."""
    alive = np.flatnonzero(run.alive)
    if len(alive) == 0:
        return []
    before = pick_samples(run.state, alive)
    after, _ = advance(system, before, None)
    pairs = zip(tree_leaves(before), tree_leaves(after), strict=True)
    same = torch.stack([(a == b).flatten(1).all(dim=1) for a, b in pairs if a.is_floating_point()]).all(dim=0)
    return [int(index) for index in alive[same.cpu().numpy()]]


def _outcome(
    found: Estimate,
    diverged: np.ndarray[Any, np.dtype[np.int64]],
    condition: np.ndarray[Any, np.dtype[np.float64]],
    resting: list[int],
    limit: float,
) -> Outcome:
    if bool((diverged >= 0).any()):
        return Outcome.DIVERGED
    if bool(np.isneginf(found.exponents).any()):
        return Outcome.COLLAPSED
    if bool((condition > limit).any()):
        return Outcome.ILL_CONDITIONED
    if resting:
        return Outcome.RESTING
    return Outcome.NOT_CONVERGED if bool(found.drifting.any()) else Outcome.CONVERGED
