"""The native engine: a captured step, rolled out in C++ for all lanes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tqs_fast.engines.lane import Drawn, Lane, materialise
from tqs_fast.engines.native_program import Noise, Variant
from tqs_fast.engines.native_weights import NativeWeights
from tqs_fast.engines.prepared import prepared
from tqs_fast.engines.reference import Reference, family_weights
from tqs_fast.engines.statistics import LaneErrors
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.held import Swappable
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
        device: a GPU that the weights are brought to; None: it runs where they lie.

    Raises:
        CaptureError: the step cannot be captured, or the captured program does not do what the step does.
        ArgumentError: a parameter is not used by a step.
    """

    name = "native"

    def __init__(
        self,
        system: System,
        states: States,
        parameters: Sequence[torch.nn.Parameter],
        *,
        horizon: int,
        device: torch.device | None = None,
    ) -> None:
        self.serial: dict[int, str] = {}
        self._parameters = list(parameters)
        self._weights_of = family_weights(states)
        self._states = tree_leaves(states.state)
        self._inputs = [] if states.inputs is None else tree_leaves(states.inputs)
        self._steps = system.steps(horizon)
        self._horizon = horizon
        self._native = prepared(system, states.state, horizon=horizon, device=device)
        self._weights = NativeWeights(self._native.program, system.module)
        names = {id(parameter): name for name, parameter in system.module.named_parameters()}
        self._names = [names[id(parameter)] for parameter in parameters]
        unused = [name for name in self._names if not self._weights.uses(name)]
        # files may hold several networks, of which an If takes one: the weights of the others do no damage
        if unused and not isinstance(system.module, Swappable):
            raise ArgumentError(
                f"[score] {unused[0]} is not used by a step of {system.name}; leave it out with layers=[...]"
            )

    def roll(self, memory_limit: int | None = None) -> torch.Tensor:
        """Outputs `[T, N, C]` of the float model."""
        outputs, _ = self._native.ensemble(
            self._states, self._inputs, steps=self._steps, values=self._horizon, memory_limit=memory_limit or 0
        )
        return outputs[0]

    def lanes_per_chunk(self, reference: Reference, memory_limit: int | None) -> int:
        """Lanes whose variants and errors fit a chunk."""
        horizon, count, _ = reference.outputs.shape
        largest = max(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        chunk = memory_limit or max(DEFAULT_CHUNK, self._native.place.free_bytes() // 4)
        return max(1, chunk // (2 * largest + 8 * horizon * count))

    def run(self, lanes: Sequence[Lane], reference: Reference, memory_limit: int | None = None) -> LaneErrors:
        """Roll all `lanes` over the reference's horizon."""
        known: dict[Any, Variant] = {}
        errors = self._native.errors(
            self._states,
            self._inputs,
            steps=self._steps,
            lanes=[self._variants(lane, known) for lane in lanes],
            reference=reference.outputs,
            scale=reference.scale,
            memory_limit=memory_limit or 0,
        )
        return self._summarise(errors)

    def trajectories(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Outputs `[lanes, T, N, C]` of `lanes`; may hold NaN or infinity where one diverged."""
        known: dict[Any, Variant] = {}
        variants = [self._variants(lane, known) for lane in lanes]
        outputs, _ = self._native.ensemble(
            self._states, self._inputs, steps=self._steps, values=self._horizon, lanes=variants
        )
        return outputs

    def run_tangents(
        self, lanes: Sequence[Mapping[int, torch.Tensor]], reference: Reference, memory_limit: int | None = None
    ) -> LaneErrors:
        """Squared scaled tangents of the outputs along weight directions: per lane, weight index -> direction."""
        named = [{self._names[index]: direction for index, direction in lane.items()} for lane in lanes]
        errors = self._native.tangent_errors(
            self._states,
            self._inputs,
            steps=self._steps,
            values=len(reference.outputs),
            weight_seeds=[self._weights.tangents(directions) for directions in named],
            scale=reference.scale,
            memory_limit=memory_limit or 0,
        )
        return self._summarise(errors)

    def _variants(self, lane: Lane, known: dict[Any, Variant]) -> dict[int, Variant]:
        """Constant buffer -> its variant in this lane; lanes with the same change share one."""
        indices = {self._names[index]: index for index in lane.changes}
        result: dict[int, Variant] = {}
        for constant in self._weights.derived(indices):
            names = [name for name in constant.parameters if name in indices]
            key = (constant.buffer, *(id(lane.changes[indices[name]]) for name in names))
            if key not in known:
                change = lane.changes[indices[names[0]]]
                if isinstance(change, Drawn) and self._weights.is_parameter(constant, names[0]):
                    known[key] = Noise(change.seed, change.stream, change.scale, change.begin, change.count)
                else:
                    indexed = {name: indices[name] for name in names}
                    values = {n: materialise(lane.changes[i], self._parameters[i]) for n, i in indexed.items()}
                    if not self._weights.is_parameter(constant, names[0]):  # other constants lie where parameters do
                        values = {n: value.to(self._parameters[indexed[n]]) for n, value in values.items()}
                    known[key] = self._weights.changed(constant, values)
            result[constant.buffer] = known[key]
        return result

    def _summarise(self, errors: torch.Tensor) -> LaneErrors:
        """Squared scaled errors `[lanes, T, N]` as statistics."""
        # By NumPy, whose sums have one order for any number of threads and wake none.
        values, weights = errors.numpy(), self._weights_of.numpy()
        return LaneErrors(torch.from_numpy(values.mean(axis=1)), torch.from_numpy((values * weights).sum(axis=2)))
