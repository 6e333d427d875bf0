"""Methods that roll out variants of the weights: which lanes there are, in which chunks, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tqs_fast import _cuda_weights
from tqs_fast._progress import Report
from tqs_fast.engines import Change, Drawn, Lane, choose_engine, materialise, roll_reference, split_engine
from tqs_fast.errors import OutOfMemoryError
from tqs_fast.scoring.checkpoint import Checkpoint
from tqs_fast.scoring.direct import FloatArray, Measured
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.scoring.methods import Method
from tqs_fast.scoring.task import Task


@dataclass(frozen=True)
class _Job:
    """Variant `number` of all `blocks` of a group, which are parts of `weights`."""

    blocks: tuple[int, ...]
    weights: tuple[int, ...]
    number: int


class LaneRun:
    """A lane method on a task: V variants of each of L blocks, rolled out in chunks.

    Attributes:
        reference: the float rollout, by the engine that runs the lanes.
        description: engine and chunks, for the fingerprint: a finished chunk is only resumed into the same cut.

    Raises:
        as `score`.
    """

    def __init__(self, method: Method, task: Task) -> None:
        self._method = method
        self._task = task
        self._device = split_engine(task.engine, "score")[1]
        self._engine, self._reason = choose_engine(
            task.engine, task.system, task.states, task.parameters, horizon=task.horizon
        )
        self.reference = roll_reference(
            task.system, task.states, task.horizon, outputs=self._engine.roll(task.memory_limit)
        )
        of = task.weight_of
        jobs = [_Job(g, tuple(of[b] for b in g), v) for g in task.groups for v in range(method.variants)]
        # An engine counts on one changed weight per lane; a group holds more.
        together = max(map(len, task.groups))
        lanes_per_chunk = max(1, self._engine.lanes_per_chunk(self.reference, task.memory_limit) // together)
        self._chunks = _chunks(jobs, set(self._engine.serial), lanes_per_chunk)
        self.description: dict[str, Any] = {
            "engine": self._engine.name,
            "chunks": [[(job.blocks[0], job.number) for job in chunk] for chunk in self._chunks],
        }

    def measure(self, store: Checkpoint | None, report: Report) -> Measured:
        """Roll out every chunk that `store` does not hold."""
        count, horizon = self._task.states.count, self._task.horizon
        shape = (len(self._task.blocks), self._method.variants)
        samples = np.empty((*shape, count))
        curves = np.empty((*shape, horizon))
        energies = np.empty(shape)
        report(0, len(self._chunks))
        for number, chunk in enumerate(self._chunks):
            rows = len(chunk)
            expected = {
                "samples": (rows, count),
                "curve": (rows, horizon),
                "energy": (sum(len(job.blocks) for job in chunk),),
                "fell_back": (),
            }
            arrays = store.load(number, expected) if store else None
            if arrays is None:
                arrays = self._run(chunk)
                if store:
                    store.save(number, arrays)
            if arrays["fell_back"]:
                reason = "a later step makes other calls than the first"
                self._engine.serial.update({weight: reason for job in chunk for weight in job.weights})
            energy = iter(arrays["energy"])
            for row, job in enumerate(chunk):
                for block, share in zip(job.blocks, self._shares(job), strict=True):
                    samples[block, job.number] = share * arrays["samples"][row]
                    curves[block, job.number] = share * arrays["curve"][row]
                    energies[block, job.number] = next(energy)
            report(number + 1, len(self._chunks))
        return self._summarise(samples, curves, energies)

    def _run(self, chunk: Sequence[_Job]) -> dict[str, np.ndarray[Any, Any]]:
        method, task, engine = self._method, self._task, self._engine
        first = chunk[0].weights[0]
        expected = first in engine.serial
        energies: list[float] = []
        with explaining_memory("score", len(chunk), task.states.count):
            changes = [self._changes(job, energies) for job in chunk]
            if method.infinitesimal:
                directions = [{i: materialise(c, task.parameters[i]) for i, c in change.items()} for change in changes]
                errors = engine.run_tangents(directions, self.reference, task.memory_limit)
            else:
                errors = engine.run([Lane(change) for change in changes], self.reference, task.memory_limit)
        return {
            "samples": errors.samples.numpy(),
            "curve": errors.curve.numpy(),
            "energy": np.array(energies),
            "fell_back": np.array(not expected and first in engine.serial),
        }

    def _changes(self, job: _Job, energies: list[float]) -> dict[int, Change]:
        """What a lane uses in place of its weights, by their index; appends the energy of every block's change."""
        method, task = self._method, self._task
        changes: dict[int, Change] = {}
        for index, weight in zip(job.blocks, job.weights, strict=True):
            block, parameter = task.blocks[index], task.parameters[weight].detach()
            rows = self._rows(index)
            change = method.variant(block.name, rows, job.number, task.seed)
            energies.append(method.energy(rows, change))
            if isinstance(change, Drawn):
                change = replace(change, begin=block.first * rows[0].numel())
            else:
                change = block.replaced(torch.zeros_like(parameter) if method.infinitesimal else parameter, change)
            changes[weight] = change
        return changes

    def _rows(self, block: int) -> torch.Tensor:
        """A layer, where its variants are made: one layer at a time on the GPU that weights are brought to."""
        return _cuda_weights.brought(self._task.rows(block), self._device)

    def _shares(self, job: _Job) -> list[float]:
        """Of each block in the damage of its group."""
        sizes = [math.prod(self._task.blocks[block].shape) for block in job.blocks]
        return [size / sum(sizes) for size in sizes]

    def _summarise(self, samples: FloatArray, curves: FloatArray, energies: FloatArray) -> Measured:
        """Lane results `[L, V, ...]` as columns, one per bit-width."""
        method, states = self._method, self._task.states
        relative = np.stack([method.relative_error(self._rows(block), e) for block, e in enumerate(energies)])
        scales = list(zip(energies, relative, strict=True))
        family_means = np.stack(
            [samples[:, :, states.family_of == f].mean(axis=2) for f in range(len(states.families))]
        ).mean(axis=0)
        gains = [method.gains(means, energy) for means, energy in zip(family_means, energies, strict=True)]
        # Probes of one layer share their initial conditions: their spread is an error of its own.
        with np.errstate(invalid="ignore"):  # a probe that diverged has no spread: NaN
            spread = np.array([gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0 for gain in gains])
        fits = [growth_rate(curve, saturates=not method.infinitesimal) for curve in method.growth_curves(curves)]
        weights = self._task.weights
        serial = {weights[index].name: why for index, why in sorted(self._engine.serial.items())}
        return Measured(
            samples=np.stack([method.damages(s, *row) for s, row in zip(samples, scales, strict=True)]),
            curve=np.stack([method.damages(c, *row) for c, row in zip(curves, scales, strict=True)]),
            relative_error=relative,
            gain=np.array([gain.mean() for gain in gains]),
            probe_stderr=relative * spread[:, None],
            growth_rate=np.array([rate for rate, _ in fits]),
            growth_window=np.array([window for _, window in fits]),
            provenance={"engine": {"name": self._engine.name, "reason": self._reason, "serial": serial}},
        )


def _chunks(jobs: Sequence[_Job], serial: set[int], lanes_per_chunk: int) -> list[list[_Job]]:
    """Foldable jobs in chunks of at most `lanes_per_chunk`, evenly filled; serial jobs one group at a time."""
    folded = [job for job in jobs if not serial.intersection(job.weights)]
    count = -(-len(folded) // lanes_per_chunk)
    chunks = [folded[len(folded) * c // count : len(folded) * (c + 1) // count] for c in range(count)]
    rest: dict[tuple[int, ...], list[_Job]] = {}
    for job in jobs:
        if serial.intersection(job.weights):
            rest.setdefault(job.weights, []).append(job)
    return chunks + [rest[weights] for weights in sorted(rest)]


@contextmanager
def explaining_memory(function: str, lanes: int, count: int) -> Iterator[None]:
    """Say what to do where lanes do not fit into memory. Raises OutOfMemoryError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for this.
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        ):
            raise
        raise OutOfMemoryError(
            f"[{function}] no memory for {lanes} lanes of {count} initial conditions; lower memory_limit or use fewer "
            "initial conditions; with a checkpoint, finished chunks are kept"
        ) from error
