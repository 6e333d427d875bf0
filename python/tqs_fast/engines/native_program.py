"""A captured program in the native runtime: ensemble and tangent rollouts over plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tqs_fast._native import core
from tqs_fast.capture.program import Program
from tqs_fast.errors import ArgumentError

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Noise:
    """Normal noise on a constant: elements `[begin, begin + count)` get `scale` times the counter-based stream."""

    seed: int
    stream: int
    scale: float
    begin: int
    count: int


Variant = torch.Tensor | Noise


@dataclass(frozen=True, eq=False)
class Tangents:
    """What a tangent rollout returns; K tangents of N samples.

    Attributes:
        outputs: `[T, N, C]`.
        tangent_outputs: `[T, K, N, C]`.
        states: per leaf `[N, ...]` after the last step.
        state_tangents: per leaf `[K, N, ...]`.
        use: lanes and samples of a tile, and its bytes.
    """

    outputs: torch.Tensor
    tangent_outputs: torch.Tensor
    states: list[torch.Tensor]
    state_tangents: list[torch.Tensor]
    use: dict[str, int]


@dataclass(frozen=True)
class Failure:
    """The first NaN or infinity of a rollout.

    Attributes:
        step: from 0.
        origin: module path and operation.
        tangent: which tangent; None for the rollout itself.
        sample: which initial condition.
    """

    step: int
    origin: str
    tangent: int | None
    sample: int


@dataclass(frozen=True, eq=False)
class _TangentCall:
    """Tensors of one call, held while the runtime reads them by address."""

    starts: list[torch.Tensor]
    series: list[torch.Tensor]
    steps: int
    values: int
    directions: list[torch.Tensor | None]
    weight_seeds: list[dict[int, torch.Tensor]]
    tangents: int
    memory_limit: int

    @property
    def count(self) -> int:
        return self.starts[0].shape[0]

    def task(
        self,
        *,
        outputs: int = 0,
        tangent_outputs: int = 0,
        scale: int = 0,
        errors: int = 0,
        final_states: Sequence[int] = (),
        final_tangents: Sequence[int] = (),
    ) -> core.TangentTask:
        return core.TangentTask(
            samples=self.count,
            tangents=self.tangents,
            steps=self.steps,
            states=[leaf.data_ptr() for leaf in self.starts],
            seeds=[_address(seed) for seed in self.directions],
            weight_seeds=[
                core.WeightSeed(buffer, tangent=number, data=tensor.data_ptr())
                for number, lane in enumerate(self.weight_seeds)
                for buffer, tensor in lane.items()
            ],
            inputs=[leaf.data_ptr() for leaf in self.series],
            input_steps=self.series[0].shape[1] if self.series else 0,
            values=self.values,
            outputs=outputs,
            tangent_outputs=tangent_outputs,
            scale=scale,
            errors=errors,
            final_states=final_states,
            final_tangents=final_tangents,
            threads=torch.get_num_threads(),
            memory_limit=self.memory_limit,
        )


class NativeProgram:
    """A program bound to the kernels of the instruction set in use. Threads: those of torch (`torch.set_num_threads`).

    Raises:
        ArgumentError: the program does not fit the ops' shape rules.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._constants = {
            constant.buffer: _ready(constant.tensor, PRECISIONS[program.buffers[constant.buffer].precision])
            for constant in program.constants
        }
        self.core = core.Program(program, constants={b: t.data_ptr() for b, t in self._constants.items()})

    @property
    def output_dtype(self) -> torch.dtype:
        """Of the outputs of rollouts."""
        return self._dtype(self.program.values[self.program.output].buffer)

    def ensemble(
        self,
        states: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        *,
        steps: int,
        values: int,
        lanes: Sequence[Mapping[int, Variant]] = ({},),
        reference: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        memory_limit: int = 0,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Roll all lanes from the same states.

        Args:
            states: leaves `[N, ...]`.
            inputs: leaves `[N, >= steps, ...]`.
            values: output values wanted, T <= steps * block.
            lanes: per lane, constant buffer -> the variant it uses there.
            reference: `[T, N, C]`; with `scale` `[C]` the errors are returned in place of the outputs.

        Returns:
            outputs `[lanes, T, N, C]` and final states `[lanes, N, ...]` per leaf; or, with a reference, squared scaled
            errors `[lanes, T, N]` in float64 and no states.
        """
        starts, series = self._leaves(states, inputs)
        count = starts[0].shape[0]
        kept: list[Variant] = []
        numbers: dict[tuple[int, int], int] = {}
        variants: list[core.Variant] = []
        assignment = []
        for lane in lanes:
            used = []
            for buffer, variant in lane.items():
                key = (buffer, id(variant))
                if key not in numbers:
                    numbers[key] = len(variants)
                    if isinstance(variant, torch.Tensor):
                        variant = _ready(variant, self._dtype(buffer))
                        variants.append(core.Variant(buffer, data=variant.data_ptr()))
                    else:
                        variants.append(core.Variant(buffer, **vars(variant)))
                    kept.append(variant)
                    kept.append(lane[buffer])  # ids stay valid
                used.append(numbers[key])
            assignment.append(used)
        channels = self.program.values[self.program.output].sizes[-1]
        size = (len(lanes), values, count)
        errors = outputs = None
        final: list[torch.Tensor] = []
        if reference is None:
            outputs = torch.empty(*size, channels, dtype=self.output_dtype)
            final = [torch.empty(len(lanes), *leaf.shape, dtype=leaf.dtype) for leaf in starts]
        else:
            assert scale is not None
            reference = _ready(reference, self.output_dtype)
            scale = _ready(scale, torch.float64)
            errors = torch.empty(*size, dtype=torch.float64)
        core.run_ensemble(
            self.core,
            self._prologue,
            samples=count,
            steps=steps,
            states=[leaf.data_ptr() for leaf in starts],
            inputs=[leaf.data_ptr() for leaf in series],
            input_steps=series[0].shape[1] if series else 0,
            variants=variants,
            lanes=assignment,
            values=values,
            reference=_address(reference),
            scale=_address(scale),
            errors=_address(errors),
            outputs=_address(outputs),
            final_states=[leaf.data_ptr() for leaf in final],
            threads=torch.get_num_threads(),
            memory_limit=memory_limit,
        )
        result = errors if outputs is None else outputs
        assert result is not None
        return result, final

    def tangents(
        self,
        states: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        *,
        steps: int,
        values: int,
        seeds: Sequence[torch.Tensor | None],
        weight_seeds: Sequence[Mapping[int, torch.Tensor]] = (),
        memory_limit: int = 0,
    ) -> Tangents:
        """Jacobian-vector products along a rollout.

        Args:
            states, inputs, steps, values: as in `ensemble`.
            seeds: per state leaf `[K, N, ...]`, or None for zero.
            weight_seeds: per tangent, constant buffer -> tangent of the constant.
        """
        call = self._tangent_call(states, inputs, steps, values, seeds, weight_seeds, memory_limit)
        channels = self.program.values[self.program.output].sizes[-1]
        outputs = torch.empty(values, call.count, channels, dtype=self.output_dtype)
        tangent_outputs = torch.empty(values, call.tangents, call.count, channels, dtype=self.output_dtype)
        final = [torch.empty_like(leaf) for leaf in call.starts]
        final_tangents = [torch.empty(call.tangents, *leaf.shape, dtype=leaf.dtype) for leaf in call.starts]
        use = core.run_tangents(
            self.core,
            self._prologue,
            call.task(
                outputs=outputs.data_ptr(),
                tangent_outputs=tangent_outputs.data_ptr(),
                final_states=[leaf.data_ptr() for leaf in final],
                final_tangents=[leaf.data_ptr() for leaf in final_tangents],
            ),
        )
        return Tangents(outputs, tangent_outputs, final, final_tangents, use)

    def tangent_errors(
        self,
        states: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        *,
        steps: int,
        values: int,
        weight_seeds: Sequence[Mapping[int, torch.Tensor]],
        scale: torch.Tensor,
        memory_limit: int = 0,
    ) -> torch.Tensor:
        """Squares of the output tangents over `scale` `[C]`, mean over channels: `[K, T, N]` in float64."""
        call = self._tangent_call(states, inputs, steps, values, [None] * len(states), weight_seeds, memory_limit)
        errors = torch.empty(call.tangents, values, call.count, dtype=torch.float64)
        scale = _ready(scale, torch.float64)
        core.run_tangents(self.core, self._prologue, call.task(scale=scale.data_ptr(), errors=errors.data_ptr()))
        return errors

    def first_non_finite(
        self,
        states: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        *,
        steps: int,
        seeds: Sequence[torch.Tensor | None] | None = None,
    ) -> Failure | None:
        """Where a rollout, or its tangents, first stops being finite; None if it does not. Repeats the rollout."""
        call = self._tangent_call(states, inputs, steps, 1, seeds or [None] * len(states), (), 0)
        step, node, tangent, sample = core.find_non_finite(self.core, self._prologue, call.task())
        if step < 0:
            return None
        return Failure(step, self.program.nodes[node].origin, None if tangent < 0 else tangent, sample)

    def _tangent_call(
        self,
        states: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        steps: int,
        values: int,
        seeds: Sequence[torch.Tensor | None],
        weight_seeds: Sequence[Mapping[int, torch.Tensor]],
        memory_limit: int,
    ) -> _TangentCall:
        starts, series = self._leaves(states, inputs)
        pairs = zip(seeds, starts, strict=True)
        directions = [None if seed is None else _ready(seed, leaf.dtype) for seed, leaf in pairs]
        kept = [{b: _ready(t, self._dtype(b)) for b, t in lane.items()} for lane in weight_seeds]
        tangents = len(kept) or next((seed.shape[0] for seed in directions if seed is not None), 0)
        return _TangentCall(starts, series, steps, values, directions, kept, tangents, memory_limit)

    def _dtype(self, buffer: int) -> torch.dtype:
        return PRECISIONS[self.program.buffers[buffer].precision]

    def _leaves(
        self, states: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        program = self.program
        if len(states) != len(program.states) or len(inputs) != len(program.inputs):
            raise ArgumentError(
                f"[rollout] the captured step has {len(program.states)} state and {len(program.inputs)} input leaves, "
                f"got {len(states)} and {len(inputs)}"
            )
        starts = []
        for leaf, state in zip(states, program.states, strict=True):
            buffer = program.buffers[state.buffer]
            elements = state.outer * state.length * state.inner if state.slide else buffer.elements
            if leaf[0].numel() != elements:
                raise ArgumentError(
                    f"[rollout] a state leaf has {leaf[0].numel()} elements per sample, the captured step {elements}"
                )
            starts.append(_ready(leaf, PRECISIONS[buffer.precision]))
        series = []
        for leaf, number in zip(inputs, program.inputs, strict=True):
            buffer = program.buffers[number]
            if leaf[0, 0].numel() != buffer.elements:
                raise ArgumentError(
                    f"[rollout] an input has {leaf[0, 0].numel()} elements per step, "
                    f"the captured step {buffer.elements}"
                )
            series.append(_ready(leaf, PRECISIONS[buffer.precision]))
        return starts, series


def _ready(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
