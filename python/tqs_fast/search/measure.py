"""Measured damage of whole plans: every plan is a lane with all its weights changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.engines import Change, Lane, choose_engine, roll_reference
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import Quantizer
from tqs_fast.quantization.blocks import Block, parse_name
from tqs_fast.quantization.weights import Weight, find_weights, parameter_of
from tqs_fast.scoring.checkpoint import Checkpoint, fingerprint
from tqs_fast.scoring.lanes import explaining_memory
from tqs_fast.systems import States, System

FloatArray = npt.NDArray[np.float64]
Assignment = Mapping[str, int | None]
"""Bits by layer name."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Damages of P plans.

    Attributes:
        samples: `[P, N]`, per initial condition; infinite where the rollout diverged.
        curve: `[P, T]`, mse_t.
    """

    samples: FloatArray
    curve: FloatArray


class RoundedWeights:
    """The planned weights at every combination of bits that a search meets, rounded once and shared by all lanes.

    A weight whose row blocks have bits of their own is put together from its blocks; the last `2 * lanes` such
    combinations are not kept, so that memory stays near the size of the blocks themselves.
    """

    def __init__(self, system: System, layers: Sequence[str], quantizer: Quantizer) -> None:
        parts: dict[str, list[tuple[str, tuple[int, int] | None]]] = {}
        for name in layers:
            weight, rows = parse_name(name)
            parts.setdefault(weight, []).append((name, rows))
        self._weights: list[Weight] = find_weights(system.module, list(parts))
        self.parameters = [_parameter(system, weight) for weight in self._weights]
        self._blocks = [
            [Block(name, weight, *(rows or (0, weight.shape[0]))) for name, rows in parts[weight.name]]
            for weight in self._weights
        ]
        self._quantizer = quantizer
        self._rounded: dict[tuple[str, int], torch.Tensor] = {}

    @property
    def bytes_per_lane(self) -> int:
        """What a lane's own copies take at most: those of weights in row blocks; others are shared."""
        sizes = zip(self._blocks, self.parameters, strict=True)
        return sum(p.numel() * p.element_size() for blocks, p in sizes if len(blocks) > 1)

    def lanes(self, plans: Sequence[Assignment]) -> list[Lane]:
        """One lane for each plan; equal weights are one tensor."""
        known: dict[tuple[int, tuple[int | None, ...]], torch.Tensor] = {}
        lanes = []
        for plan in plans:
            changes: dict[int, Change] = {}
            for index, blocks in enumerate(self._blocks):
                bits = tuple(plan[block.name] for block in blocks)
                if any(b is not None for b in bits):
                    if (index, bits) not in known:
                        known[index, bits] = self._assembled(index, bits)
                    changes[index] = known[index, bits]
            lanes.append(Lane(changes))
        return lanes

    def _assembled(self, index: int, bits: tuple[int | None, ...]) -> torch.Tensor:
        blocks, parameter = self._blocks[index], self.parameters[index].detach()
        pairs = [(block, b) for block, b in zip(blocks, bits, strict=True) if b is not None]
        if len(blocks) == 1 and blocks[0].shape == tuple(parameter.shape):
            return self._block(blocks[0], pairs[0][1], parameter)
        changed = parameter.clone()
        for block, b in pairs:
            changed[block.first : block.end] = self._block(block, b, parameter)
        return changed

    def _block(self, block: Block, bits: int, parameter: torch.Tensor) -> torch.Tensor:
        key = (block.name, bits)
        if key not in self._rounded:
            rows = block.of(parameter)
            self._rounded[key] = self._quantizer.dequantized(rows, bits).to(rows)
        return self._rounded[key]


class Measurer:
    """Rolls plans out from one set of initial conditions.

    Args:
        system: the float model.
        states: where rollouts start.
        horizon: output values per rollout.
        rounded: the weights, shared between measurers.
        engine: as in `score`.
        memory_limit: bytes for the lanes of one chunk; None: the engine's own.
        checkpoint: folder in which measured chunks are kept, or None.
        description: what the run is, for the fingerprint of the checkpoint.

    Raises:
        ArgumentError, CaptureError, DivergenceError, CheckpointError: as `score` does.
    """

    def __init__(
        self,
        system: System,
        states: States,
        horizon: int,
        rounded: RoundedWeights,
        *,
        engine: str,
        memory_limit: int | None,
        checkpoint: str | os.PathLike[str] | None,
        description: Mapping[str, Any],
    ) -> None:
        self.states = states
        self._rounded = rounded
        self._limit = memory_limit
        self._engine, self.reason = choose_engine(engine, system, states, rounded.parameters, horizon=horizon)
        self._reference = roll_reference(system, states, horizon, outputs=self._engine.roll())
        parts = fingerprint(
            {**description, "engine": self._engine.name}, system.module, states, self._reference.outputs
        )
        self.fingerprint = parts
        self._store = None if checkpoint is None else Checkpoint(Path(checkpoint), parts)
        self._chunk = 0

    @property
    def engine(self) -> str:
        """The name of the engine that runs."""
        return self._engine.name

    def measure(self, plans: Sequence[Assignment], done: Callable[[int], None] = lambda count: None) -> Measured:
        """Damages of `plans`, in chunks that fit the memory; `done` is called with the plans measured so far."""
        per_chunk = self._engine.lanes_per_chunk(self._reference, self._limit)
        if self._limit is not None and self._rounded.bytes_per_lane:
            per_chunk = max(1, min(per_chunk, self._limit // self._rounded.bytes_per_lane))
        chunks = [plans[first : first + per_chunk] for first in range(0, len(plans), per_chunk)]
        results = []
        for chunk in chunks:
            results.append(self._measured(chunk))
            done(sum(len(part["samples"]) for part in results))
        return Measured(
            np.concatenate([part["samples"] for part in results]), np.concatenate([part["curve"] for part in results])
        )

    def _measured(self, plans: Sequence[Assignment]) -> dict[str, np.ndarray[Any, Any]]:
        horizon, count = self._reference.outputs.shape[:2]
        bits = np.array([[b or 0 for b in plan.values()] for plan in plans])
        shapes = {"bits": bits.shape, "samples": (len(plans), count), "curve": (len(plans), horizon), "fell_back": ()}
        number, self._chunk = self._chunk, self._chunk + 1
        kept = self._store.load(number, shapes) if self._store else None
        # Other bits: what was measured when the same search was asked for fewer evaluations ended here.
        if kept is not None and np.array_equal(kept["bits"], bits):
            if kept["fell_back"]:
                reason = "a later step makes other calls than the first"
                self._engine.serial.update(dict.fromkeys(range(len(self._rounded.parameters)), reason))
            return kept
        folded = not self._engine.serial
        with explaining_memory("search", len(plans), count):
            errors = self._engine.run(self._rounded.lanes(plans), self._reference, self._limit)
        arrays = {
            "bits": bits,
            "samples": errors.samples.numpy(),
            "curve": errors.curve.numpy(),
            "fell_back": np.array(folded and bool(self._engine.serial)),
        }
        if self._store:
            self._store.save(number, arrays)
        return arrays


def _parameter(system: System, weight: Weight) -> torch.nn.Parameter:
    parameter = parameter_of(system.module, weight)
    if not isinstance(parameter, torch.nn.Parameter):
        raise ArgumentError(f"[search] {weight.name} is not a parameter of {system.name}")
    return parameter
