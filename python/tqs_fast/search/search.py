"""Search for a plan by rolling plans out: the first-order plan is where it starts, measured damage is what counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tqs_fast._files import encode_array
from tqs_fast._progress import Report, tracking
from tqs_fast.allocation.plan import Plan
from tqs_fast.allocation.problem import layer_damage
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.evaluate import RolloutError
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.scoring.sensitivity import Sensitivity
from tqs_fast.search.conditions import draw_conditions
from tqs_fast.search.decide import decide
from tqs_fast.search.explore import explore
from tqs_fast.search.measure import Measured, Measurer, RoundedWeights
from tqs_fast.search.result import Candidate, Evaluation, SearchResult
from tqs_fast.search.space import Bits, Space, build_space
from tqs_fast.systems import InitialConditions, States, System

FINALISTS = 8  # found plans of least damage that go to the deciding set


def search(
    system: System,
    table: Sensitivity,
    plan: Plan,
    *,
    evaluations: int = 200,
    horizon: int | None = None,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    rivals: Sequence[Plan] | Mapping[str, Plan] = (),
    engine: str = "auto",
    seed: int = 0,
    memory_limit: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Report = False,
) -> SearchResult:
    """Look for a plan of less measured damage than `plan`, of no more bytes.

    Whole plans are rolled out together. An additive model of their damages, refitted after every 8 plans, picks the
    next ones. The best 8 and all given plans are then measured on a second set of initial conditions, which decides:
    the result is `plan`, a uniform plan or a rival unless a found plan is better there by more than chance and hurts no
    family (`search.decide`). It is never worse on the deciding set than any of the given plans.

    The search stops early when 64 evaluations, or a third of `evaluations` if that is more, have lowered the least
    damage by less than 1 %, or when every plan has been measured. Deciding takes further rollouts, of at most 8 plans
    and the given ones.

    Args:
        system: the float model; its module is not modified.
        table: scores of `system`, of the same layers as `plan`.
        plan: where to start. Its tied and frozen layers stay so; its budget (`allocate`'s, or its bytes) is kept.
        evaluations: plans to measure while searching, given ones among them.
        horizon: output values per rollout; that of the table by default.
        initial: where rollouts start; families as the table's by default. `Contexts` are split in two, one half to
            search on and one to decide on; of other families eight times as many are drawn to decide on.
        rivals: further plans within the budget, e.g. of other scores; always measured and decided upon. A mapping gives
            them names.
        engine: as in `score`.
        seed: of initial conditions and proposals.
        memory_limit: bytes that the lanes of one chunk may take.
        checkpoint: folder in which measured plans are kept; the same call resumes from it, bit for bit, also with more
            evaluations.
        progress: True draws a bar on a terminal; a function is called with (done, total).

    Raises:
        ArgumentError: plans that do not fit the table, the budget or each other, or that have int8 activations; a table
            that does not say what it was scored on, without `initial` or `horizon`.
        CaptureError, DivergenceError, OutOfMemoryError: as in `score`.
        CheckpointError: the checkpoint belongs to another run.

    The same arguments give the same result; another chunking or number of threads changes damages by rounding, and the
    plans that are tried only where two damages agree to that rounding.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 1:
        raise ArgumentError(f"[search] evaluations must be a whole number >= 1, got {evaluations!r}")
    if memory_limit is not None and memory_limit <= 0:
        raise ArgumentError(f"[search] memory_limit must be a positive number of bytes, got {memory_limit}")
    horizon = _horizon(table) if horizon is None else horizon
    space = build_space(table, plan)
    named = dict(rivals) if isinstance(rivals, Mapping) else {f"rival {i}": p for i, p in enumerate(rivals, start=1)}
    given = {"start": space.of_plan(plan, "plan"), **space.uniform()}
    clash = sorted(name for name in named if name in given or name.startswith("searched "))
    if clash:
        raise ArgumentError(f"[search] expected rivals under names of their own, got {clash[0]!r}; rename it")
    given |= {name: space.of_plan(rival, f"rivals[{name!r}]") for name, rival in named.items()}
    conditions = draw_conditions(system, table, initial, horizon=horizon, seed=seed)
    rounded = RoundedWeights(system, [layer.name for layer in table.layers], table.quantizer)
    description = {
        "system": {"name": system.name, "module": type(system.module).__qualname__, "block": system.block},
        "horizon": horizon,
        "seed": seed,
        "table": {"damage": encode_array(table.damage), "bits": list(table.bits), "quantizer": vars(table.quantizer)},
        "layers": [layer.name for layer in table.layers],
        "plans": {name: [b or 0 for b in bits] for name, bits in given.items()},
        "budget": space.limit,
    }

    def measurer(states: States, folder: str) -> Measurer:
        return Measurer(
            system,
            states,
            horizon,
            rounded,
            engine=engine,
            memory_limit=memory_limit,
            checkpoint=None if checkpoint is None else Path(checkpoint) / folder,
            description=description,
        )

    total = evaluations + FINALISTS + len(set(given.values()))
    with tracking(progress, f"searching {system.name}") as report:
        report(0, total)
        searching = measurer(conditions.searched, "search")
        trail = explore(space, given, searching, evaluations, seed, lambda done: report(done, total))
        deciding = measurer(conditions.decided, "decide")
        found = {f"searched {i}": b for i, b in enumerate(trail.best(FINALISTS, given.values()), start=1)}
        entrants = list(dict.fromkeys([*given.values(), *found.values()]))
        measured = deciding.measure([space.by_layer(b) for b in entrants], lambda n: report(evaluations + n, total))
        report(total, total)

    about = {
        "system": system.name, "horizon": horizon, "seed": seed, "seeds": conditions.seeds,
        "searched_on": conditions.searched.description, "decided_on": conditions.decided.description,
        "budget": {"bytes": space.limit}, "engine": {"name": searching.engine, "reason": searching.reason},
        "evaluations": len(trail.damage), "stopped": trail.stopped, "fingerprint": deciding.fingerprint,
    }  # fmt: skip
    origin = {"system": system.name, "horizon": horizon, "initial": conditions.decided.description,
              "seed": conditions.seeds["decide"]}  # fmt: skip
    errors = {bits: _error(measured, row, conditions.decided, origin) for row, bits in enumerate(entrants)}
    plans = {"start": plan, **named}
    candidates = [
        Candidate(
            name,
            plans.get(name) or _plan(space, bits, plan, "search" if name in found else "uniform", {}),
            trail.damage.get(bits, float("nan")),
            errors[bits],
        )
        for name, bits in {**given, **found}.items()
    ]
    kept, judged = decide(candidates, given)
    bits = given.get(kept.name) or found[kept.name]
    low, high = kept.error.interval
    evidence = about | {
        "kept": kept.name,
        "damage": encode_array(kept.error.damage),
        "interval": encode_array([low, high]),
        "best_so_far": encode_array(np.minimum.accumulate(list(trail.damage.values()))),
    }
    history = tuple(
        Evaluation(tuple(space.by_layer(b).values()), trail.origin[b], space.predicted(b), damage)
        for b, damage in trail.damage.items()
    )
    return SearchResult(
        chosen=kept.name,
        plan=_plan(space, bits, plan, "search", {"search": evidence}),
        candidates=judged,
        history=history,
        stopped=trail.stopped,
        provenance=about,
    )


def _error(measured: Measured, row: int, states: States, origin: dict[str, Any]) -> RolloutError:
    rate, window = growth_rate(measured.curve[row])
    return RolloutError(
        measured.samples[row], states.families, states.family_of, measured.curve[row], rate, window, origin
    )


def _plan(space: Space, bits: Bits, start: Plan, method: str, provenance: dict[str, Any]) -> Plan:
    by_layer = space.by_layer(bits)
    return Plan(
        bits=by_layer,
        layers=start.layers,
        quantizer=start.quantizer,
        predicted_damage=space.predicted(bits),
        method=method,
        budget={"bytes": space.limit},
        provenance={
            "sensitivity": space.table.provenance,
            **{key: start.provenance.get(key, []) for key in ("tied", "frozen")},
            **provenance,
        },
        damage={name: layer_damage(space.table, i, b) for i, (name, b) in enumerate(by_layer.items())},
    )


def _horizon(table: Sensitivity) -> int:
    horizon = table.provenance.get("horizon")
    if not isinstance(horizon, int):
        raise ArgumentError("[search] the table does not say its horizon; give horizon=...")
    return horizon
