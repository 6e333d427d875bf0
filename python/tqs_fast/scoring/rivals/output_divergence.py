"""`OutputDivergence`: one layer really quantized at a time, one forward pass, no rollout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tqs_fast._progress import Report
from tqs_fast.engines import Reference
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.scoring.direct import Measured
from tqs_fast.scoring.lanes import LaneRun
from tqs_fast.scoring.methods import Residual, check_bits
from tqs_fast.scoring.task import Task
from tqs_fast.systems.tree import tree_map


@dataclass(frozen=True)
class OutputDivergence:
    """Mean squared scaled error of the first step's output, with one layer quantized: `Residual` with a horizon of one.

    What tools do that quantize layers in turn and compare outputs. Where outputs are class probabilities they compare
    by Kullback-Leibler divergence; that of two Gaussians of the same spread is half their squared distance over the
    variance, so that for real-valued outputs the two rank alike.

    Attributes:
        bits: the menu.
        quantizer: how weights are rounded.

    Source: the sensitivity metric of Cai et al., "ZeroQ", CVPR 2020 (arXiv:2001.00281), for real-valued outputs.
    """

    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("OutputDivergence", self.bits)

    @property
    def meaning(self) -> str:
        return "mean squared scaled error of one step's output with this layer quantized; no rollout"

    @property
    def keeps_states(self) -> bool:
        return False

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """As `DirectMethod.measure`; errors are in the unit of the whole reference."""
        inputs = task.states.inputs
        first = None if inputs is None else tree_map(lambda leaf: leaf[:, :1], inputs)
        values = min(task.system.block, task.horizon)
        short = replace(task, horizon=values, states=replace(task.states, inputs=first))
        run = LaneRun(Residual(self.bits, self.quantizer), short)
        run.reference = Reference(run.reference.outputs, reference.scale)
        return run.measure(None, report)
