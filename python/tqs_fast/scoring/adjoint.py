"""`Adjoint`: every layer at once, from a few backward passes through the rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from tqs_fast._progress import Report
from tqs_fast.engines import Reference
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.scoring.adjoint_norms import FINEST, finest_sums, squared_norms
from tqs_fast.scoring.direct import FloatArray, Measured
from tqs_fast.scoring.methods import check_bits
from tqs_fast.scoring.task import Task

BACKWARD = 2  # forward steps that one backward step is counted as: it multiplies by every matrix twice


@dataclass(frozen=True)
class Adjoint:
    """Expected damage of the rounding errors of every layer, to first order, from backward passes.

    With Y the scaled, stacked trajectory and G = ∂Y/∂θ of one layer, an error r of the weight does the damage ‖G r‖².
    Errors of the weights of one group are taken as independent and of equal size, so that its expectation is
    Σ_g (mean of r² in g) ‖G_g‖_F², with g the groups of the quantizer. ‖G_g‖_F² = E‖G_gᵀ v‖² for v = ±1 at random
    (Hutchinson): one backward pass per v gives all groups of all layers, whatever their number.
    Nothing saturates: where errors are as large as the signal, the true damage is smaller.

    Attributes:
        probes: draws of v, from the counter-based stream of `tqs_fast.kernels.uniform`, keyed by seed and probe.
        bits: the menu that damages are predicted for.
        quantizer: whose rounding error they are predicted for.

    Every family of initial conditions is pulled back on its own and weighs the same. Gradients are sums over initial
    conditions: in the table, all samples of a family are the damage of that family, the spread between them is not
    known (`stderr` is that of the probes alone, nan for a single probe), and there is no error curve and no growth
    rate.

    Source: Hutchinson, Communications in Statistics 19(2), 1990; backpropagation through time, recomputing each step.
    """

    probes: int = 4
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("Adjoint", self.bits)
        if self.probes < 1:
            raise ArgumentError(f"[Adjoint] probes must be at least 1, got {self.probes}")

    @property
    def meaning(self) -> str:
        return "first-order damage expected of rounding errors of this size in this layer, by backward passes"

    @property
    def keeps_states(self) -> bool:
        return True

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """As `DirectMethod.measure`; `task.memory_limit` bounds the gradients held at one time.

        Raises:
            ArgumentError: a step that torch cannot differentiate, a weight that no gradient reaches, or a memory limit
                that not even one probe's gradients fit into.
            DivergenceError: a gradient is NaN or infinite.
        """
        norms = squared_norms(task, reference, self.probes, report)
        size = self.quantizer.group_size
        damages = np.empty((len(task.blocks), len(self.bits), len(task.states.families), self.probes))
        relative = np.empty(damages.shape[:2])
        gains = np.empty(len(task.blocks))
        for layer, squared in enumerate(norms.of_block):
            weight = task.rows(layer)
            energy = float(weight.double().square().sum())
            for column, bits in enumerate(self.bits):
                error = squared_error(weight, self.quantizer, bits)
                damages[layer, column] = expected_damage(squared, error, weight[0].numel(), size)
                relative[layer, column] = error.sum() / energy if energy else 0.0
            # an error of energy E spread evenly over n weights does the damage E ‖G‖_F² / n
            gains[layer] = squared.sum(axis=(2, 3)).mean() * energy / weight.numel()
        families = damages.mean(axis=3)
        of_probe = damages.mean(axis=2)
        spread = of_probe.std(axis=2, ddof=1) / math.sqrt(self.probes) if self.probes > 1 else np.nan * relative
        steps = task.system.steps(task.horizon)
        forward, backward = steps * (1 + norms.passes), steps * self.probes
        return Measured(
            samples=families[:, :, task.states.family_of],
            curve=families.mean(axis=2, keepdims=True),
            relative_error=relative,
            gain=gains,
            probe_stderr=spread,
            provenance={
                "engine": {"name": "torch", "reason": norms.how, "serial": {}},
                "cost": {
                    "forward_steps": forward,
                    "backward_steps": backward,
                    "forward_rollouts": (forward + BACKWARD * backward) / steps,
                    "counted": f"a backward step as {BACKWARD} forward ones; the float rollout included",
                },
            },
        )


def squared_error(weight: torch.Tensor, quantizer: Quantizer, bits: int) -> FloatArray:
    """(Q_b(θ) - θ)² of every `FINEST` columns, summed, `[rows, ceil(columns / FINEST)]`."""
    return finest_sums((quantizer.dequantized(weight, bits).double() - weight.double()).square())


def expected_damage(norms: FloatArray, error: FloatArray, columns: int, group_size: int) -> FloatArray:
    """Σ_g (mean of r² in g) ‖G_g‖_F² with g the groups that share a scale, `[F, P]`.

    The measured r² has clipping in it, which Δ²/12 has not; `bench/bench_adjoint.py` has both ("delta").

    Args:
        norms: ‖G‖_F² of every `FINEST` columns, `[F, P, rows, ceil(columns / FINEST)]`.
        error: r², summed likewise, `[rows, ceil(columns / FINEST)]`, of any quantizer and bit-width: no further rollout
            is needed for another.
        columns: of the weight.
        group_size: columns of a group, a multiple of `FINEST`; 0: all of a row.
    """
    size = group_size or columns
    counts = np.diff(np.append(np.arange(0, columns, size), columns))
    firsts = np.arange(0, error.shape[1], -(-size // FINEST))
    means = np.add.reduceat(error, firsts, axis=1) / counts
    grouped = np.add.reduceat(norms, firsts, axis=3)
    return np.asarray((grouped * means).sum(axis=(2, 3)))
