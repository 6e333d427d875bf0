"""`HessianTrace`: curvature of the one-step loss times the size of the rounding error, as in HAWQ-V2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from tqs_fast import kernels
from tqs_fast._progress import Report
from tqs_fast.engines import Reference
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.scoring.direct import Measured
from tqs_fast.scoring.methods import check_bits, rounding_energies, stream
from tqs_fast.scoring.rivals.one_step import OneStep, rows_of_family, table_of
from tqs_fast.scoring.task import Task


@dataclass(frozen=True)
class HessianTrace:
    """½ · (trace of the Hessian / number of weights) · ‖Q(W) - W‖², of the one-step loss.

    The loss is the mean squared scaled error of one step's output y against the float model's own: at the float weights
    its gradient is zero and its Hessian exactly (2/M) JᵀJ, with J = ∂y/∂W and M outputs. Its trace is estimated after
    Hutchinson as (2/M) E‖Jᵀu‖², u = ±1 on the outputs: one backward pass per probe for all layers. With the factor ½,
    which changes no plan, the score is the one-step damage expected of rounding errors that are independent and of
    equal size within the layer.

    Differs from HAWQ-V2 in the loss (theirs is the training loss on data; its Hessian keeps a second term) and in where
    the signs are drawn (theirs on the weights; the same expectation).

    Attributes:
        probes: draws of u, for each family of initial conditions.
        bits: the menu.
        quantizer: how weights are rounded.

    Source: Dong et al., "HAWQ-V2: Hessian aware trace-weighted quantization of neural networks", NeurIPS 2020
    (arXiv:1911.03852), average trace times squared perturbation.
    """

    probes: int = 32
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("HessianTrace", self.bits)
        if self.probes < 1:
            raise ArgumentError(f"[HessianTrace] probes must be at least 1, got {self.probes}")

    @property
    def meaning(self) -> str:
        return "half the mean Hessian trace of the one-step loss times the squared rounding error (HAWQ-V2)"

    @property
    def keeps_states(self) -> bool:
        return False

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """As `DirectMethod.measure`; samples of a family repeat its mean, because probes mix initial conditions.

        Raises:
            ArgumentError: torch cannot differentiate the step.
        """
        step = OneStep(task, reference, "HessianTrace")
        blocks = range(len(task.blocks))
        rows = [task.rows(block) for block in blocks]
        relative = np.stack([rounding_energies(r, self.quantizer, self.bits) for r in rows])
        squared = relative * np.array([[float(r.double().square().sum())] for r in rows])
        families = range(len(task.states.families))
        traces = np.empty((len(families), self.probes, len(rows)))  # ½ mean trace, of each draw
        total = len(families) * self.probes
        for f in families:
            leaves = step.leaves()
            outputs = step.outputs(leaves, rows_of_family(task, f))
            for k in range(self.probes):
                signs = _signs(outputs, task.seed, stream(f"family {f}", k))
                gradients = step.gradients((outputs * signs).sum(), leaves, again=True)
                for b in blocks:
                    part = task.blocks[b].of(gradients[task.weight_of[b]])
                    traces[f, k, b] = float(part.double().square().sum()) / (outputs.numel() * part.numel())
                report(f * self.probes + k + 1, total)
        cost = traces.mean(axis=1)[:, :, None] * squared  # [F, L, B]
        error = (
            np.sqrt(traces.var(axis=1, ddof=1).sum(axis=0) / self.probes) / len(families) if self.probes > 1 else 0.0
        )
        samples = np.moveaxis(cost[task.states.family_of], 0, 2)
        return table_of(samples, relative, np.multiply(error, squared.T).T, task, "backward passes through one step")


def _signs(outputs: torch.Tensor, seed: int, number: int) -> torch.Tensor:
    """±1 like `outputs`."""
    normal = torch.from_numpy(kernels.normal(math.prod(outputs.shape), seed=seed, stream=number))
    return torch.where(normal < 0, -1.0, 1.0).reshape(outputs.shape).to(outputs)
