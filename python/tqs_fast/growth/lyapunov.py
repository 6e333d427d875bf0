"""Lyapunov exponents of a system: transient, orthonormalisation interval, averages, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tqs_fast._files import encode_array
from tqs_fast._progress import Report
from tqs_fast.growth.rates import GrowthRates, Outcome
from tqs_fast.growth.statistics import BLOCKS, Estimate, estimate
from tqs_fast.growth.stretching import Done, FloatArray, IntArray, Stretcher, Stretching, pick_samples
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import States, System
from tqs_fast.systems.system import advance
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

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
    total = transient + horizon
    report(0, total)
    begin = _align(
        engine,
        states,
        torch.linalg.qr(start)[0],
        transient=transient,
        horizon=horizon,
        interval=interval,
        epsilon=epsilon,
        report=lambda done: report(done, total),
    )
    if len(begin.alive):
        main = engine.run(
            begin.state,
            pick_samples(states.inputs, begin.alive),
            begin.frame,
            first=transient,
            steps=horizon,
            interval=begin.interval,
            blocks=BLOCKS,
            report=lambda done: report(transient + done, total),
        )
    else:
        nothing = np.full((1, 0, directions), np.nan)
        main = Stretching(nothing, np.array([horizon]), np.ones(0), np.zeros(0, int), begin.state, begin.frame)
    main = _spread(main, begin, states)
    found = estimate(main)
    resting = _resting(system, main) if system.inputs is None else []
    limit = epsilon**-0.5
    outcome = _outcome(found, main, resting, limit)
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
            "interval": begin.interval,
            "blocks": len(main.steps),
            "condition": encode_array(main.condition),
            "condition_limit": limit,
            "drift": encode_array(found.drift[order]),
            "diverged_at": encode_array(main.diverged),
            "resting": resting,
        },
        provenance={**provenance, "engine": {**provenance["engine"], "tangents": engine.how}},
    )


@dataclass(frozen=True, eq=False)
class _Aligned:
    """What the transient leaves.

    Attributes:
        state, frame: of the A samples that did not fail, tree of `[A, ...]` and `[A, D, K]`.
        alive: their indices, `[A]`.
        diverged, condition: as in `Stretching`, `[N]`; the condition counts for those that failed only.
        interval: steps between orthonormalisations from here on.
    """

    state: Tree
    frame: torch.Tensor
    alive: IntArray
    diverged: IntArray
    condition: FloatArray
    interval: int


def _align(
    engine: Stretcher,
    states: States,
    frame: torch.Tensor,
    *,
    transient: int,
    horizon: int,
    interval: int | None,
    epsilon: float,
    report: Done,
) -> _Aligned:
    """Push the frames through the transient, and choose the interval on the way unless it is given.

    Half of the transient at an interval of 1 gives a first guess, the other half tries it out.
    """
    stages = (transient,) if interval is not None else (transient // 2, transient - transient // 2)
    chosen, first = interval or 1, 0
    state: Tree = states.state
    alive = np.arange(states.count)
    diverged, condition = np.full(states.count, -1, dtype=np.int64), np.ones(states.count)
    for number, steps in enumerate(stages):
        if steps == 0 or len(alive) == 0:
            continue
        run = engine.run(
            state,
            pick_samples(states.inputs, alive),
            frame,
            first=first,
            steps=steps,
            interval=chosen,
            blocks=1,
            report=_after(first, report),
        )
        first += steps
        kept = np.flatnonzero(run.alive)
        failed = np.flatnonzero(~run.alive)
        diverged[alive[failed]], condition[alive[failed]] = run.diverged[failed], run.condition[failed]
        state, frame, alive = pick_samples(run.state, kept), run.frame[kept], alive[kept]
        if interval is None and len(kept):
            longest = max(1, min(MAX_INTERVAL, horizon // BLOCKS)) if number == 0 else chosen
            chosen = choose_interval(float(run.condition[kept].max()), chosen, longest, epsilon)
    return _Aligned(state, frame, alive, diverged, condition, chosen)


def _after(first: int, report: Done) -> Done:
    return lambda done: report(first + done)


def choose_interval(condition: float, taken: int, longest: int, epsilon: float) -> int:
    """Steps between orthonormalisations for which the condition stays below epsilon^(-1/4).

    Args:
        condition: the largest seen after `taken` steps; its logarithm grows about as their number.
        longest: upper limit.
        epsilon: of the precision of the rollout.
    """
    if not math.isfinite(condition):
        return 1
    return max(1, min(longest, int(-0.25 * math.log(epsilon) * taken / max(math.log(condition), 1e-9))))


def _spread(run: Stretching, begin: _Aligned, states: States) -> Stretching:
    """A run of the samples that came through the transient as one of all, the others failed."""
    blocks, _, directions = run.logs.shape
    count, alive = states.count, begin.alive
    logs = np.full((blocks, count, directions), np.nan)
    condition, diverged = begin.condition.copy(), begin.diverged.copy()
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


def _outcome(found: Estimate, run: Stretching, resting: list[int], limit: float) -> Outcome:
    if bool((run.diverged >= 0).any()):
        return Outcome.DIVERGED
    if bool(np.isneginf(found.exponents).any()):
        return Outcome.COLLAPSED
    if bool((run.condition > limit).any()):
        return Outcome.ILL_CONDITIONED
    if resting:
        return Outcome.RESTING
    return Outcome.NOT_CONVERGED if bool(found.drifting.any()) else Outcome.CONVERGED
