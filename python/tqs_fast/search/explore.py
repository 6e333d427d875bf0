"""The search itself: measure the given plans, then what the model proposes, until nothing is gained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tqs_fast.search.measure import FloatArray, Measured, Measurer
from tqs_fast.search.model import Additive
from tqs_fast.search.propose import Proposer
from tqs_fast.search.space import Bits, Space
from tqs_fast.systems import States

BATCH = 8  # plans between two fits of the model
PATIENCE = 64  # evaluations that gain less than GAIN between them end the search, or a third of all if that is more:
# a long search may pass through flat places that are wider
GAIN = 0.01  # of the best damage


@dataclass
class Trail:
    """Plans measured so far, in order: damage (families count equally) and where each came from."""

    space: Space
    damage: dict[Bits, float]
    origin: dict[Bits, str]
    stopped: str = ""

    def best(self, count: int, without: Collection[Bits]) -> list[Bits]:
        """The `count` plans of least damage that are not in `without`."""
        return sorted((bits for bits in self.damage if bits not in without), key=self._key)[:count]

    def _key(self, bits: Bits) -> tuple[float, float, tuple[int, ...]]:
        return self.damage[bits], self.space.predicted(bits), tuple(b or 32 for b in bits)


def explore(
    space: Space, given: Mapping[str, Bits], measurer: Measurer, evaluations: int, seed: int,
    report: Callable[[int], None],
) -> Trail:  # fmt: skip
    """Measure given plans, then those that the model proposes, until a stop."""
    trail = Trail(space, {}, {})
    generator = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    proposer = Proposer(space)

    def measure(plans: Sequence[Bits], origins: Sequence[str]) -> None:
        fresh = dict(reversed([(b, o) for b, o in zip(plans, origins, strict=True) if b not in trail.damage]))
        before = len(trail.damage)
        chosen = list(reversed(fresh))
        if not chosen:
            return
        results = measurer.measure([space.by_layer(b) for b in chosen], lambda count: report(before + count))
        for bits, damage in zip(chosen, damages_of(results, measurer.states), strict=True):
            trail.damage[bits], trail.origin[bits] = float(damage), fresh[bits]

    measure(list(given.values()), list(given))  # all of them, whatever `evaluations` says: they will be decided upon
    tempered = [bits for bits in dict.fromkeys(proposer.first()) if bits not in trail.damage]
    tempered = tempered[: max(0, evaluations - len(trail.damage))]
    measure(tempered, ["tempered"] * len(tempered))
    gained_at, best, patience = len(trail.damage), min(trail.damage.values()), patience_of(evaluations)
    while len(trail.damage) < evaluations:
        if best == 0:
            trail.stopped = "a plan without damage was found"
            return trail
        model = Additive(space, list(trail.damage), np.array(list(trail.damage.values())))
        count = min(BATCH, evaluations - len(trail.damage))
        batch = proposer.batch(BATCH, trail.damage, model, generator)[:count]
        if not batch:
            trail.stopped = "every plan was measured" if proposer.listed else "no further move was found"
            return trail
        measure(batch, ["proposed"] * len(batch))
        now = min(trail.damage.values())
        if now < (1 - GAIN) * best:
            gained_at, best = len(trail.damage), now
        elif len(trail.damage) - gained_at >= patience:
            trail.stopped = f"{patience} evaluations gained less than {100 * GAIN:.0f} %"
            return trail
    trail.stopped = "evaluations spent"
    return trail


def patience_of(evaluations: int) -> int:
    """Evaluations without gain that end a search of at most `evaluations`."""
    return max(PATIENCE, evaluations // 3)


def damages_of(measured: Measured, states: States) -> FloatArray:
    """Mean over families of the family mean, `[P]`."""
    parts = [measured.samples[:, states.family_of == f].mean(axis=1) for f in range(len(states.families))]
    return np.asarray(np.mean(parts, axis=0))
