"""A captured program in the native runtime: ensemble and tangent rollouts over plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tqs_fast._native import core
from tqs_fast.capture.program import Program
from tqs_fast.engines.native_call import (
    Packed,
    Place,
    Start,
    TangentCall,
    address,
    buffer_dtype,
    page_locked,
    ready,
    start,
    tangent_call,
)

Leaves = Sequence[torch.Tensor]


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


class NativeProgram:
    """A program bound to the kernels of the instruction set in use, or of a GPU. Threads: those of torch
    (`torch.set_num_threads`). Results are tensors of the CPU wherever they were computed.

    Args:
        program: one step.
        prologue: of a growing context, the program of the first step (`capture.stream`); the state is then the window.
        place: where it runs.

    Raises:
        ArgumentError: a program does not fit the ops' shape rules.
        TqsError: there is no such GPU, or the package was built without CUDA.
    """

    def __init__(self, program: Program, prologue: Program | None = None, *, place: Place | None = None) -> None:
        self.program = program
        self.first = program if prologue is None else prologue
        self.place = place or Place()
        constants = {
            c.buffer: self.place.constant(c.tensor, buffer_dtype(program, c.buffer)) for c in program.constants
        }
        addresses = {buffer: tensor.data_ptr() for buffer, tensor in constants.items()}
        self._constants = constants  # held: the runtime reads them in place
        locks = page_locked(constants.values(), self.place) if self.place.constants_here else []
        self._packed = [Packed(weight, self.place) for weight in program.packed]  # likewise
        views = [weight.view for weight in self._packed]
        self.place.settle()  # rollouts may come on another stream than what has just been enqueued

        def bound(spec: Program) -> core.Program:
            return core.Program(
                spec,
                constants=addresses,
                packed=views,
                device=self.place.number,
                constants_here=self.place.constants_here,
                held=(constants, locks),
            )

        self._program = bound(program)
        self._prologue = None if prologue is None else bound(prologue)
        value = program.values[program.output]
        self._channels = value.sizes[-1]
        self._block = value.sizes[1] if len(value.sizes) == 3 else 1
        self._output_dtype = buffer_dtype(program, value.buffer)

    @property
    def arena_bytes(self) -> int:
        """Of one lane of one sample, states included."""
        return self._program.arena_bytes + self._program.state_bytes

    @property
    def packed_bytes(self) -> int:
        """Of the packed weights in the layout of the instruction set, each once."""
        return self._program.packed_bytes

    @property
    def runtime(self) -> core.Program:
        """The program as the runtime knows it."""
        return self._program

    def ensemble(
        self,
        states: Leaves,
        inputs: Leaves,
        *,
        steps: int,
        values: int,
        lanes: Sequence[Mapping[int, Variant]] = ({},),
        memory_limit: int = 0,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Roll all lanes from the same states.

        Args:
            states: leaves `[N, ...]`.
            inputs: leaves `[N, >= steps, ...]`.
            steps: steps taken.
            values: output values wanted, T <= steps * block.
            lanes: per lane, constant buffer -> the variant it uses there.
            memory_limit: as for `errors`.

        Returns:
            outputs `[lanes, T, N, C]` and final states `[lanes, N, ...]` per leaf.
        """
        begin = self._start(states, inputs)
        count = values if self._prologue is None else steps * self._block
        outputs = torch.empty(len(lanes), count, begin.count, self._channels, dtype=self._output_dtype)
        final = [torch.empty(len(lanes), *leaf.shape, dtype=leaf.dtype) for leaf in begin.states]
        self._run(begin, steps, count, lanes, outputs=outputs, final=final, limit=memory_limit)
        if self._prologue is not None:
            final = [torch.cat([final[0], outputs.permute(0, 2, 1, 3).to(final[0].dtype)], dim=2)]
        return outputs[:, :values], final

    def errors(
        self,
        states: Leaves,
        inputs: Leaves,
        *,
        steps: int,
        lanes: Sequence[Mapping[int, Variant]],
        reference: torch.Tensor,
        scale: torch.Tensor,
        memory_limit: int = 0,
    ) -> torch.Tensor:
        """Squares of (output - reference) / scale, mean over channels, for every lane: `[lanes, T, N]` in float64.

        Args:
            states, inputs, steps, lanes: as in `ensemble`.
            reference: `[T, N, C]`.
            scale: `[C]`.
            memory_limit: bytes that all threads together may use for activations; 0 for no limit. On a GPU bytes of
                everything but lanes' own constants that the caller holds; 0 for most of what is free.
        """
        begin = self._start(states, inputs)
        errors = torch.empty(len(lanes), len(reference), begin.count, dtype=torch.float64)
        reference, scale = ready(reference, self._output_dtype), ready(scale, torch.float64)
        self._run(
            begin, steps, len(reference), lanes, reference=reference, scale=scale, errors=errors, limit=memory_limit
        )
        return errors

    def tangents(
        self,
        states: Leaves,
        inputs: Leaves,
        *,
        steps: int,
        values: int,
        seeds: Sequence[torch.Tensor | None] | None = None,
        weight_seeds: Sequence[Mapping[int, torch.Tensor]] = (),
        memory_limit: int = 0,
    ) -> Tangents:
        """Jacobian-vector products along a rollout.

        Args:
            states, inputs, steps, values: as in `ensemble`.
            seeds: per state leaf `[K, N, ...]`, or None for zero.
            weight_seeds: per tangent, constant buffer -> tangent of the constant.
            memory_limit: as for `errors`.
        """
        begin = self._start(states, inputs)
        count = values if self._prologue is None else steps * self._block
        call = tangent_call(self.program, self.place, begin, steps, count, seeds, weight_seeds, memory_limit)
        outputs = torch.empty(count, begin.count, self._channels, dtype=self._output_dtype)
        tangent_outputs = torch.empty(count, call.tangents, begin.count, self._channels, dtype=self._output_dtype)
        final = [torch.empty_like(leaf) for leaf in begin.states]
        final_tangents = [torch.empty(call.tangents, *leaf.shape, dtype=leaf.dtype) for leaf in begin.states]
        task = call.task(
            outputs=outputs.data_ptr(),
            tangent_outputs=tangent_outputs.data_ptr(),
            final_states=begin.addresses(final),
            final_tangents=begin.addresses(final_tangents),
        )
        use = core.run_tangents(self._program, self._prologue, task)
        if self._prologue is not None:
            dtype = final[0].dtype
            final = [torch.cat([final[0], outputs.transpose(0, 1).to(dtype)], dim=1)]
            gained = tangent_outputs.permute(1, 2, 0, 3).to(dtype)
            final_tangents = [torch.cat([final_tangents[0], gained], dim=2)]
        return Tangents(outputs[:values], tangent_outputs[:values], final, final_tangents, use)

    def tangent_errors(
        self,
        states: Leaves,
        inputs: Leaves,
        *,
        steps: int,
        values: int,
        weight_seeds: Sequence[Mapping[int, torch.Tensor]],
        scale: torch.Tensor,
        memory_limit: int = 0,
    ) -> torch.Tensor:
        """Squares of the output tangents over `scale` `[C]`, mean over channels: `[K, T, N]` in float64."""
        begin = self._start(states, inputs)
        call = tangent_call(self.program, self.place, begin, steps, values, None, weight_seeds, memory_limit)
        errors = torch.empty(call.tangents, values, begin.count, dtype=torch.float64)
        scale = ready(scale, torch.float64)
        task = call.task(scale=scale.data_ptr(), errors=errors.data_ptr())
        core.run_tangents(self._program, self._prologue, task)
        return errors

    def first_non_finite(
        self, states: Leaves, inputs: Leaves, *, steps: int, seeds: Sequence[torch.Tensor | None] | None = None
    ) -> Failure | None:
        """Where a rollout, or its tangents, first stops being finite; None if it does not. Repeats the rollout."""
        begin = self._start(states, inputs)
        call: TangentCall = tangent_call(self.program, self.place, begin, steps, 1, seeds, (), 0)
        step, node, tangent, sample = core.find_non_finite(self._program, self._prologue, call.task())
        if step < 0:
            return None
        nodes = self.first.nodes if step == 0 else self.program.nodes
        return Failure(step, nodes[node].origin, None if tangent < 0 else tangent, sample)

    def _start(self, states: Leaves, inputs: Leaves) -> Start:
        missing = 0 if self._prologue is None else len(self.first.states) - 1
        return start(self.first, states, inputs, missing)

    def _run(
        self,
        begin: Start,
        steps: int,
        values: int,
        lanes: Sequence[Mapping[int, Variant]],
        *,
        reference: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        errors: torch.Tensor | None = None,
        outputs: torch.Tensor | None = None,
        final: Leaves = (),
        limit: int = 0,
    ) -> None:
        variants, assignment, _held = self._variants(lanes)
        self.last_use = core.run_ensemble(
            self._program,
            self._prologue,
            samples=begin.count,
            steps=steps,
            states=begin.state_addresses,
            inputs=[address(leaf) for leaf in begin.inputs],
            input_steps=begin.input_steps,
            variants=variants,
            lanes=assignment,
            values=values,
            reference=address(reference),
            scale=address(scale),
            errors=address(errors),
            outputs=address(outputs),
            final_states=begin.addresses(final) if final else [],
            threads=torch.get_num_threads(),
            memory_limit=limit,
            stream=self.place.stream,
        )

    def _variants(
        self, lanes: Sequence[Mapping[int, Variant]]
    ) -> tuple[list[core.Variant], list[list[int]], list[torch.Tensor]]:
        """Each distinct variant once, the variants of each lane, and what must be held meanwhile."""
        numbers: dict[tuple[int, int], int] = {}
        variants: list[core.Variant] = []
        held: list[torch.Tensor] = []
        assignment = []
        for lane in lanes:
            used = []
            for buffer, variant in lane.items():
                number = numbers.setdefault((buffer, id(variant)), len(variants))
                if number == len(variants):
                    if isinstance(variant, Noise):
                        variants.append(core.Variant(buffer, **vars(variant)))
                    else:
                        held.append(self.place.ready(variant, buffer_dtype(self.program, buffer)))
                        variants.append(core.Variant(buffer, data=address(held[-1])))
                used.append(number)
            assignment.append(used)
        return variants, assignment, held
