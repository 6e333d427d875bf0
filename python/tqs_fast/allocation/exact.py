"""The exact pass of the knapsack: every pick vector that could still be best, enumerated as non-dominated partial sums.

With multiplier λ = p/q of the linear relaxation and reduced cost r(i, j) = q·value + p·cost - min_j(...) >= 0, every
feasible pick vector has

    q · Σ value = L + Σ r + p · (limit - Σ cost),     L = Σ_i min_j(...) - p · limit

(textbook Lagrangian bound). So whatever beats or equals an incumbent of value U has Σ r + p · slack <= q·U - L. That
leaves few options in few rows, and few partial sums over them. All numbers are integers: nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tqs_fast.allocation.multiple_choice import MultipleChoice

# Partial sums visited before giving up, a few seconds. Problems of hundreds of layers need thousands; only sizes and
# damages that are all but proportional come near.
MOST_PARTIAL_SUMS = 1_000_000


@dataclass(frozen=True)
class Core:
    """What an incumbent leaves open.

    Attributes:
        options: for each row the indices that may still appear in a best pick vector; never empty.
        reduced: reduced costs of those options, times q.
        p, q: the multiplier is p / q.
        gap: q·U - L >= 0; zero proves the incumbent's value optimal.
    """

    options: tuple[tuple[int, ...], ...]
    reduced: tuple[tuple[int, ...], ...]
    p: int
    q: int
    gap: int


def core_of(instance: MultipleChoice, multiplier: Fraction, incumbent: Sequence[int]) -> Core:
    """Drop every option whose reduced cost alone exceeds the gap between the incumbent and the relaxation."""
    p, q = multiplier.numerator, multiplier.denominator
    priced = [[q * option.value + p * option.cost for option in row] for row in instance.rows]
    floor = [min(row) for row in priced]
    gap = q * instance.value(incumbent) - (sum(floor) - p * instance.limit)
    options = tuple(
        tuple(j for j, price in enumerate(row) if price - least <= gap)
        for row, least in zip(priced, floor, strict=True)
    )
    reduced = tuple(
        tuple(row[j] - least for j in kept) for row, least, kept in zip(priced, floor, options, strict=True)
    )
    return Core(options, reduced, p, q, gap)


@dataclass(frozen=True)
class _Partial:
    """Picks in the rows so far. `rank` orders equal sums: lexicographically fewer bits first."""

    cost: int
    value: int
    reduced: int
    rank: int
    picks: tuple[_Partial, int] | None


def exact_best(instance: MultipleChoice, core: Core) -> list[int] | None:
    """The best picks of the core: least value, then least cost, then lexicographically fewest bits in row order.

    Returns:
        One option index for each row, or None when more than `MOST_PARTIAL_SUMS` would have to be visited.
    """
    open_rows = [i for i, kept in enumerate(core.options) if len(kept) > 1]
    picks = [kept[0] for kept in core.options]
    # What the closed rows leave.
    limit = instance.limit - instance.cost(picks) + sum(instance.rows[i][picks[i]].cost for i in open_rows)
    bounds = _cost_after(instance, core, open_rows)
    partials = [_Partial(0, 0, 0, 0, None)]
    visited = 0
    for index, (least_after, most_after) in zip(open_rows, bounds, strict=True):
        row = instance.rows[index]
        visited += len(partials) * len(core.options[index])
        if visited > MOST_PARTIAL_SUMS:
            return None
        grown = []
        for partial in partials:
            for j, extra in zip(core.options[index], core.reduced[index], strict=True):
                cost, total = partial.cost + row[j].cost, partial.reduced + extra
                slack = max(0, limit - cost - most_after)
                if cost + least_after <= limit and total + core.p * slack <= core.gap:
                    key = (cost, partial.value + row[j].value, partial.rank, row[j].bits)
                    grown.append((key, total, partial, j))
        # The incumbent's own picks pass every test, so there is always a partial left.
        grown.sort(key=lambda item: item[0])
        partials = _ranked(grown)
    best = min(partials, key=lambda partial: (partial.value, partial.cost, partial.rank))
    for index in reversed(open_rows):
        assert best.picks is not None
        best, picks[index] = best.picks
    return picks


_Grown = tuple[tuple[int, int, int, int], int, _Partial, int]


def _ranked(grown: list[_Grown]) -> list[_Partial]:
    """The partials that no other dominates, from candidates sorted by (cost, value, rank, bits)."""
    kept: list[_Grown] = []
    for item in grown:
        if not kept or item[0][1] < kept[-1][0][1]:
            kept.append(item)
    order = sorted(range(len(kept)), key=lambda k: kept[k][0][2:])
    rank = {k: position for position, k in enumerate(order)}
    return [_Partial(key[0], key[1], reduced, rank[k], (parent, j)) for k, (key, reduced, parent, j) in enumerate(kept)]


def _cost_after(instance: MultipleChoice, core: Core, open_rows: Sequence[int]) -> list[tuple[int, int]]:
    """For each open row, least and most cost of the core's options in all open rows after it."""
    least, most = 0, 0
    bounds: list[tuple[int, int]] = []
    for index in reversed(open_rows):
        bounds.append((least, most))
        costs = [instance.rows[index][j].cost for j in core.options[index]]
        least, most = least + min(costs), most + max(costs)
    return bounds[::-1]
