"""Initial conditions in two disjoint sets: one to search on, one to decide on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.sensitivity import Sensitivity
from tqs_fast.systems import Attractor, Contexts, InitialConditions, States, Synthetic, System, draw
from tqs_fast.systems.contexts import conform_inputs, conform_state
from tqs_fast.systems.tree import tree_leaves, tree_map

DECIDING = 8  # times as many to decide on, where they can be drawn: a few plans are rolled out there, not hundreds


@dataclass(frozen=True, eq=False)
class Conditions:
    """Where a search rolls plans out.

    Attributes:
        searched, decided: disjoint sets with the same families.
        seeds: of both.
    """

    searched: States
    decided: States
    seeds: dict[str, int]


def draw_conditions(
    system: System,
    table: Sensitivity,
    initial: InitialConditions | Sequence[InitialConditions] | None,
    *,
    horizon: int,
    seed: int,
) -> Conditions:
    """Both sets, from seeds of their own, so that they differ from what `score` and `evaluate` draw from `seed`.

    Families that are drawn get `DECIDING` times as many conditions to decide on. `Contexts` are split at random into
    two halves.

    Raises:
        ArgumentError: `initial` is None and the table was scored on contexts, which it does not hold; contexts of
            fewer than 2 states.
        DivergenceError: a spin-up diverged or died.
    """
    given = families_of(table) if initial is None else initial
    methods = list(given) if isinstance(given, Sequence) else [given]
    seeds = {
        name: int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        for number, name in enumerate(("search", "decide"), start=1)
    }
    searched: list[InitialConditions] = []
    decided: list[InitialConditions] = []
    for index, method in enumerate(methods):
        if isinstance(method, Contexts):
            first, second = _halves(system, method, horizon, np.random.default_rng([seed, index]))
            searched.append(first)
            decided.append(second)
        elif isinstance(method, (Attractor, Synthetic)):
            searched.append(method)
            decided.append(replace(method, count=DECIDING * method.count))
        else:
            raise ArgumentError(
                f"[search] expected initial of Attractor, Contexts or Synthetic, got {type(method).__name__}"
            )
    return Conditions(
        draw(searched, system, horizon=horizon, seed=seeds["search"]),
        draw(decided, system, horizon=horizon, seed=seeds["decide"]),
        seeds,
    )


def families_of(table: Sensitivity) -> list[InitialConditions]:
    """The initial conditions that a table says it was scored on.

    Raises:
        ArgumentError: contexts, or a table that does not say.
    """
    families: list[InitialConditions] = []
    for description in table.provenance.get("initial", []):
        method = description.get("method") if isinstance(description, Mapping) else None
        if method == "attractor":
            families.append(Attractor(count=description["count"], spin_up=description["spin_up"]))
        elif method == "synthetic":
            kinds = tuple(description["kinds"])
            families.append(Synthetic(description["count"], kinds) if kinds else Synthetic(description["count"]))
        else:
            raise ArgumentError(
                f"[search] the table was scored on {method or 'something unknown'}, whose states it does not hold; "
                "give initial=..."
            )
    if not families:
        raise ArgumentError("[search] the table does not say what it was scored on; give initial=...")
    return families


def _halves(
    system: System, contexts: Contexts, horizon: int, generator: np.random.Generator
) -> tuple[Contexts, Contexts]:
    state = conform_state(system, contexts.windows, allow_nan=contexts.allow_nan)
    inputs = conform_inputs(system, contexts.inputs, state, system.steps(horizon))
    count = tree_leaves(state)[0].shape[0]
    if count < 2:
        raise ArgumentError(
            f"[search] expected at least 2 states in {contexts.name}, got {count}: half of them decide; give more, or "
            "Attractor"
        )
    order = torch.from_numpy(generator.permutation(count))
    halves = []
    for rows in (order[: count // 2].sort().values, order[count // 2 :].sort().values):
        pick = partial(_rows, rows=rows)
        fed = None if inputs is None else tree_map(pick, inputs)
        halves.append(replace(contexts, windows=tree_map(pick, state), inputs=fed))
    return halves[0], halves[1]


def _rows(leaf: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return leaf[rows.to(leaf.device)]
