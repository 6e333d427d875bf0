"""`GradientChange`: gradient of a loss times the change of the weight, as in AutoScheme of auto-round."""

from __future__ import annotations

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
from tqs_fast.scoring.rivals.one_step import OneStep, table_of
from tqs_fast.scoring.task import Task

TARGETS = ("sampled", "float")


@dataclass(frozen=True)
class GradientChange:
    """Σ |g · (W - Q(W))| over the weights of a layer, with g the gradient of the one-step loss at the quantized model.

    For every bit-width all scored layers are quantized to it, one backward pass per initial condition gives g at the
    quantized weights, and absolute products are summed within the layer and over the conditions (here: averaged). That
    is how auto-round's AutoScheme scores weights. What differs:

    - the loss. AutoScheme takes the language model's cross entropy on text, whose true next tokens do not agree with
      the model: its gradient does not vanish even at the float weights. The squared error to the float model's own
      output does vanish there. `target="sampled"` therefore draws the target as the float output plus a standard normal
      (in units of the reference's scale): what a Gaussian forecaster of that spread would see, and the counterpart of a
      token sampled from the model. `target="float"` takes the float output itself: then g is what quantization alone
      causes, which at few bits is the larger part of the truth and at many bits vanishes.
    - batches: one initial condition each (AutoScheme's default is 1 or 8 sequences a batch).
    - activations stay float, so that its activation term has no counterpart; layers that are not scored stay float.

    Attributes:
        target: "sampled" or "float".
        bits: the menu.
        quantizer: how weights are rounded.

    Source: intel/auto-round, auto_round/auto_scheme/delta_loss.py (`weight_score`, `get_score_for_scheme`).
    """

    target: str = "sampled"
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("GradientChange", self.bits)
        if self.target not in TARGETS:
            raise ArgumentError(f"[GradientChange] target must be one of {TARGETS}, got {self.target!r}")

    @property
    def meaning(self) -> str:
        return f"sum of |gradient x weight change|, one-step squared error to a {self.target} target (AutoScheme)"

    @property
    def keeps_states(self) -> bool:
        return False

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """As `DirectMethod.measure`.

        Raises:
            ArgumentError: torch cannot differentiate the step.
        """
        step = OneStep(task, reference, "GradientChange")
        blocks, count = range(len(task.blocks)), task.states.count
        samples = np.empty((len(blocks), len(self.bits), count))
        targets = [self._target(step, task, n) for n in range(count)]
        for column, bits in enumerate(self.bits):
            rounded = self._rounded(task, bits)
            leaves = step.leaves(rounded)
            changes = [
                p.detach().double() - leaf.detach().double() for p, leaf in zip(task.parameters, leaves, strict=True)
            ]
            for n in range(count):
                output = step.outputs(leaves, np.array([n]))
                loss = (output - targets[n]).square().mean()
                products = [
                    (g.double() * change).abs() for g, change in zip(step.gradients(loss, leaves), changes, strict=True)
                ]
                for b in blocks:
                    samples[b, column, n] = float(task.blocks[b].of(products[task.weight_of[b]]).sum())
                report(column * count + n + 1, len(self.bits) * count)
        samples = np.where(np.isnan(samples), np.inf, samples)  # a step that overflowed
        relative = np.stack([rounding_energies(task.rows(b), self.quantizer, self.bits) for b in blocks])
        return table_of(samples, relative, np.zeros(relative.shape), task, "one backward pass per initial condition")

    def _target(self, step: OneStep, task: Task, number: int) -> torch.Tensor:
        """Target of one initial condition, `[1, block, C]`."""
        output = step.outputs(step.leaves(), np.array([number])).detach()
        if self.target == "float":
            return output
        noise = kernels.normal(output.numel(), seed=task.seed, stream=stream("target", number))
        return output + torch.from_numpy(noise).reshape(output.shape).to(output)

    def _rounded(self, task: Task, bits: int) -> dict[int, torch.Tensor]:
        """Every weight with all its scored rows quantized, by index."""
        rounded = {index: parameter.detach().clone() for index, parameter in enumerate(task.parameters)}
        for b, block in enumerate(task.blocks):
            rows = task.rows(b)
            rounded[task.weight_of[b]][block.first : block.end] = self.quantizer.dequantized(rows, bits).to(rows)
        return rounded
