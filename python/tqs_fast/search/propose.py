"""Which plans to measure next: the best under a draw of the model, among moves from the best plans so far.

A move raises one or two groups and lowers others, drawn at random, until the budget is kept; what is left over is spent
again. Spaces small enough are listed whole instead, and every plan is a candidate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tqs_fast.allocation.budget import Budget
from tqs_fast.allocation.lagrangian import lagrangian
from tqs_fast.allocation.problem import Choice
from tqs_fast.search.model import Additive
from tqs_fast.search.space import Bits, Space

FloatArray = npt.NDArray[np.float64]
Picks = npt.NDArray[np.int64]

LISTED = 2**14  # plans of a space that is listed whole
ELITES = 4  # plans that moves start from; 8 were no better on three systems
MOVES = 100  # drawn from each
SECOND_RAISE = 0.3  # how often a move raises two groups
TEMPERS = (0.25, 0.5, 0.75, 1.5)  # exponents of the table's damages in the first plans
UNITS = 40  # bits of the integer damages given to the allocator


class Proposer:
    """Makes batches of plans of one space.

    Args:
        space: what may move.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._width = max(map(len, space.menus))
        self._bytes = np.zeros((len(space.menus), self._width), dtype=np.int64)
        self._damage = np.full(self._bytes.shape, np.inf)
        for g, menu in enumerate(space.menus):
            self._bytes[g, : len(menu)] = [space.choice_bytes(g, b) for b in menu]
            self._damage[g, : len(menu)] = [space.choice_damage(g, b) for b in menu]
        self._movable = [g for g, menu in enumerate(space.menus) if len(menu) > 1]
        listed = math.prod(map(len, space.menus)) <= LISTED
        self._listed = self._every() if listed else None

    @property
    def listed(self) -> bool:
        """Whether every plan of the space is a candidate from the start."""
        return self._listed is not None

    def first(self) -> list[Bits]:
        """The knapsack frontier between uniform and bold: the table's damages to several powers, allocated.

        Powers below 1 trust the differences between layers less, powers above 1 more.
        """
        return [self._allocated(np.where(np.isfinite(self._damage), self._damage, np.inf) ** t) for t in TEMPERS]

    def batch(
        self, count: int, measured: dict[Bits, float], model: Additive, generator: np.random.Generator
    ) -> list[Bits]:
        """At most `count` plans that have not been measured; none when there are none left or none was found."""
        pool = self._pool(measured, model, generator)
        picks = self._picks(pool)
        free = np.ones(len(pool), dtype=bool)
        place = {bits: i for i, bits in enumerate(pool)}
        chosen: list[Bits] = []
        for number in range(count):
            theta = model.draw(generator)
            # One of a batch is the best of the whole space under its draw, not of the moves alone.
            bits = None if self._listed is not None or number else self._allocated(theta)
            if bits is None or bits in measured:
                if not free.any():
                    break
                bits = pool[int(np.argmin(np.where(free, _sums(theta, picks), np.inf)))]
            if bits in place:
                free[place[bits]] = False
            chosen.append(bits)
        return chosen

    def _pool(self, measured: dict[Bits, float], model: Additive, generator: np.random.Generator) -> list[Bits]:
        if self._listed is not None:
            return [bits for bits in self._listed if bits not in measured]
        movable = [bits for bits in measured if self._is_movable(bits)]
        elites = sorted(movable, key=lambda bits: (measured[bits], self._space.predicted(bits), _order(bits)))[:ELITES]
        found: dict[Bits, None] = {}
        for elite in elites:
            for number in range(MOVES):
                moved = self._moved(elite, (self._damage, model.mean)[number % 2], generator)
                if moved is not None and moved not in measured:
                    found[moved] = None
        return list(found)

    def _moved(self, bits: Bits, damage: FloatArray, generator: np.random.Generator) -> Bits | None:
        """A random move from `bits`, filled up in the order of `damage`; None where it finds no way back."""
        picks = self._picks([bits])[0]
        used = int(self._cost(picks))
        raised: set[int] = set()
        for _ in range(1 + int(generator.random() < SECOND_RAISE)):
            used += self._step(picks, generator, raised, up=True)
        while used > self._space.limit:
            freed = self._step(picks, generator, raised, up=False)
            if not freed:
                return None
            used += freed
        return self._bits(self._filled(picks, used, damage))

    def _step(self, picks: Picks, generator: np.random.Generator, raised: set[int], *, up: bool) -> int:
        """Raise a random group, or lower one that was not raised, in place; the bytes it adds, 0 if there is none."""
        sign = 1 if up else -1
        steps = [
            (g, k)
            for g in self._movable
            if g not in raised
            for k in range(len(self._space.menus[g]))
            if sign * (self._bytes[g, k] - self._bytes[g, picks[g]]) > 0
        ]
        if not steps:
            return 0
        group, pick = steps[int(generator.integers(len(steps)))]
        change = int(self._bytes[group, pick] - self._bytes[group, picks[group]])
        picks[group] = pick
        if up:
            raised.add(group)
        return change

    def _filled(self, picks: Picks, used: int, damage: FloatArray) -> Picks:
        """Spend what is left: the raise that lowers `damage` most and fits, until there is none."""
        groups = np.arange(len(picks))
        while True:
            extra = self._bytes - self._bytes[groups, picks][:, None]
            with np.errstate(invalid="ignore"):  # inf - inf past the end of a menu
                gain = damage[groups, picks][:, None] - damage
            fits = (extra > 0) & (extra <= self._space.limit - used) & (gain > 0)
            if not fits.any():
                return picks
            group, pick = divmod(int(np.argmax(np.where(fits, gain, -np.inf))), self._width)
            used += int(extra[group, pick])
            picks[group] = pick

    def _allocated(self, damage: FloatArray) -> Bits:
        """The Lagrangian plan for other damages `[G, K]` than the table's."""
        problem = self._space.problem
        top = max(float(np.max(damage, where=np.isfinite(damage), initial=0.0)), np.finfo(np.float64).tiny)
        groups = []
        for g, group in enumerate(problem.groups):
            choices = [
                Choice(choice.bits, choice.bytes, int(max(float(damage[g, k]), 0.0) / top * 2**UNITS))
                for k, choice in enumerate(group.choices)
            ]
            groups.append(replace(group, choices=tuple(choices)))
        allocation = lagrangian(
            replace(problem, groups=tuple(groups), exponent=UNITS), Budget("bytes", self._space.limit)
        )
        return tuple(choice.bits for choice in allocation.choices)

    def _every(self) -> list[Bits]:
        """All plans of the space within the budget."""
        return [bits for bits in itertools.product(*self._space.menus) if self._space.bytes(bits) <= self._space.limit]

    def _is_movable(self, bits: Bits) -> bool:
        return all(b in menu for b, menu in zip(bits, self._space.menus, strict=True))

    def _picks(self, plans: Sequence[Bits]) -> Picks:
        """`[P, G]`, places in the menus."""
        menus = self._space.menus
        picks = [[menu.index(b) for b, menu in zip(bits, menus, strict=True)] for bits in plans]
        return np.array(picks, dtype=np.int64).reshape(len(plans), len(menus))

    def _bits(self, picks: Picks) -> Bits:
        return tuple(menu[int(k)] for k, menu in zip(picks, self._space.menus, strict=True))

    def _cost(self, picks: Picks) -> np.int64:
        return np.int64(self._bytes[np.arange(len(picks)), picks].sum())


def _sums(theta: FloatArray, picks: Picks) -> FloatArray:
    return np.asarray(theta[np.arange(theta.shape[0]), picks].sum(axis=1))


def _order(bits: Collection[int | None]) -> tuple[int, ...]:
    return tuple(b or 32 for b in bits)
