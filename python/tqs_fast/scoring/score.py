"""Score every layer of a system: how much damage its rounding does over a rollout."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tqs_fast import kernels
from tqs_fast._progress import Report, tracking
from tqs_fast._version import __version__
from tqs_fast.engines import Lane, LaneErrors, Reference, fold, roll_reference, run_lanes, run_serial
from tqs_fast.engines.folding import Folding
from tqs_fast.engines.lanes import FoldingError
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.weights import Weight, find_weights, parameter_of
from tqs_fast.scoring.checkpoint import Checkpoint, fingerprint
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.scoring.methods import Method, Residual, describe, relative_energy
from tqs_fast.scoring.sensitivity import Layer, Sensitivity
from tqs_fast.systems import Attractor, InitialConditions, States, System, draw

ENGINES = ("auto", "torch", "serial")
MEMORY_LIMIT = 2**30  # bytes, by default: enough for hundreds of lanes of a small model, safe on any machine
ACTIVATION_MARGIN = 2  # tensors inside fused torch functions are not seen when a step is recorded


@dataclass(frozen=True)
class _Job:
    """Variant `number` of weight `index`."""

    index: int
    number: int


def score(
    system: System,
    *,
    horizon: int = 64,
    method: Method | None = None,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    layers: str | Iterable[str] | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Report = False,
) -> Sensitivity:
    """Measure the sensitivity of every layer over rollouts of `horizon` values.

    Args:
        system: what is rolled out; its module is not modified.
        horizon: output values per rollout, T.
        method: `Residual()` (default) or `Noise()`.
        initial: where rollouts start; `Attractor(count=16)` by default. A sequence of methods gives families that count equally.
        engine: "torch" folds lanes into the batch and takes the serial path for layers that cannot fold (named, with the reason,
            in `provenance["engine"]["serial"]`); "serial" rolls out one variant at a time; "auto" chooses.
        layers: names or patterns of the weights to score; None for all that can be quantized.
        seed: of initial conditions and noise.
        memory_limit: bytes that the lanes of one chunk may take (1 GiB by default). Chunking changes results by rounding only.
        checkpoint: folder in which finished chunks are kept; the same call resumes from it, bit for bit.
        progress: True draws a bar on a terminal; a function is called with (done, total).

    Raises:
        ArgumentError: arguments that do not fit the system, a layer pattern that matches nothing, NaN or infinite weights.
        DivergenceError: the float rollout diverges or is constant.
        CheckpointError: the checkpoint belongs to another run.
    """
    method = method or Residual()
    if engine not in ENGINES:
        raise ArgumentError(f"[score] engine must be one of {ENGINES}, got {engine!r}")
    limit = MEMORY_LIMIT if memory_limit is None else memory_limit
    if limit <= 0:
        raise ArgumentError(f"[score] memory_limit must be a positive number of bytes, got {memory_limit}")
    weights = find_weights(system.module, layers)
    parameters = [_parameter(system, weight) for weight in weights]
    states = draw(initial or Attractor(), system, horizon=horizon, seed=seed)
    reference = roll_reference(system, states, horizon)
    folding = fold(system, states, parameters)
    serial = dict.fromkeys(range(len(weights)), "asked for") if engine == "serial" else dict(folding.serial)
    chunks = _chunks(method, parameters, set(serial), _lanes_per_chunk(folding, parameters, states, limit))
    description = {
        "system": {"name": system.name, "module": type(system.module).__qualname__, "block": system.block},
        "method": describe(method),
        "horizon": horizon,
        "seed": seed,
        "layers": [weight.name for weight in weights],
        "chunks": [[(job.index, job.number) for job in chunk] for chunk in chunks],
    }
    parts = fingerprint(description, system.module, states)
    store = None if checkpoint is None else Checkpoint(checkpoint, parts)

    shape = (len(weights), method.variants)
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
                arrays = _run(system, states, reference, folding, method, weights, parameters, chunk, set(serial), seed)
                if store:
                    store.save(number, arrays)
            if arrays["fell_back"]:
                serial |= {job.index: "a later step makes other calls than the first" for job in chunk}
            for row, job in enumerate(chunk):
                samples[job.index, job.number] = arrays["samples"][row]
                curves[job.index, job.number] = arrays["curve"][row]
                energies[job.index, job.number] = arrays["energy"][row]
            report(number + 1, len(chunks))

    provenance = {
        "system": system.name,
        "fingerprint": parts,
        "horizon": horizon,
        "initial": states.description,
        "seed": seed,
        "method": describe(method),
        "engine": {
            "name": "serial" if engine == "serial" else "torch",
            "serial": {weights[index].name: reason for index, reason in sorted(serial.items())},
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
    return _summarise(method, weights, parameters, states, samples, curves, energies, provenance)


def _parameter(system: System, weight: Weight) -> torch.nn.Parameter:
    parameter = parameter_of(system.module, weight)
    assert isinstance(parameter, torch.nn.Parameter)
    return parameter


def _lanes_per_chunk(
    folding: Folding, parameters: Sequence[torch.nn.Parameter], states: States, memory_limit: int
) -> int:
    """As many lanes as fit: activations of all initial conditions, and the variant with its copy in the stack."""
    largest = max(p.numel() * p.element_size() for p in parameters)
    per_lane = ACTIVATION_MARGIN * folding.bytes_per_state * states.count + 2 * largest
    if per_lane > memory_limit:
        raise ArgumentError(
            f"[score] memory_limit of {memory_limit} bytes is too small for one lane of {states.count} initial conditions "
            f"(about {per_lane} bytes); raise it or use fewer initial conditions"
        )
    return max(1, memory_limit // per_lane)


def _chunks(
    method: Method, parameters: Sequence[torch.nn.Parameter], serial: set[int], lanes_per_chunk: int
) -> list[list[_Job]]:
    """Foldable jobs in chunks of at most `lanes_per_chunk`, evenly filled; serial jobs one weight at a time."""
    jobs = [_Job(i, v) for i in range(len(parameters)) if i not in serial for v in range(method.variants)]
    count = -(-len(jobs) // lanes_per_chunk)
    folded = [jobs[len(jobs) * c // count : len(jobs) * (c + 1) // count] for c in range(count)]
    return folded + [[_Job(i, v) for v in range(method.variants)] for i in sorted(serial)]


def _run(
    system: System,
    states: States,
    reference: Reference,
    folding: Folding,
    method: Method,
    weights: Sequence[Weight],
    parameters: Sequence[torch.nn.Parameter],
    chunk: Sequence[_Job],
    serial: set[int],
    seed: int,
) -> dict[str, np.ndarray[Any, Any]]:
    variants = [
        method.variant(weights[job.index].name, parameters[job.index].detach(), job.number, seed) for job in chunk
    ]
    lanes = [Lane({job.index: variant}) for job, variant in zip(chunk, variants, strict=True)]
    errors: LaneErrors | None = None
    if chunk[0].index not in serial:
        try:
            errors = run_lanes(system, states, reference, parameters, lanes, folding)
        except FoldingError:  # control flow that depends on values: only seen once the rollout gets there
            errors = None
    fell_back = errors is None and chunk[0].index not in serial
    if errors is None:
        errors = run_serial(system, states, reference, parameters, lanes)
    energy = [
        relative_energy(parameters[job.index].detach(), v) for job, v in zip(chunk, variants, strict=True)
    ]
    return {
        "samples": errors.samples.numpy(),
        "curve": errors.curve.numpy(),
        "energy": np.array(energy),
        "fell_back": np.array(fell_back),
    }


def _summarise(
    method: Method,
    weights: Sequence[Weight],
    parameters: Sequence[torch.nn.Parameter],
    states: States,
    samples: np.ndarray[Any, Any],
    curves: np.ndarray[Any, Any],
    energies: np.ndarray[Any, Any],
    provenance: dict[str, Any],
) -> Sensitivity:
    """Lane results `[L, V, ...]` as a table with a column per bit-width."""
    relative = np.stack([method.relative_error(p.detach(), e) for p, e in zip(parameters, energies, strict=True)])
    rows = list(zip(energies, relative, strict=True))
    family_means = np.stack(
        [samples[:, :, states.family_of == f].mean(axis=2) for f in range(len(states.families))]
    ).mean(axis=0)
    gains = [method.gains(means, energy) for means, energy in zip(family_means, energies, strict=True)]
    fits = [growth_rate(curve) for curve in (curves[:, -1] if isinstance(method, Residual) else curves.mean(axis=1))]
    return Sensitivity(
        layers=tuple(Layer(w.name, w.kind, w.shape, w.parameters) for w in weights),
        bits=method.bits,
        quantizer=method.quantizer,
        samples=np.stack([method.damages(s, *row) for s, row in zip(samples, rows, strict=True)]),
        families=states.families,
        family_of=states.family_of,
        curve=np.stack([method.damages(c, *row) for c, row in zip(curves, rows, strict=True)]),
        relative_error=relative,
        gain=np.array([gain.mean() for gain in gains]),
        growth_rate=np.array([rate for rate, _ in fits]),
        growth_window=np.array([window for _, window in fits]),
        provenance=provenance,
    )
