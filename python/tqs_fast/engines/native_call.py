"""The tensors of one call of the native runtime: checked, contiguous, and held while it reads them by address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tqs_fast._native import core
from tqs_fast.capture.program import PRECISIONS, PackedConstant, Program
from tqs_fast.errors import ArgumentError, CaptureError

CPU = torch.device("cpu")


def ready(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As the runtime reads it."""
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()


@dataclass(frozen=True)
class Place:
    """Where a program runs, which is where its constants lie, or where a rollout brings them.

    Attributes:
        device: where it runs.
        number: which GPU; -1 for the processor.
        constants_here: they stay in host memory, page-locked; what does not fit the GPU is streamed.
    """

    device: torch.device = CPU
    number: int = -1
    constants_here: bool = False

    @classmethod
    def of(cls, module: torch.nn.Module) -> Place:
        """That of the parameters.

        Raises:
            CaptureError: they lie on several devices, or on one that the native engine does not know.
        """
        devices = {parameter.device for parameter in module.parameters()} or {torch.device("cpu")}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise CaptureError(
                f"[capture] expected a module on one device, got {names}; move it with .to(device), or use "
                'engine="torch"'
            )
        (device,) = devices
        if device.type == "cpu":
            return cls()
        if device.type != "cuda":
            raise CaptureError(f'[capture] the native engine runs on cpu and cuda, got {device}; use engine="torch"')
        return cls(device, device.index or 0)

    @classmethod
    def bringing(cls, module: torch.nn.Module, device: torch.device) -> Place:
        """A GPU that the weights of a module of the CPU are brought to.

        Raises:
            CaptureError: the module is elsewhere, or `device` is no GPU, or this build, torch or machine has none.
        """
        there = cls.of(module)
        if device.type != "cuda":
            raise CaptureError(f'[capture] weights are brought to cuda devices, got {device}; use engine="native"')
        if there.number >= 0:
            raise CaptureError(
                f"[capture] the weights are brought from the CPU, and lie on {there.device}; move the module with "
                '.to("cpu"), or use engine="native", which runs where they lie'
            )
        devices = min(core.cuda_device_count(), torch.cuda.device_count())
        if (device.index or 0) >= devices:
            if not core.cuda_built():
                why = "tqs-fast was built without CUDA (to change that: pip install . "
                why += "--config-settings=cmake.define.TQS_CUDA=ON, with nvcc on PATH)"
            elif torch.version.cuda is None and torch.version.hip is None:
                why = "this PyTorch is one without CUDA (to change that: pip install one that has it)"
            else:
                why = f"this machine shows {devices} GPUs, counted from 0 (nvidia-smi lists those it has)"
            raise CaptureError(
                f'[capture] weights cannot be brought to {device}: {why}; or use engine="native", which runs on the CPU'
            )
        return cls(torch.device("cuda", device.index or 0), device.index or 0, constants_here=True)

    @property
    def stream(self) -> int:
        """The caller's stream: what is enqueued there comes before a rollout."""
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def settle(self) -> None:
        """Wait for what is enqueued on the caller's stream."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def free_bytes(self) -> int:
        """Of a GPU's memory; 0 for the processor."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0

    def ready(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What takes the place of a constant, as the runtime reads it."""
        return tensor.detach().to(device=self.device, dtype=dtype).contiguous()

    def constant(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A constant as the runtime reads it."""
        return ready(tensor, dtype) if self.constants_here else self.ready(tensor, dtype)


def split_engine(name: str, function: str) -> tuple[str, torch.device | None]:
    """ "native:cuda" (or "native:cuda:1") as "native" and the device that weights are brought to; others as they are.

    Raises:
        ArgumentError: no device, or of another engine.
    """
    engine, colon, device = name.partition(":")
    if not colon:
        return name, None
    try:
        return engine, torch.device(device if engine == "native" else "")
    except RuntimeError:
        raise ArgumentError(
            f'[{function}] expected an engine or "native:cuda", which brings the weights to that device, got {name!r}'
        ) from None


def page_locked(tensors: Iterable[torch.Tensor], place: Place) -> list[core.PageLock]:
    """Locks on the memory of tensors that a GPU copies from; each holds it, too.

    Whole storages, not what a tensor sees of them: CUDA refuses to copy memory that is locked in part.
    """
    storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return [
        core.PageLock(memory, bytes=storage.nbytes(), device=place.number, held=storage)
        for memory, storage in storages.items()
    ]


def address(tensor: torch.Tensor | None) -> int:
    """Of the data; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def buffer_dtype(program: Program, buffer: int) -> torch.dtype:
    """Of the elements of a buffer."""
    return PRECISIONS[program.buffers[buffer].precision]


class Packed:
    """A packed weight as the runtime reads it; holds the memory behind `view`."""

    def __init__(self, weight: PackedConstant, place: Place) -> None:
        codes, scales = place.ready(weight.codes, torch.uint8), place.ready(weight.scales, torch.int16)
        zeros = None if weight.zeros is None else place.ready(weight.zeros, torch.uint8)
        self._held = (codes, scales, zeros)
        self.view = core.PackedView(
            codes=address(codes),
            scales=address(scales),
            zeros=address(zeros),
            rows=weight.shape[0],
            columns=weight.shape[1],
            group_size=weight.group_size,
            bits=weight.bits,
        )


@dataclass(frozen=True, eq=False)
class Start:
    """Where a rollout begins.

    Attributes:
        states: leaves `[N, ...]`.
        inputs: leaves `[N, steps, ...]`.
        missing: state leaves of the program, after these, that its prologue fills.
    """

    states: list[torch.Tensor]
    inputs: list[torch.Tensor]
    missing: int

    @property
    def count(self) -> int:
        """Initial conditions, N."""
        return self.states[0].shape[0]

    @property
    def state_addresses(self) -> list[int]:
        """Of every state leaf of the program."""
        return self.addresses(self.states)

    @property
    def input_steps(self) -> int:
        """Steps that the inputs cover."""
        return self.inputs[0].shape[1] if self.inputs else 0

    def addresses(self, leaves: Sequence[torch.Tensor | None]) -> list[int]:
        """Of leaves like the states, padded for those that are missing."""
        return [address(leaf) for leaf in leaves] + [0] * self.missing


def start(program: Program, states: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], missing: int) -> Start:
    """Check leaves against the first program of a rollout.

    Raises:
        ArgumentError: leaves that the captured step does not have.
    """
    expected = len(program.states) - missing
    if len(states) != expected or len(inputs) != len(program.inputs):
        raise ArgumentError(
            f"[rollout] the captured step has {expected} state and {len(program.inputs)} input leaves, "
            f"got {len(states)} and {len(inputs)}"
        )
    starts = []
    for leaf, state in zip(states, program.states, strict=False):
        buffer = program.buffers[state.buffer]
        elements = state.outer * state.length * state.inner if state.slide else buffer.elements
        if leaf.numel() != leaf.shape[0] * elements:
            raise ArgumentError(
                f"[rollout] a state leaf has {leaf[0].numel()} elements per sample, the captured step {elements}"
            )
        starts.append(ready(leaf, buffer_dtype(program, state.buffer)))
    series = []
    for leaf, number in zip(inputs, program.inputs, strict=True):
        elements = program.buffers[number].elements
        if leaf.numel() != leaf.shape[0] * leaf.shape[1] * elements:
            raise ArgumentError(
                f"[rollout] an input has {leaf[0, 0].numel()} elements per step, the captured step {elements}"
            )
        series.append(ready(leaf, buffer_dtype(program, number)))
    return Start(starts, series, missing)


@dataclass(frozen=True, eq=False)
class TangentCall:
    """A tangent rollout but for its results.

    Attributes:
        seeds: per state leaf `[K, N, ...]`, or None for zero.
        weight_seeds: per tangent, constant buffer -> tangent of the constant.
        tangents: K.
        stream: of the caller (`Place.stream`).
    """

    begin: Start
    steps: int
    values: int
    seeds: list[torch.Tensor | None]
    weight_seeds: list[dict[int, torch.Tensor]]
    tangents: int
    memory_limit: int
    stream: int

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
        """With the addresses of what is wanted."""
        return core.TangentTask(
            samples=self.begin.count,
            tangents=self.tangents,
            steps=self.steps,
            states=self.begin.state_addresses,
            seeds=self.begin.addresses(self.seeds),
            weight_seeds=[
                core.WeightSeed(buffer, tangent=number, data=tensor.data_ptr())
                for number, lane in enumerate(self.weight_seeds)
                for buffer, tensor in lane.items()
            ],
            inputs=[address(leaf) for leaf in self.begin.inputs],
            input_steps=self.begin.input_steps,
            values=self.values,
            outputs=outputs,
            tangent_outputs=tangent_outputs,
            scale=scale,
            errors=errors,
            final_states=final_states,
            final_tangents=final_tangents,
            threads=torch.get_num_threads(),
            memory_limit=self.memory_limit,
            stream=self.stream,
        )


def tangent_call(
    program: Program,
    place: Place,
    begin: Start,
    steps: int,
    values: int,
    seeds: Sequence[torch.Tensor | None] | None,
    weight_seeds: Sequence[Mapping[int, torch.Tensor]],
    memory_limit: int,
) -> TangentCall:
    """Seeds made ready; no seeds and no weight seeds make a plain rollout, K = 0."""
    pairs = zip(seeds or [None] * len(begin.states), begin.states, strict=True)
    directions = [None if seed is None else ready(seed, leaf.dtype) for seed, leaf in pairs]
    kept = [{b: place.ready(t, buffer_dtype(program, b)) for b, t in lane.items()} for lane in weight_seeds]
    tangents = len(kept) or next((seed.shape[0] for seed in directions if seed is not None), 0)
    return TangentCall(begin, steps, values, directions, kept, tangents, memory_limit, place.stream)
