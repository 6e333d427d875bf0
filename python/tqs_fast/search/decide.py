"""Which plan is kept: judged on conditions the search never saw, and never one that does harm there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from tqs_fast.scoring.evaluate import RolloutError
from tqs_fast.search.result import Candidate

HARM = 1.1  # times the incumbent's damage in a family: more is harm there, whatever other families gain


def decide(candidates: Sequence[Candidate], given: Collection[str]) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The candidate to keep, and all candidates with the families they hurt.

    The incumbent is the given plan (start, uniform, rivals) of least damage on the deciding set. A plan that the search
    found replaces it only if

    - the 95 % interval of its damage over the incumbent's, conditions paired, lies below 1: among a few plans the best
      of two hundred, some look better by chance;
    - in no family its damage exceeds `HARM` times the incumbent's.

    Of those that do, the one of least damage is kept; of equal ones the first.
    """
    incumbent = min((c for c in candidates if c.name in given), key=lambda c: c.error.damage)
    judged = tuple(replace(c, hurts=_hurts(c.error, incumbent.error)) for c in candidates)
    better = [
        c
        for c in judged
        if c.name not in given
        and not c.hurts
        and c.error.damage < incumbent.error.damage
        and (c.error.ratio(incumbent.error)[2] < 1 or incumbent.error.damage == float("inf"))
    ]
    if better:
        return min(better, key=lambda c: c.error.damage), judged
    return next(c for c in judged if c.name == incumbent.name), judged


def _hurts(error: RolloutError, incumbent: RolloutError) -> tuple[str, ...]:
    ours, theirs = error.damage_of_family, incumbent.damage_of_family
    return tuple(name for name in error.families if ours[name] > HARM * theirs[name])
