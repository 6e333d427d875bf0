"""`WeightError`: how far rounding moves the weights, and nothing about what they are for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tqs_fast._progress import Report
from tqs_fast.engines import Reference
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.scoring.direct import Measured
from tqs_fast.scoring.methods import check_bits, rounding_energies
from tqs_fast.scoring.rivals.one_step import table_of
from tqs_fast.scoring.task import Task


@dataclass(frozen=True)
class WeightError:
    """Squared rounding error of the weights: needs neither data nor the model.

    Attributes:
        relative: True, the inverse of the signal-to-quantization-noise ratio, ‖Q(W) - W‖² / ‖W‖²; False, ‖Q(W) - W‖².
        bits: the menu.
        quantizer: how weights are rounded.

    Source: the signal-to-quantization-noise ratio by which bits are shared out in data-free mixed precision, e.g. Lin,
    Talathi, Annapureddy, "Fixed point quantization of deep convolutional networks", arXiv:1511.06393.
    """

    relative: bool = True
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("WeightError", self.bits)

    @property
    def meaning(self) -> str:
        return f"{'relative ' if self.relative else ''}squared rounding error of the weights; no rollout, no data"

    @property
    def keeps_states(self) -> bool:
        return False

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """As `DirectMethod.measure`."""
        rows = [task.rows(block) for block in range(len(task.blocks))]
        relative = np.stack([rounding_energies(r, self.quantizer, self.bits) for r in rows])
        size = np.ones(len(rows)) if self.relative else np.array([float(r.double().square().sum()) for r in rows])
        cost = relative * size[:, None]
        report(1, 1)
        samples = np.repeat(cost[:, :, None], task.states.count, axis=2)
        return table_of(samples, relative, np.zeros_like(cost), task, "the weights alone")
