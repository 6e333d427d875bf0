"""Lanes of a program outside torch: the same program with other weights swapped in, one lane to a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from tqs_fast.engines.lane import Lane, materialise
from tqs_fast.engines.reference import Reference, family_weights, roll_outputs
from tqs_fast.engines.statistics import ErrorStatistics, LaneErrors
from tqs_fast.engines.torch_engine import TorchEngine
from tqs_fast.engines.torch_form import differentiable
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.held import Swappable
from tqs_fast.systems import States, System, iterate

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_LANES = 16  # of a chunk: what a checkpoint loses at most
DEFAULT_CHUNK = 2**28  # bytes of variants held at a time


class SwappedEngine:
    """Ensembles of one system whose module is `Swappable`.

    Nothing is built per lane: a lane is one more set of arrays for the same program. Lanes run in as many threads as
    torch uses, each alone in its own, so that results do not depend on their number.

    Args:
        system: its module is `Swappable`.
        states: where rollouts start.
        parameters: the scored parameters of the module; lanes name them by their index.
        horizon: output values per rollout.

    Attributes:
        serial: empty: no weight keeps others waiting.
    """

    name = "swapped"

    def __init__(
        self, system: System, states: States, parameters: Sequence[torch.nn.Parameter], *, horizon: int
    ) -> None:
        assert isinstance(system.module, Swappable)
        self.serial: dict[int, str] = {}
        self._system = system
        self._states = states
        self._parameters = list(parameters)
        self._horizon = horizon
        self._module = system.module
        names = {id(parameter): name for name, parameter in system.module.named_parameters()}
        self._names = [names[id(parameter)] for parameter in parameters]

    def roll(self, memory_limit: int | None = None) -> torch.Tensor:
        """Outputs `[T, N, C]` of the float model."""
        return roll_outputs(self._system, self._states, self._horizon)

    def lanes_per_chunk(self, reference: Reference, memory_limit: int | None) -> int:
        """Lanes whose variants fit: the one that the quantizer made, and its copy as the program keeps it."""
        largest = max(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        return max(1, min(MOST_LANES, (memory_limit or DEFAULT_CHUNK) // (2 * largest)))

    def run(self, lanes: Sequence[Lane], reference: Reference, memory_limit: int | None = None) -> LaneErrors:
        """Squared scaled errors of `lanes` over the reference's horizon."""

        def rolled(lane: Lane) -> LaneErrors:
            statistics = ErrorStatistics(reference, family_weights(self._states), 1)
            module, steps = self._swapped(lane), self._system.steps(len(reference.outputs))
            for _, output in iterate(self._system, self._states.state, self._states.inputs, steps, module=module):
                statistics.update(output)
            return statistics.result()

        results = _in_threads(rolled, lanes)
        return LaneErrors(torch.cat([r.samples for r in results]), torch.cat([r.curve for r in results]))

    def trajectories(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Outputs `[lanes, T, N, C]` of `lanes`; may hold NaN or infinity where one diverged."""

        def rolled(lane: Lane) -> torch.Tensor:
            return roll_outputs(self._system, self._states, self._horizon, module=self._swapped(lane))

        return torch.stack(_in_threads(rolled, lanes))

    def run_tangents(
        self, lanes: Sequence[Mapping[int, torch.Tensor]], reference: Reference, memory_limit: int | None = None
    ) -> LaneErrors:
        """By the torch form of the module, one lane after the other.

        Raises:
            ArgumentError: it has none, and no derivatives.
        """
        twin = differentiable("score", self._system)
        engine = TorchEngine(twin, self._states, self._parameters, horizon=self._horizon)
        return engine.run_tangents(lanes, reference, memory_limit)

    def _swapped(self, lane: Lane) -> torch.nn.Module:
        return self._module.with_weights(
            {self._names[i]: materialise(change, self._parameters[i]) for i, change in lane.changes.items()}
        )


def require_torch(function: str, system: System) -> None:
    """Raise ArgumentError where `function` needs derivatives and the module computes outside torch."""
    if isinstance(system.module, Swappable):
        raise ArgumentError(
            f"[{function}] {system.name} runs outside torch, where there are no derivatives; score it with "
            "Residual() or Noise(), or use the torch module that it was exported from"
        )


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of every item, in torch's number of threads."""
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
