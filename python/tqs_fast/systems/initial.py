"""Where rollouts start: families of initial conditions, drawn reproducibly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.contexts import conform_inputs, conform_state
from tqs_fast.systems.spin_up import default_spin_up, spin_up
from tqs_fast.systems.synthetic import KINDS, synthetic_windows
from tqs_fast.systems.system import Forecaster, System
from tqs_fast.systems.tree import Tree, tree_cat, tree_leaves, tree_map


@dataclass(frozen=True)
class Attractor:
    """States on the model's own attractor: random states, rolled forward by the float model, kept where they land.

    Attributes:
        count: initial conditions.
        spin_up: steps rolled before the states are kept; None: enough to fill a forecaster's window with its own
            forecasts, and at least 64. A driven system gets `spin_up` further inputs, used up on the way.

    A free-running system may have stable fixed points beside its attractor: up to one in eight initial conditions that
    come to rest are set aside for others, and `States.description` says how many. More are an error.
    """

    count: int = 16
    spin_up: int | None = None

    def __post_init__(self) -> None:
        _require_integer("Attractor", "count", self.count, 1)
        if self.spin_up is not None:
            _require_integer("Attractor", "spin_up", self.spin_up, 0)


@dataclass(frozen=True, eq=False)
class Contexts:
    """States that the user gives: recorded windows, say.

    Attributes:
        windows: `[N, context, C]` for a Forecaster, else a state tree of `[N, ...]` like the system's own; tensors or
            arrays, cast to the dtype of the system's state.
        inputs: tree of `[N, >= steps, ...]` for a driven system, else None.
        name: of the family, in tables.
        allow_nan: NaN marks missing values, for a system that knows what to do with them (`fracast` does).
    """

    windows: Any
    inputs: Any = None
    name: str = "contexts"
    allow_nan: bool = False


@dataclass(frozen=True)
class Synthetic:
    """Artificial series, for systems without a stable attractor; nothing is rolled forward.

    A Forecaster gets standardised windows of the given kinds; a driven system its own random states and inputs.

    Attributes:
        count: initial conditions, shared out evenly over the kinds.
        kinds: of windows: "random_walk", "seasonal" (mixtures with noise), "gaussian_process", "trend" (a line that
            dwarfs the seasons on it).
    """

    count: int = 16
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        _require_integer("Synthetic", "count", self.count, 1)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ArgumentError(f"[Synthetic] kinds must be some of {KINDS}, got {self.kinds!r}")


SPARE = 8  # one further candidate for so many initial conditions

InitialConditions: TypeAlias = Attractor | Contexts | Synthetic


@dataclass(frozen=True, eq=False)
class States:
    """Initial conditions, ready to be rolled out.

    Attributes:
        state: tree of `[N, ...]`, on the device of the module.
        inputs: tree of `[N, steps, ...]` for a driven system, else None.
        families: names, one per method that was drawn from, all different.
        family_of: `[N]` int64, index into `families`.
        description: one JSON-able dict per family: how it was obtained.
    """

    state: Tree
    inputs: Tree | None
    families: tuple[str, ...]
    family_of: np.ndarray[Any, np.dtype[np.int64]]
    description: list[dict[str, Any]]

    @property
    def count(self) -> int:
        """N, over all families."""
        return len(self.family_of)


def default_initial(system: System, count: int = 16) -> InitialConditions:
    """What `system.default_initial` names."""
    return Synthetic(count=count) if system.default_initial == "synthetic" else Attractor(count=count)


def draw(
    initial: InitialConditions | Sequence[InitialConditions], system: System, *, horizon: int, seed: int = 0
) -> States:
    """Draw the initial conditions of every family.

    The same seed gives the same states for any number of threads; families do not influence each other.

    Args:
        initial: one method, or a sequence of them (families, reported apart).
        horizon: output values that will be rolled out; a driven system gets inputs for `system.steps(horizon)` steps.
        seed: non-negative.

    Raises:
        ArgumentError: an unknown method, an empty sequence, windows or inputs that do not fit the system.
        DivergenceError: a spin-up diverged or died to a constant.
    """
    methods = list(initial) if isinstance(initial, Sequence) else [initial]
    if not methods:
        raise ArgumentError("[draw] initial is an empty sequence; give at least one of Attractor, Contexts, Synthetic")
    _require_integer("draw", "horizon", horizon, 1)
    _require_integer("draw", "seed", seed, 0)
    drawn = [_draw_family(method, system, horizon, seed, index) for index, method in enumerate(methods)]
    counts = [tree_leaves(state)[0].shape[0] for state, _, _ in drawn]
    return States(
        state=tree_cat([state for state, _, _ in drawn]),
        inputs=None if system.inputs is None else tree_cat([inputs for _, inputs, _ in drawn]),
        families=_unique_names([_family_name(method) for method in methods]),
        family_of=np.repeat(np.arange(len(methods), dtype=np.int64), counts),
        description=[description for _, _, description in drawn],
    )


def _draw_family(
    method: InitialConditions, system: System, horizon: int, seed: int, index: int
) -> tuple[Tree, Tree | None, dict[str, Any]]:
    generator = torch.Generator()
    generator.manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]))
    steps = system.steps(horizon)
    state: Tree
    inputs: Tree | None = None
    if isinstance(method, Attractor):
        spin = default_spin_up(system) if method.spin_up is None else method.spin_up
        if system.inputs is not None:
            state = to_device(system, system.initial_state(method.count, generator))
            inputs = to_device(system, system.inputs(method.count, spin + steps, generator))
            state, _ = spin_up(system, state, inputs, spin)
            inputs = tree_map(lambda leaf: leaf[:, spin:], inputs)
            set_aside = 0
        else:
            spares = method.count // SPARE
            candidates = to_device(system, system.initial_state(method.count + spares, generator))
            reached, moving = spin_up(system, candidates, None, spin, spares=spares)
            kept = moving.nonzero().flatten()[: method.count]
            set_aside = int(kept[-1]) + 1 - method.count
            state = tree_map(lambda leaf: leaf[kept.to(leaf.device)], reached)
        description = {"method": "attractor", "count": method.count, "spin_up": spin, "seed": seed}
        return state, inputs, description | {"set_aside": set_aside}
    if isinstance(method, Synthetic):
        if system.inputs is not None:
            state = system.initial_state(method.count, generator)
            inputs = to_device(system, system.inputs(method.count, steps, generator))
        elif isinstance(system, Forecaster):
            state = synthetic_windows(
                method.count, system.context_length, system.channels, kinds=method.kinds, generator=generator
            )
            template = tree_leaves(system.initial_state(1, generator))[0]
            state = state.to(template.dtype)
        else:
            raise ArgumentError(
                f"[draw] Synthetic makes windows for a Forecaster or inputs for a driven system, and {system.name} is "
                "neither; use Attractor, or Contexts with states of your own"
            )
        kinds = list(method.kinds) if system.inputs is None else []
        description = {"method": "synthetic", "count": method.count, "kinds": kinds, "spin_up": 0, "seed": seed}
        return to_device(system, state), inputs, description
    if isinstance(method, Contexts):
        state = conform_state(system, method.windows, allow_nan=method.allow_nan)
        inputs = conform_inputs(system, method.inputs, state, steps)
        count = tree_leaves(state)[0].shape[0]
        description = {"method": "contexts", "name": method.name, "count": count, "spin_up": 0, "seed": None}
        return to_device(system, state), None if inputs is None else to_device(system, inputs), description
    raise ArgumentError(
        f"[draw] expected Attractor, Contexts or Synthetic, or a sequence of them, got {type(method).__name__}"
    )


def to_device(system: System, tree: Tree) -> Tree:
    """`tree` where the module's parameters are."""
    parameter = next(system.module.parameters(), None)
    return tree if parameter is None else tree_map(lambda leaf: leaf.to(parameter.device), tree)


def _family_name(method: InitialConditions) -> str:
    if isinstance(method, Contexts):
        return method.name
    if isinstance(method, Synthetic):
        return "synthetic" if len(method.kinds) > 1 else method.kinds[0]
    return "attractor"


def _unique_names(names: list[str]) -> tuple[str, ...]:
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}-{number}"
        unique.append(candidate)
    return tuple(unique)


def _require_integer(function: str, name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"[{function}] {name} must be an integer of at least {least}, got {value!r}")
