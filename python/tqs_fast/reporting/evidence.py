"""What a report shows, gathered: the plan and its rivals with what the table predicts and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tqs_fast.allocation import Plan, frontier
from tqs_fast.errors import ArgumentError, InfeasibleError
from tqs_fast.scoring import RolloutError, Sensitivity
from tqs_fast.search import SearchResult

THIS_PLAN = "this plan"
KINDS = ("plan", "uniform", "rival", "searched")


@dataclass(frozen=True)
class Point:
    """One plan.

    Attributes:
        name: "this plan", "uniform 4", or the search's name for it.
        kind: "plan" (the one reported), "uniform", "rival" (given to the search) or "searched" (found by it).
        plan: its bits.
        predicted: sum of the table's damages (first order); NaN where the table has not scored its bits, infinite where
            a layer diverged.
        error: measured on the deciding set of the search; None where it was not.
        hurts: families in which the search found it worse than it allows.
    """

    name: str
    kind: str
    plan: Plan
    predicted: float
    error: RolloutError | None = None
    hurts: tuple[str, ...] = ()

    @property
    def measured(self) -> float:
        """Damage on the deciding set; NaN where it was not measured."""
        return math.nan if self.error is None else self.error.damage


@dataclass(frozen=True)
class Evidence:
    """Everything the sections of a report draw from.

    Attributes:
        table, plan, search, evaluations: as given to `Report`.
        points: the plan first, then uniform plans by size, then what the search decided upon; each plan once.
        frontier: plans of least predicted damage, by size; empty where every plan has a layer that diverged.
        history: (predicted, measured) of every plan measured while searching.
    """

    table: Sensitivity
    plan: Plan
    search: SearchResult | None
    evaluations: dict[str, RolloutError]
    points: tuple[Point, ...]
    frontier: tuple[Point, ...]
    history: tuple[tuple[float, float], ...]

    @property
    def this(self) -> Point:
        """The plan that is reported."""
        return self.points[0]

    @property
    def measured(self) -> tuple[Point, ...]:
        """The plans that the search measured on its deciding set."""
        return tuple(point for point in self.points if point.error is not None)

    @property
    def baseline(self) -> Point | None:
        """The largest uniform plan that is not larger than the reported one."""
        fitting = [p for p in self.points if p.kind == "uniform" and p.plan.bytes <= self.plan.bytes]
        return max(fitting, key=lambda point: point.plan.bytes, default=None)


def gather(
    table: Sensitivity, plan: Plan, search: SearchResult | None, evaluations: Mapping[str, RolloutError]
) -> Evidence:
    """Evidence of a report; plan and search are about the layers of the table (`check_layers`)."""
    points = {_choices(plan): Point(THIS_PLAN, "plan", plan, predicted_damage(table, plan))}
    for uniform in _uniform_plans(table):
        bits = next(iter(uniform.bits.values()))
        points.setdefault(
            _choices(uniform), Point(f"uniform {bits}", "uniform", uniform, predicted_damage(table, uniform))
        )
    for candidate in search.candidates if search is not None else ():
        choices = _choices(candidate.plan)
        known = points.get(choices)
        kind = "searched" if candidate.name.startswith("searched") else "rival"
        name, kind = (candidate.name, kind) if known is None else (known.name, known.kind)
        if known is not None and known.kind == "plan":
            name = f"{THIS_PLAN} ({candidate.name})"
        predicted = predicted_damage(table, candidate.plan)
        points[choices] = Point(name, kind, candidate.plan, predicted, candidate.error, candidate.hurts)
    history = tuple((e.predicted, e.measured) for e in search.history) if search is not None else ()
    return Evidence(table, plan, search, dict(evaluations), tuple(points.values()), _frontier(table), history)


def _choices(plan: Plan) -> tuple[object, ...]:
    """What makes two plans of the same layers the same model."""
    return (*plan.bits.values(), *plan.activations)


def predicted_damage(table: Sensitivity, plan: Plan) -> float:
    """Sum of the damages that `table` has for the plan's bits; a layer kept float has none."""
    damages = []
    for i, bits in enumerate(plan.bits.values()):
        if bits is not None and bits not in table.bits:
            return math.nan
        damages.append(0.0 if bits is None else float(table.damage[i, table.bits.index(bits)]))
    return math.fsum(damages) if all(map(math.isfinite, damages)) else math.inf


def check_layers(table: Sensitivity, plan: Plan, name: str) -> None:
    """Raises ArgumentError unless the plan is about the layers of the table, in their order."""
    ours, theirs = ([(layer.name, layer.shape) for layer in layers] for layers in (table.layers, plan.layers))
    if ours != theirs:
        wrong = next((b or a for a, b in zip(ours, theirs, strict=False) if a != b), None)
        got = f"{len(theirs)} layers" if wrong is None else f"{wrong[0]!r} {list(wrong[1])}"
        raise ArgumentError(
            f"[Report] expected the {name} to be about the {len(ours)} layers of the table, in their order, got {got}; "
            "give the table it was made from"
        )


def _uniform_plans(table: Sensitivity) -> list[Plan]:
    plans = [
        Plan({layer.name: bits for layer in table.layers}, table.layers, table.quantizer, method="uniform")
        for bits in table.bits
    ]
    return [plan for plan in plans if math.isfinite(predicted_damage(table, plan))]


def _frontier(table: Sensitivity) -> tuple[Point, ...]:
    try:
        plans = frontier(table)
    except InfeasibleError:
        return ()
    return tuple(Point("frontier", "frontier", plan, plan.predicted_damage) for plan in plans)
