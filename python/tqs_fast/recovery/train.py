"""Training rounded weights against the rollouts of the float model."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tqs_fast.engines.swapped import require_torch
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.held import Swappable
from tqs_fast.quantization.weights import parameter_of
from tqs_fast.recovery.basin import dequantized, packed_tensor
from tqs_fast.recovery.interruption import Interruption
from tqs_fast.recovery.recovered import Progress, Recovery
from tqs_fast.recovery.rounding import LearnedScales, Planned, RecomputedScales, Rounding
from tqs_fast.recovery.student import Lesson, Student, trained_copy
from tqs_fast.recovery.training import Training
from tqs_fast.rewriting.rewrite import pack_into, planned_weights
from tqs_fast.systems import InitialConditions, System, default_initial

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan
    from tqs_fast.kernels import PackedWeight

METHODS = ("ste", "cage", "zeroth-order", "float-then-ptq")
SCALES = ("recomputed", "learned")
TRAINING, HELD_OUT = 256, 64  # initial conditions
HELD_OUT_SEED = 1 << 20  # added to the seed: no one trains on those


def recover(
    system: System,
    plan: Plan,
    *,
    quantized: nn.Module | None = None,
    steps: int = 200,
    method: str = "ste",
    learning_rate: float = 1e-3,
    horizon: int = 32,
    truncation: int = 16,
    batch: int = 32,
    every: int = 10,
    patience: int = 10,
    scales: str = "recomputed",
    correction: float = 10.0,
    silence: float = 0.8,
    epsilon: float = 1e-3,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 5,
) -> Recovery:
    """Train the planned weights so that the rounded model follows the float one; everything else stays as it is.

    The teacher is the float model's own rollout: no data set. What is trained is what is deployed: the weights kept are
    those of the least damage of Q(w), on initial conditions held out from training, and they are packed by the rounding
    that was measured. Ctrl-C ends training after the step at hand and returns the best so far.

    Args:
        system: the float model; not modified.
        plan: which weights are rounded, and how.
        quantized: a module made for this plan, at whose weights training starts; None: at the float ones.
        steps: updates; each rolls out `batch` initial conditions once ("zeroth-order": twice, without gradients).
        method: "ste": straight-through, w <- w - step(∇f(Q(w))), the gradient taken at the rounded weights and applied
            to float ones. "cage": the same, and after each step w <- w - learning_rate λ (w - Q(w)), with λ nothing for
            the first `silence` of the steps and then rising in proportion to `correction` (arXiv:2510.18784, in the
            decoupled form of its authors' implementation). "zeroth-order": the same with an estimate from two rollouts,
            [f(Q(w + εz)) - f(Q(w - εz))] / 2ε z for a random z: forward passes only, as in arXiv:2509.00031, for steps
            that torch cannot differentiate. "float-then-ptq": the control, which takes the gradient at w and rounds
            afterwards.
        learning_rate: of Adam, relative to the root mean square of each weight.
        truncation: steps of the rollout that a gradient is pulled back through.
        every: steps between looks at the held-out initial conditions.
        patience: looks without a new best after which training ends.
        scales: "recomputed": chosen by the plan's quantizer at every step. "learned": those of the start, trained with
            the weights as in LSQ (arXiv:1902.08153); zero points stay. Of "ste" and "cage".
        correction, silence: of "cage": λ at the end, and the share of `steps` before it begins; defaults as there.
        epsilon: of "zeroth-order", relative to the root mean square of each weight.
        initial: where rollouts start; 256 of `system.default_initial` by default. Held-out ones are drawn from it, too,
            with another seed; of given `Contexts` the same ones are used, and early stopping sees what was trained on.
        checkpoint: file that every look is written to, and what Ctrl-C leaves; where it is there already, training goes
            on from it, and ends as it would have without the interruption.
        seed: of everything random.

    Raises:
        ArgumentError: an unknown method, a number out of range, or a plan that does not fit.
        CheckpointError: the checkpoint is damaged or belongs to another run.
        DivergenceError: as `evaluate`.
    """
    if method not in METHODS:
        raise ArgumentError(f"[recover] method must be one of {', '.join(METHODS)}, got {method!r}")
    numbers = {"steps": steps, "horizon": horizon, "truncation": truncation, "batch": batch, "every": every}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"[recover] {name} must be an integer of at least 1, got {value!r}")
    require_torch("recover", system)
    if scales not in SCALES or (scales == "learned" and method not in ("ste", "cage")):
        raise ArgumentError(
            f'[recover] scales must be one of {", ".join(SCALES)}, and "learned" with "ste" or "cage", got {scales!r} '
            f"with {method!r}"
        )
    if not (0 <= correction < math.inf and 0 <= silence < 1):
        raise ArgumentError(
            f"[recover] expected correction >= 0 and silence in [0, 1), got {correction!r} and {silence!r}"
        )
    started = time.perf_counter()
    if isinstance(system.module, Swappable):
        raise ArgumentError("[recover] a program outside torch cannot be trained here; give its torch original")
    planned = planned_weights(system.module, plan)
    student = Student(system, planned)
    float_weights = [parameter_of(system.module, weight).detach() for weight, _ in planned]
    given = float_weights if quantized is None else [dequantized(quantized, *w.owners[0]) for w, _ in planned]
    latent = [values.clone().to(w) for values, w in zip(given, float_weights, strict=True)]
    rounding = _rounding(scales, planned, plan, latent, quantized)
    sizes = [max(float(values.square().mean().sqrt()), 1e-12) for values in float_weights]
    lessons = _lessons(system, initial, horizon, seed)
    rates = [learning_rate * size for size in [*sizes, *(1.0 for _ in rounding.logarithms)]]
    run = Training([*latent, *rounding.logarithms], rates, len(latent), seed)
    arguments = {
        "method": method, **numbers, "learning_rate": learning_rate, "scales": scales, "correction": correction,
        "silence": silence, "epsilon": epsilon, "seed": seed,
    }  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)
    fingerprint = _fingerprint(plan, arguments, [*float_weights, *latent, *rounding.logarithms, lessons[0].outputs])
    before = 0.0
    if path is not None and path.exists():
        run.restore(path, fingerprint)
        before = run.history[-1].seconds

    def look() -> None:
        seconds = before + time.perf_counter() - started
        run.note(_look(student, rounding, run, lessons[1], seconds))
        if path is not None:
            run.save(path, fingerprint)

    with Interruption() as interruption:
        if not run.history:
            look()
        while run.step < steps and len(run.history) - 1 - run.best < patience and not interruption.asked:
            chosen = torch.randint(lessons[0].states.count, (batch,), generator=run.generator)
            run.take(_gradients(student, rounding, run, sizes, lessons[0], chosen, method, truncation, epsilon))
            share = learning_rate * correction * max(0.0, (run.step / steps - silence) / (1 - silence))
            if method == "cage" and share > 0:
                run.pull(rounding.rounded(run.latent, run.besides), min(share, 1.0))
            if run.step % every == 0 or run.step == steps:
                look()
        if interruption.asked and path is not None:
            run.save(path, fingerprint)
    provenance: dict[str, Any] = {
        **arguments,
        "initial": lessons[0].states.description,
        "start": "float weights" if quantized is None else "given weights",
        "steps_taken": run.step,
        "kept_step": run.history[run.best].step,
        "interrupted": interruption.asked,
    }
    kept, besides = run.kept[: len(latent)], run.kept[len(latent) :]
    trained = trained_copy(system.module, planned, kept)
    plan = replace(plan, provenance={**plan.provenance, "recovery": provenance})
    return Recovery(pack_into(trained, plan, rounding.packed(kept, besides)), tuple(run.history), run.best, provenance)


def _rounding(
    scales: str, planned: Planned, plan: Plan, latent: Sequence[torch.Tensor], quantized: nn.Module | None
) -> Rounding:
    """How Q(w) comes about; learned scales start from those of `quantized`, or of the nearest codes."""
    if scales == "recomputed":
        return RecomputedScales(planned, plan)
    grids: dict[str, PackedWeight] = {}
    if quantized is not None:
        for weight, blocks in planned:
            spans = packed_tensor(quantized, *weight.owners[0]).spans()
            grids |= {block.name: own.packed() for block, (_, _, own) in zip(blocks, spans, strict=True)}
        return LearnedScales(planned, grids)
    for (_, blocks), values in zip(planned, latent, strict=True):
        for block in blocks:
            bits = plan.bits[block.name]
            assert bits is not None
            grids[block.name] = plan.quantizer.pack(block.of(values), bits)
    return LearnedScales(planned, grids)


def _lessons(
    system: System, initial: InitialConditions | Sequence[InitialConditions] | None, horizon: int, seed: int
) -> tuple[Lesson, Lesson]:
    """To train on, and held out."""
    training, held_out = (default_initial(system, n) if initial is None else initial for n in (TRAINING, HELD_OUT))
    return (
        Lesson.of(system, training, horizon, seed),
        Lesson.of(system, held_out, horizon, seed + HELD_OUT_SEED),
    )


def _look(student: Student, rounding: Rounding, run: Training, held_out: Lesson, seconds: float) -> Progress:
    """Damage with the weights and with the rounded ones, and how far those are from each other."""
    rounded = rounding.rounded(run.latent, run.besides)
    student.hold(run.latent)
    latent_loss = student.loss(held_out)
    student.hold(rounded)
    moved = sum(float((q - w).double().square().sum()) for q, w in zip(rounded, run.latent, strict=True))
    whole = sum(float(w.double().square().sum()) for w in run.latent)
    return Progress(run.step, seconds, latent_loss, student.loss(held_out), (moved / whole) ** 0.5)


def _fingerprint(plan: Plan, arguments: dict[str, Any], tensors: Sequence[torch.Tensor]) -> str:
    """Of everything that the course of a run depends on. A run may be made longer, but not one whose schedule ends."""
    known = {name: value for name, value in arguments.items() if name != "steps" or arguments["method"] == "cage"}
    sums = [float(tensor.double().square().sum()) for tensor in tensors]
    text = json.dumps([plan.to_json(), known, sums], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _gradients(
    student: Student,
    rounding: Rounding,
    run: Training,
    sizes: list[float],
    lesson: Lesson,
    chosen: torch.Tensor,
    method: str,
    truncation: int,
    epsilon: float,
) -> list[torch.Tensor]:
    """Of the damage, as `method` has it."""
    latent = run.latent
    if method == "float-then-ptq":
        student.hold(latent)
        return student.gradients(lesson, chosen, truncation)[1]
    if method != "zeroth-order":
        student.hold(rounding.rounded(latent, run.besides))
        return rounding.pulled(latent, run.besides, student.gradients(lesson, chosen, truncation)[1])
    noise = [torch.randn(w.shape, generator=run.generator).to(w) for w in latent]
    losses = []
    for sign in (1.0, -1.0):
        moved = [w + sign * epsilon * size * z for w, size, z in zip(latent, sizes, noise, strict=True)]
        student.hold(rounding.rounded(moved, run.besides))
        losses.append(student.loss(lesson, chosen))
    along = (losses[0] - losses[1]) / (2 * epsilon)
    return [along / size * z for z, size in zip(noise, sizes, strict=True)]
