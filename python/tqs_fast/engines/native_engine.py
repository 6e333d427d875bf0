"""The native engine: a captured step, rolled out in C++ for all lanes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tqs_fast.engines.lane import Drawn, Lane, materialise
from tqs_fast.engines.native_program import Noise, Variant
from tqs_fast.engines.prepared import prepared
from tqs_fast.engines.reference import Reference, family_weights
from tqs_fast.engines.statistics import LaneErrors
from tqs_fast.errors import ArgumentError
from tqs_fast.systems import States, System
from tqs_fast.systems.tree import tree_leaves

# Variants of one chunk, and a chunk's errors [lanes, T, N], are kept in memory; tiles bound the rest.
DEFAULT_CHUNK = 2**28


class NativeEngine:
    """Ensembles and tangents of one system.

    Args:
        system: its step is captured.
        states: where rollouts start.
        parameters: the scored parameters of `system.module`; lanes name them by their index.
        horizon: output values per rollout.

    Raises:
        CaptureError: the step cannot be captured, or the captured program does not do what the step does.
        ArgumentError: a parameter is not used by a step.
    """

    name = "native"

    def __init__(
        self, system: System, states: States, parameters: Sequence[torch.nn.Parameter], *, horizon: int
    ) -> None:
        self.serial: dict[int, str] = {}
        self._states = states
        self._block = system.block
        self._native = prepared(system, states.state, horizon=horizon)
        program = self._native.program
        names = {id(parameter): name for name, parameter in system.module.named_parameters()}
        self._names = [names[id(parameter)] for parameter in parameters]
        self._parameters = list(parameters)
        self._derived = {
            name: [constant for constant in program.constants if name in constant.parameters] for name in self._names
        }
        unused = [name for name, constants in self._derived.items() if not constants]
        if unused:
            raise ArgumentError(
                f"[capture] {unused[0]} is not used by a step of {system.name}; leave it out with layers=[...]"
            )

    def lanes_per_chunk(self, reference: Reference, memory_limit: int | None) -> int:
        """Lanes whose variants and errors fit a chunk."""
        horizon, count, _ = reference.outputs.shape
        largest = max(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        return max(1, (memory_limit or DEFAULT_CHUNK) // (2 * largest + 8 * horizon * count))

    def run(self, lanes: Sequence[Lane], reference: Reference, memory_limit: int | None = None) -> LaneErrors:
        """Roll all `lanes` over the reference's horizon."""
        known: dict[tuple[int, tuple[tuple[str, int], ...]], Variant] = {}
        assignment = [self._variants(lane, known) for lane in lanes]
        horizon = len(reference.outputs)
        errors = self._native.errors(
            tree_leaves(self._states.state),
            [] if self._states.inputs is None else tree_leaves(self._states.inputs),
            steps=-(-horizon // self._block),
            lanes=assignment,
            reference=reference.outputs,
            scale=reference.scale,
            memory_limit=memory_limit or 0,
        )
        return summarise(errors, self._states)

    def run_tangents(
        self, lanes: Sequence[Mapping[int, torch.Tensor]], reference: Reference, memory_limit: int | None = None
    ) -> LaneErrors:
        """Squared scaled tangents of the outputs along weight directions: per lane, weight index -> direction."""
        horizon = len(reference.outputs)
        seeds = [self._weight_tangents(lane) for lane in lanes]
        leaves = tree_leaves(self._states.state)
        errors = self._native.tangent_errors(
            leaves,
            [] if self._states.inputs is None else tree_leaves(self._states.inputs),
            steps=-(-horizon // self._block),
            values=horizon,
            weight_seeds=seeds,
            scale=reference.scale,
            memory_limit=memory_limit or 0,
        )
        return summarise(errors, self._states)

    def _variants(
        self, lane: Lane, known: dict[tuple[int, tuple[tuple[str, int], ...]], Variant]
    ) -> dict[int, Variant]:
        """Constant buffer -> its variant in this lane; variants of one key are made once."""
        changes = {self._names[index]: (index, change) for index, change in lane.changes.items()}
        result: dict[int, Variant] = {}
        for constant in {c.buffer: c for name in changes for c in self._derived[name]}.values():
            meets = tuple((name, id(changes[name][1])) for name in constant.parameters if name in changes)
            key = (constant.buffer, meets)
            if key not in known:
                first, change = changes[meets[0][0]]
                own = self._parameters[first]
                if isinstance(change, Drawn) and constant.tensor.data_ptr() == own.data_ptr():
                    known[key] = Noise(change.seed, change.stream, change.scale, change.begin, change.count)
                else:
                    values = {
                        name: materialise(changes[name][1], self._parameters[changes[name][0]]) for name, _ in meets
                    }
                    with torch.no_grad():
                        known[key] = constant.derive(values).contiguous()
            result[constant.buffer] = known[key]
        return result

    def _weight_tangents(self, lane: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        directions = {self._names[index]: direction for index, direction in lane.items()}
        result = {}
        for constant in {c.buffer: c for name in directions for c in self._derived[name]}.values():
            names = tuple(name for name in constant.parameters if name in directions)
            primals = tuple(self._parameters[self._names.index(name)].detach() for name in names)

            def derive(*values: torch.Tensor, names: tuple[str, ...] = names, constant=constant) -> torch.Tensor:  # type: ignore[no-untyped-def]
                result: torch.Tensor = constant.derive(dict(zip(names, values, strict=True)))
                return result

            tangents = tuple(directions[name].to(primal) for name, primal in zip(names, primals, strict=True))
            result[constant.buffer] = torch.func.jvp(derive, primals, tangents)[1].contiguous()
        return result


def summarise(errors: torch.Tensor, states: States) -> LaneErrors:
    """Squared scaled errors `[lanes, T, N]` as statistics."""
    return LaneErrors(errors.mean(dim=1), (errors * family_weights(states)).sum(dim=2))
