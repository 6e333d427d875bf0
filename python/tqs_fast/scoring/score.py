"""Score every layer of a system: how much damage its rounding does over a rollout."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from tqs_fast import kernels
from tqs_fast._progress import Report, tracking
from tqs_fast._version import __version__
from tqs_fast.engines.tf32 import tf32_asked
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.ties import Tie
from tqs_fast.scoring.checkpoint import Checkpoint, fingerprint
from tqs_fast.scoring.direct import DirectMethod, DirectRun
from tqs_fast.scoring.lanes import LaneRun
from tqs_fast.scoring.methods import Method, Residual, describe
from tqs_fast.scoring.sensitivity import Layer, Sensitivity
from tqs_fast.scoring.task import prepare
from tqs_fast.systems import InitialConditions, System


def score(
    system: System,
    *,
    horizon: int = 64,
    method: Method | DirectMethod | None = None,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    layers: str | Iterable[str] | None = None,
    row_blocks: int = 1,
    tie: Tie | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Report = False,
) -> Sensitivity:
    """Measure the sensitivity of every layer over rollouts of `horizon` values.

    Args:
        system: what is rolled out; its module is not modified.
        horizon: output values per rollout, T.
        method: `Residual()` (default), `Noise()` or `Tangent()`, which roll out lanes; or a `DirectMethod`.
        initial: where rollouts start; 16 of `system.default_initial` by default. A sequence of methods gives families
            that count equally.
        engine: "native" captures the step and rolls all lanes out in C++, where the module is; "native:cuda" on that
            GPU a module of the CPU, weights that do not fit its memory (or `memory_limit`) passing through it at every
            step; "torch" folds lanes into the batch and takes
            the serial path for layers that cannot fold (named in `provenance["engine"]["serial"]`, with the reason);
            "serial" rolls out one variant at a time; "swapped" runs a program outside torch (`OnnxSystem`, `BlackBox`);
            "auto" is "native" where the step can be captured, else "torch", or "swapped" outside torch,
            with the reason in `provenance["engine"]["reason"]`. A direct method runs in torch where it does not say
            otherwise.
        layers: names or patterns of the weights to score; None for all that can be quantized.
        row_blocks: split every weight into so many blocks of output rows (the gates of a recurrent cell, say), each
            scored, and later planned and packed, as a layer of its own named `weight[first:end]`.
        tie: groups of layer names or patterns; one probe moves all weights of a group (a block of a large network) at
            once, and its damage is shared out among them by their numbers of parameters. `allocate` then gives the
            group the same bits, at which the shares add up to what was measured.
        seed: of initial conditions and noise.
        memory_limit: bytes that the lanes of one chunk may take; by default chunks stay near the size of the caches. On
            a GPU bytes of a chunk's memory there, with the weights that "native:cuda" brings; by default most of what
            is free. Chunking changes results by rounding only.
        checkpoint: folder in which finished chunks are kept; the same call resumes from it, bit for bit.
            A direct method has no chunks: of its run only the fingerprint is kept.
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
    task = prepare(
        system,
        horizon=horizon,
        initial=initial,
        engine=engine,
        layers=layers,
        row_blocks=row_blocks,
        tie=tie,
        seed=seed,
        memory_limit=memory_limit,
    )
    if isinstance(method, DirectMethod) and task.tie:
        raise ArgumentError(
            f"[score] {type(method).__name__} ranks every weight on its own; leave tie=None here and tie in allocate"
        )
    run = DirectRun(method, task) if isinstance(method, DirectMethod) else LaneRun(method, task)
    states, reference = task.states, run.reference
    description = task.description() | run.description | {"method": describe(method)}
    fingerprints = fingerprint(description, system.module, states, reference.outputs)
    store = None if checkpoint is None else Checkpoint(checkpoint, fingerprints)
    with tracking(progress, f"scoring {system.name}") as report:
        measured = run.measure(store, report)

    provenance = {
        "system": system.name,
        "fingerprint": fingerprints,
        "horizon": horizon,
        "initial": states.description,
        "seed": seed,
        "method": describe(method) | {"meaning": method.meaning},
        "scale": reference.scale.tolist(),
        "versions": {
            "tqs-fast": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        **({"tie": task.tie} if task.tie else {}),
        **measured.provenance,
    }
    provenance["engine"] |= {"isa": kernels.isa(), "tf32": tf32_asked()}
    L = len(task.blocks)
    return Sensitivity(
        layers=tuple(Layer(b.name, b.weight.kind, b.shape, math.prod(b.shape)) for b in task.blocks),
        bits=method.bits,
        quantizer=method.quantizer,
        samples=measured.samples,
        families=states.families,
        family_of=states.family_of,
        curve=measured.curve,
        relative_error=measured.relative_error,
        gain=measured.gain,
        growth_rate=np.full(L, np.nan) if measured.growth_rate is None else measured.growth_rate,
        growth_window=np.zeros((L, 2), dtype=np.int64) if measured.growth_window is None else measured.growth_window,
        probe_stderr=measured.probe_stderr,
        provenance=provenance,
    )
