"""The methods that are compared: a row here is one more of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tqs_fast as tqs
from evaluate.subject import Subject

BITS = (2, 3, 4, 8)
QUANTIZER = tqs.Quantizer()


@dataclass(frozen=True)
class Scored:
    """A table of sensitivities and the exact knapsack over it.

    Attributes:
        name: in tables.
        make: the scorer, with the settings that it is compared at.
        rival: whether it is what people use today, rather than a trajectory score.
    """

    name: str
    make: Callable[[], Any]
    rival: bool = False


@dataclass(frozen=True)
class Fixed:
    """Bits that need no table.

    Attributes:
        choose: from any table (for its layers and their sizes) and a number of bytes.
    """

    name: str
    choose: Callable[[tqs.Sensitivity, int], tqs.Plan]
    rival: bool = False


@dataclass(frozen=True)
class Searched:
    """Whole plans measured by rollout, beginning with the plan of another method.

    The plans of all methods before it in the table compete to the end, uniform ones among them: the result is never
    worse than any of them on the conditions that decide, which are neither scoring's nor the judges'.

    Attributes:
        start: whose table and plan the search begins with.
        evaluations: plans that are measured.
    """

    name: str
    start: str
    evaluations: int = 400
    rival: bool = False


Method = Scored | Fixed | Searched


def uniform(table: tqs.Sensitivity, size: int) -> tqs.Plan:
    """The largest uniform plan within `size` bytes."""
    return tqs.allocate(table, bytes=size, method="uniform")


def uniform_filled(table: tqs.Sensitivity, size: int) -> tqs.Plan:
    """The largest uniform plan, and the bytes that it leaves spent on layers in the order of the network: each gets the
    next wider choice of the menu if that still fits.
    """
    plan = uniform(table, size)
    bits = dict(plan.bits)
    left = size - plan.bytes
    for layer in table.layers:
        now = bits[layer.name]
        wider = [choice for choice in table.bits if now is not None and choice > now]
        if not wider:
            continue
        cost = table.quantizer.bytes(layer.shape, wider[0]) - table.quantizer.bytes(layer.shape, now)
        if cost <= left:
            bits[layer.name], left = wider[0], left - cost
    return tqs.Plan(bits, table.layers, table.quantizer, method="uniform, filled in order", budget={"bytes": size})


SETTINGS: dict[str, Any] = {"bits": BITS, "quantizer": QUANTIZER}  # of every scorer
# A search comes after every method whose plan it is to beat.
METHODS: tuple[Method, ...] = (
    Fixed("uniform", uniform),
    Fixed("uniform-filled", uniform_filled),
    Scored("weight-error", lambda: tqs.WeightError(**SETTINGS), rival=True),
    Scored("weight-error-absolute", lambda: tqs.WeightError(relative=False, **SETTINGS), rival=True),
    Scored("hessian-trace", lambda: tqs.HessianTrace(**SETTINGS), rival=True),
    Scored("output-divergence", lambda: tqs.OutputDivergence(**SETTINGS), rival=True),
    Scored("gradient-change", lambda: tqs.GradientChange(**SETTINGS), rival=True),
    Scored("gradient-change-float", lambda: tqs.GradientChange(target="float", **SETTINGS), rival=True),
    Scored("noise", lambda: tqs.Noise(**SETTINGS)),
    Scored("tangent", lambda: tqs.Tangent(**SETTINGS)),
    Scored("adjoint", lambda: tqs.Adjoint(**SETTINGS)),
    Scored("residual", lambda: tqs.Residual(**SETTINGS)),
    Searched("residual + search", start="residual"),
)
BASE = "residual"  # whose table tells layers and sizes to methods without one


def scored(method: Scored, subject: Subject, *, horizon: int, seed: int) -> tqs.Sensitivity:
    """The table of `method`: the same initial conditions for every method of a seed."""
    return tqs.score(subject.system, horizon=horizon, method=method.make(), initial=list(subject.scored_on), seed=seed)


def searched(
    method: Searched,
    subject: Subject,
    table: tqs.Sensitivity,
    plan: tqs.Plan,
    rivals: Mapping[str, tqs.Plan],
    *,
    seed: int,
) -> tqs.SearchResult:
    """The search of `method` from `plan`, on self-generated initial conditions like scoring's, of other seeds."""
    return tqs.search(
        subject.system,
        table,
        plan,
        evaluations=method.evaluations,
        initial=list(subject.scored_on),
        rivals=rivals,
        seed=seed,
    )
