"""Score every layer of a system: how much damage its rounding does over a rollout."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tqs_fast import kernels
from tqs_fast._progress import Report, tracking
from tqs_fast._version import __version__
from tqs_fast.engines import (
    Change,
    Drawn,
    Engine,
    Lane,
    Reference,
    choose_engine,
    materialise,
    roll_reference,
)
from tqs_fast.errors import ArgumentError, OutOfMemoryError
from tqs_fast.quantization.blocks import Block, split
from tqs_fast.quantization.weights import Weight, find_weights, parameter_of
from tqs_fast.scoring.checkpoint import Checkpoint, fingerprint
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.scoring.methods import Method, Residual, describe
from tqs_fast.scoring.sensitivity import Layer, Sensitivity
from tqs_fast.systems import InitialConditions, States, System, default_initial, draw


@dataclass(frozen=True)
class _Job:
    """Variant `number` of block `block`, which is a part of weight `weight`."""

    block: int
    weight: int
    number: int


def score(
    system: System,
    *,
    horizon: int = 64,
    method: Method | None = None,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    layers: str | Iterable[str] | None = None,
    row_blocks: int = 1,
    seed: int = 0,
    memory_limit: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Report = False,
) -> Sensitivity:
    """Measure the sensitivity of every layer over rollouts of `horizon` values.

    Args:
        system: what is rolled out; its module is not modified.
        horizon: output values per rollout, T.
        method: `Residual()` (default), `Noise()` or `Tangent()`.
        initial: where rollouts start; 16 of `system.default_initial` by default. A sequence of methods gives families
            that count equally.
        engine: "native" captures the step and rolls all lanes out in C++; "torch" folds lanes into the batch and takes
            the serial path for layers that cannot fold (named in `provenance["engine"]["serial"]`, with the reason);
            "serial" rolls out one variant at a time; "auto" is "native" where the step can be captured, else "torch",
            with the reason in `provenance["engine"]["reason"]`.
        layers: names or patterns of the weights to score; None for all that can be quantized.
        row_blocks: split every weight into so many blocks of output rows (the gates of a recurrent cell, say), each
            scored, and later planned and packed, as a layer of its own named `weight[first:end]`.
        seed: of initial conditions and noise.
        memory_limit: bytes that the lanes of one chunk may take; by default chunks stay near the size of the caches.
            Chunking changes results by rounding only.
        checkpoint: folder in which finished chunks are kept; the same call resumes from it, bit for bit.
        progress: True draws a bar on a terminal; a function is called with (done, total).

    Raises:
        ArgumentError: arguments that do not fit the system, a layer pattern that matches nothing, NaN or infinite
            weights.
        CaptureError: the native engine was asked for and cannot run the step.
        DivergenceError: the float rollout diverges or is constant.
        CheckpointError: the checkpoint belongs to another run.
        OutOfMemoryError: a chunk does not fit into memory.
    """
    method = Residual() if method is None else method
    if memory_limit is not None and memory_limit <= 0:
        raise ArgumentError(f"[score] memory_limit must be a positive number of bytes, got {memory_limit}")
    weights = find_weights(system.module, layers)
    parameters = [_parameter(system, weight) for weight in weights]
    owned = [(index, block) for index, weight in enumerate(weights) for block in split(weight, row_blocks)]
    blocks = [block for _, block in owned]
    states = draw(default_initial(system) if initial is None else initial, system, horizon=horizon, seed=seed)
    runner, reason = choose_engine(engine, system, states, parameters, horizon=horizon)
    reference = roll_reference(system, states, horizon, outputs=runner.roll())
    jobs = [_Job(number, index, v) for number, (index, _) in enumerate(owned) for v in range(method.variants)]
    chunks = _chunks(jobs, set(runner.serial), runner.lanes_per_chunk(reference, memory_limit))
    description = {
        "system": {"name": system.name, "module": type(system.module).__qualname__, "block": system.block},
        "method": describe(method),
        "horizon": horizon,
        "seed": seed,
        "engine": runner.name,
        "layers": [block.name for block in blocks],
        "chunks": [[(job.block, job.number) for job in chunk] for chunk in chunks],
    }
    fingerprints = fingerprint(description, system.module, states, reference.outputs)
    store = None if checkpoint is None else Checkpoint(checkpoint, fingerprints)

    shape = (len(blocks), method.variants)
    samples = np.empty((*shape, states.count))
    curves = np.empty((*shape, horizon))
    energies = np.empty(shape)
    with tracking(progress, f"scoring {system.name}") as report:
        report(0, len(chunks))
        for number, chunk in enumerate(chunks):
            rows = len(chunk)
            expected = {"samples": (rows, states.count), "curve": (rows, horizon), "energy": (rows,), "fell_back": ()}
            arrays = store.load(number, expected) if store else None
            if arrays is None:
                arrays = _run(runner, states, reference, method, blocks, parameters, chunk, seed, memory_limit)
                if store:
                    store.save(number, arrays)
            if arrays["fell_back"]:
                runner.serial.update({job.weight: "a later step makes other calls than the first" for job in chunk})
            for row, job in enumerate(chunk):
                samples[job.block, job.number] = arrays["samples"][row]
                curves[job.block, job.number] = arrays["curve"][row]
                energies[job.block, job.number] = arrays["energy"][row]
            report(number + 1, len(chunks))

    provenance = {
        "system": system.name,
        "fingerprint": fingerprints,
        "horizon": horizon,
        "initial": states.description,
        "seed": seed,
        "method": describe(method),
        "engine": {
            "name": runner.name,
            "reason": reason,
            "serial": {weights[index].name: why for index, why in sorted(runner.serial.items())},
            "isa": kernels.isa(),
        },
        "scale": reference.scale.tolist(),
        "versions": {
            "tqs-fast": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    scored = [block.of(parameters[index].detach()) for index, block in owned]
    return _summarise(method, blocks, scored, states, samples, curves, energies, provenance)


def _parameter(system: System, weight: Weight) -> torch.nn.Parameter:
    parameter = parameter_of(system.module, weight)
    assert isinstance(parameter, torch.nn.Parameter)
    return parameter


def _chunks(jobs: Sequence[_Job], serial: set[int], lanes_per_chunk: int) -> list[list[_Job]]:
    """Foldable jobs in chunks of at most `lanes_per_chunk`, evenly filled; serial jobs one weight at a time."""
    folded = [job for job in jobs if job.weight not in serial]
    count = -(-len(folded) // lanes_per_chunk)
    chunks = [folded[len(folded) * c // count : len(folded) * (c + 1) // count] for c in range(count)]
    return chunks + [[job for job in jobs if job.weight == index] for index in sorted(serial)]


def _run(
    engine: Engine,
    states: States,
    reference: Reference,
    method: Method,
    blocks: Sequence[Block],
    parameters: Sequence[torch.nn.Parameter],
    chunk: Sequence[_Job],
    seed: int,
    memory_limit: int | None,
) -> dict[str, np.ndarray[Any, Any]]:
    energies = []
    changes: list[dict[int, Change]] = []
    for job in chunk:
        block, parameter = blocks[job.block], parameters[job.weight].detach()
        rows = block.of(parameter)
        change = method.variant(block.name, rows, job.number, seed)
        energies.append(method.energy(rows, change))
        if isinstance(change, Drawn):
            change = replace(change, begin=block.first * rows[0].numel())
        else:
            change = block.replaced(torch.zeros_like(parameter) if method.infinitesimal else parameter, change)
        changes.append({job.weight: change})
    expected = chunk[0].weight in engine.serial
    with _explaining_memory(len(chunk), states.count):
        if method.infinitesimal:
            directions = [{i: materialise(c, parameters[i]) for i, c in change.items()} for change in changes]
            errors = engine.run_tangents(directions, reference, memory_limit)
        else:
            errors = engine.run([Lane(change) for change in changes], reference, memory_limit)
    return {
        "samples": errors.samples.numpy(),
        "curve": errors.curve.numpy(),
        "energy": np.array(energies),
        "fell_back": np.array(not expected and chunk[0].weight in engine.serial),
    }


@contextmanager
def _explaining_memory(lanes: int, count: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for this.
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        ):
            raise
        raise OutOfMemoryError(
            f"[score] no memory for {lanes} lanes of {count} initial conditions; lower memory_limit or use fewer "
            "initial conditions; with a checkpoint, finished chunks are kept"
        ) from error


def _summarise(
    method: Method,
    blocks: Sequence[Block],
    rows: Sequence[torch.Tensor],
    states: States,
    samples: np.ndarray[Any, Any],
    curves: np.ndarray[Any, Any],
    energies: np.ndarray[Any, Any],
    provenance: dict[str, Any],
) -> Sensitivity:
    """Lane results `[L, V, ...]` as a table with a column per bit-width."""
    relative = np.stack([method.relative_error(r, e) for r, e in zip(rows, energies, strict=True)])
    scales = list(zip(energies, relative, strict=True))
    family_means = np.stack(
        [samples[:, :, states.family_of == f].mean(axis=2) for f in range(len(states.families))]
    ).mean(axis=0)
    gains = [method.gains(means, energy) for means, energy in zip(family_means, energies, strict=True)]
    # Probes of one layer share their initial conditions: their spread is an error of its own.
    with np.errstate(invalid="ignore"):  # a probe that diverged has no spread: NaN
        spread = np.array([gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0 for gain in gains])
    fits = [growth_rate(curve, saturates=not method.infinitesimal) for curve in method.growth_curves(curves)]
    return Sensitivity(
        layers=tuple(Layer(b.name, b.weight.kind, b.shape, math.prod(b.shape)) for b in blocks),
        bits=method.bits,
        quantizer=method.quantizer,
        samples=np.stack([method.damages(s, *row) for s, row in zip(samples, scales, strict=True)]),
        families=states.families,
        family_of=states.family_of,
        curve=np.stack([method.damages(c, *row) for c, row in zip(curves, scales, strict=True)]),
        relative_error=relative,
        gain=np.array([gain.mean() for gain in gains]),
        growth_rate=np.array([rate for rate, _ in fits]),
        growth_window=np.array([window for _, window in fits]),
        probe_stderr=relative * spread[:, None],
        provenance=provenance,
    )
