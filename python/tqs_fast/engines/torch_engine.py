"""The torch engine: any module, lanes folded into the batch where a step allows it, one variant at a time elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from tqs_fast.engines.folding import Folding, Recorder, compare_records
from tqs_fast.engines.lane import Change, Lane, materialise
from tqs_fast.engines.lane_product import WeightVariants
from tqs_fast.engines.lanes import FoldingError, LaneMode
from tqs_fast.engines.reference import Reference, family_weights, roll_outputs
from tqs_fast.engines.statistics import ErrorStatistics, LaneErrors
from tqs_fast.engines.substitution import Substitution
from tqs_fast.engines.weight_tangents import run_weight_tangents
from tqs_fast.errors import ArgumentError
from tqs_fast.systems import States, System
from tqs_fast.systems.system import advance, input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

RECORD_SIZES = (2, 3)  # two batch sizes tell a batch dimension from a constant one
PROBE_CHANGE = 0.25  # relative change of a weight when lanes are checked: far above rounding, well below divergence
PROBE_TOLERANCE = 1e-3  # of the largest change: lanes that read the wrong weight differ by about 1


# Bytes per chunk where no limit is given. More lanes at once stop paying when their activations leave the caches:
# fracast took 3.1 s in chunks of 128 MiB and 5.5 s in chunks of 1 GiB (Zen 4, 32 MiB of L3, one thread).
DEFAULT_CHUNK = 2**27
ACTIVATION_MARGIN = 2  # tensors inside fused torch functions are not seen when a step is recorded


class TorchEngine:
    """Ensembles of one system in torch.

    Args:
        system: any module and any step.
        states: where rollouts start.
        parameters: the scored parameters of `system.module`; lanes name them by their index.
        horizon: output values per rollout.
        folded: whether lanes fold into the batch where a step allows it; else every lane runs on its own.

    Attributes:
        serial: weight index -> why its lanes run one after the other.

    Raises:
        ArgumentError: a weight is given to no torch function during a step.
    """

    def __init__(
        self,
        system: System,
        states: States,
        parameters: Sequence[torch.nn.Parameter],
        *,
        horizon: int,
        folded: bool = True,
    ) -> None:
        self.name = "torch" if folded else "serial"
        self._system = system
        self._states = states
        self._parameters = parameters
        self._horizon = horizon
        self._folding = fold(system, states, parameters)
        self.serial = dict(self._folding.serial) if folded else dict.fromkeys(range(len(parameters)), "asked for")

    def roll(self, memory_limit: int | None = None) -> torch.Tensor:
        """Outputs `[T, N, C]` of the float model."""
        return roll_outputs(self._system, self._states, self._horizon)

    def lanes_per_chunk(self, reference: Reference, memory_limit: int | None) -> int:
        """As many lanes as fit: activations of all initial conditions, and the variant with its copy in the stack.

        Raises:
            ArgumentError: not even one lane fits.
        """
        largest = max(p.numel() * p.element_size() for p in self._parameters)
        count = self._states.count
        per_lane = ACTIVATION_MARGIN * self._folding.bytes_per_state * count + 2 * largest
        if memory_limit is None:
            return max(1, DEFAULT_CHUNK // per_lane)
        if per_lane > memory_limit:
            raise ArgumentError(
                f"[score] memory_limit of {memory_limit} bytes is too small for one lane of {count} initial "
                f"conditions (about {per_lane} bytes); raise it or use fewer initial conditions"
            )
        return memory_limit // per_lane

    def run(self, lanes: Sequence[Lane], reference: Reference, memory_limit: int | None = None) -> LaneErrors:
        """Roll all `lanes` over the reference's horizon; lanes of weights in `serial` one after the other."""
        weights = {index for lane in lanes for index in lane.changes}
        if not weights & self.serial.keys():
            try:
                return run_lanes(self._system, self._states, reference, self._parameters, lanes, self._folding)
            except FoldingError:  # control flow that depends on values: only seen once the rollout gets there
                self.serial |= dict.fromkeys(weights, "a later step makes other calls than the first")
        return run_serial(self._system, self._states, reference, self._parameters, lanes)

    def trajectories(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Outputs `[lanes, T, N, C]` of `lanes`, one after the other; may hold NaN or infinity where one diverged."""
        steps = self._system.steps(self._horizon)
        rolled = []
        for lane in lanes:
            mode, state, outputs = Substitution(_replacements(self._parameters, lane)), self._states.state, []
            for t in range(steps):
                with mode:
                    state, output = advance(self._system, state, input_at(self._states.inputs, t))
                outputs.append(output)
            rolled.append(torch.cat(outputs, dim=1)[:, : self._horizon].transpose(0, 1))
        return torch.stack(rolled)

    def run_tangents(
        self, lanes: Sequence[Mapping[int, torch.Tensor]], reference: Reference, memory_limit: int | None = None
    ) -> LaneErrors:
        """Squared scaled tangents of the outputs along weight directions, one lane after the other."""
        return run_weight_tangents(self._system, self._states, reference, self._parameters, lanes)


def fold(system: System, states: States, parameters: Sequence[torch.nn.Parameter]) -> Folding:
    """Record one step, find how lanes fold, and check every weight's lane against the serial path.

    Weights that cannot fold, or whose lane differs, are listed in `Folding.serial` with the reason.

    Raises:
        ArgumentError: a weight is given to no torch function during a step, so that no error could be measured.
    """
    recorders = []
    for size in RECORD_SIZES:
        recorder = Recorder(parameters)
        state, step_input = _first_rows(states, size)
        with recorder:
            advance(system, state, step_input)
        recorders.append(recorder)
    folding = compare_records(recorders[0], recorders[1], RECORD_SIZES, len(parameters))
    if folding.unused:
        names = {id(p): name for name, p in system.module.named_parameters()}
        unused = names.get(id(parameters[folding.unused[0]]), "a weight")
        raise ArgumentError(
            f"[fold] {unused} is not used by a step of {system.name} (or only inside compiled code that hides it); "
            "leave it out with layers=[...]"
        )
    return _verify(system, states, parameters, folding)


def run_lanes(
    system: System,
    states: States,
    reference: Reference,
    parameters: Sequence[torch.nn.Parameter],
    lanes: Sequence[Lane],
    folding: Folding,
) -> LaneErrors:
    """Roll all `lanes` together over the reference's horizon.

    Raises:
        FoldingError: a step makes other calls than the recorded one (control flow that depends on values).
    """
    count = states.count
    mode = LaneMode(parameters, _stack(parameters, lanes), folding, len(lanes), count)
    statistics = ErrorStatistics(reference, family_weights(states), len(lanes))
    state = _tile(states.state, len(lanes))
    for t in range(system.steps(len(reference.outputs))):
        step_input = _tile(input_at(states.inputs, t), len(lanes))
        state, output = mode.run(partial(advance, system, state, step_input))
        statistics.update(output)
    return statistics.result()


def run_serial(
    system: System,
    states: States,
    reference: Reference,
    parameters: Sequence[torch.nn.Parameter],
    lanes: Sequence[Lane],
) -> LaneErrors:
    """The same, one lane after the other: the reference for `run_lanes`, and the path of weights that cannot fold."""
    results = []
    for lane in lanes:
        mode = Substitution(_replacements(parameters, lane))
        statistics = ErrorStatistics(reference, family_weights(states), 1)
        state = states.state
        for t in range(system.steps(len(reference.outputs))):
            with mode:
                state, output = advance(system, state, input_at(states.inputs, t))
            statistics.update(output)
        results.append(statistics.result())
    return LaneErrors(torch.cat([r.samples for r in results]), torch.cat([r.curve for r in results]))


def _verify(system: System, states: States, parameters: Sequence[torch.nn.Parameter], folding: Folding) -> Folding:
    """One step with every foldable weight changed in a lane of its own, against the serial path."""
    serial = dict(folding.serial)
    foldable = [index for index in range(len(parameters)) if index not in serial]
    if not foldable:
        return folding
    size = RECORD_SIZES[0]
    state, step_input = _first_rows(states, size)
    lanes = [Lane({})] + [Lane({index: _changed(parameters[index])}) for index in foldable]
    mode = LaneMode(parameters, _stack(parameters, lanes), folding, len(lanes), size)
    everywhere = (_tile(state, len(lanes)), _tile(step_input, len(lanes)))
    try:
        together = _leaves(*mode.run(partial(advance, system, *everywhere)))
    except (FoldingError, RuntimeError) as error:  # torch raises RuntimeError where shapes do not fit
        reason = f"the folded step failed: {error}"
        return Folding(folding.calls, serial | dict.fromkeys(foldable, reason), (), folding.bytes_per_state)
    alone = [_leaves(*_substituted(system, parameters, lane, state, step_input)) for lane in lanes]
    for number, index in enumerate(foldable, start=1):
        if not (_agree(together, alone, number, size) and _agree(together, alone, 0, size)):
            serial[index] = "its folded lane differs from the serial path"
    return Folding(folding.calls, serial, (), folding.bytes_per_state)


def _substituted(
    system: System, parameters: Sequence[torch.nn.Parameter], lane: Lane, state: Tree, step_input: Tree | None
) -> tuple[Tree, torch.Tensor]:
    with Substitution(_replacements(parameters, lane)):
        return advance(system, state, step_input)


def _agree(together: list[torch.Tensor], alone: list[list[torch.Tensor]], lane: int, size: int) -> bool:
    """Whether the lane's rows equal its own serial step to well below the change that the lane was given."""
    for position, folded in enumerate(together):
        rows = folded[lane * size : (lane + 1) * size].double()
        expected, unchanged = alone[lane][position].double(), alone[0][position].double()
        change = (expected - unchanged).abs().max()
        magnitude = unchanged.abs().max()
        rounding = 64 * torch.finfo(folded.dtype).eps * magnitude if folded.is_floating_point() else 0
        if not bool((rows - expected).abs().max() <= PROBE_TOLERANCE * change + rounding):
            return False
    return True


def _changed(parameter: torch.Tensor) -> torch.Tensor:
    weight = parameter.detach()
    pattern = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
    size = weight.square().mean().sqrt()
    return weight + PROBE_CHANGE * torch.where(size > 0, size, 1) * pattern


def _replacements(parameters: Sequence[torch.nn.Parameter], lane: Lane) -> dict[torch.nn.Parameter, torch.Tensor]:
    return {parameters[index]: materialise(change, parameters[index]) for index, change in lane.changes.items()}


def _stack(parameters: Sequence[torch.nn.Parameter], lanes: Sequence[Lane]) -> dict[int, WeightVariants]:
    """Per weight, its distinct variants (by identity of the change) and the one each lane uses."""
    found: dict[int, list[Change]] = {}
    users: dict[int, list[int | None]] = {}
    for number, lane in enumerate(lanes):
        for index, change in lane.changes.items():
            known = found.setdefault(index, [])
            position = next((i for i, other in enumerate(known) if other is change), len(known))
            if position == len(known):
                known.append(change)
            users.setdefault(index, [None] * len(lanes))[number] = position
    return {
        index: WeightVariants(
            torch.stack([materialise(c, parameters[index]) for c in found[index]]), tuple(users[index])
        )
        for index in found
    }


def _tile(tree: Tree | None, lanes: int) -> Tree | None:
    """`[N, ...]` -> `[lanes * N, ...]`, lane-major."""
    return None if tree is None else tree_map(lambda leaf: leaf.repeat(lanes, *[1] * (leaf.dim() - 1)), tree)


def _first_rows(states: States, size: int) -> tuple[Tree, Tree | None]:
    """State and first input of `size` initial conditions, repeated where there are fewer."""
    rows = torch.arange(size) % states.count
    step_input = input_at(states.inputs, 0)
    state = tree_map(lambda leaf: leaf[rows], states.state)
    return state, None if step_input is None else tree_map(lambda leaf: leaf[rows], step_input)


def _leaves(state: Tree, output: torch.Tensor) -> list[torch.Tensor]:
    return [*tree_leaves(state), output]
