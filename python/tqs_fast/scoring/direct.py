"""Methods that measure every layer by themselves, without rolling out a lane per variant.

`Residual`, `Noise` and `Tangent` say which variants of a weight are rolled out (methods.py) and lanes.py rolls them
out. A method of this file is handed the whole task and returns the table's columns: from backward passes through the
rollout, from one step, or from the weights alone. What its number means is its own affair, and is stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tqs_fast._progress import Report
from tqs_fast.engines import ENGINES, Reference, roll_reference, split_engine
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import Quantizer
from tqs_fast.scoring.checkpoint import Checkpoint
from tqs_fast.scoring.task import Task

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Measured:
    """The columns of a table: L layers (blocks of the task), B bit-widths of the method, N initial conditions.

    Attributes:
        samples: cost per initial condition, [L, B, N], zero or more; a method whose number does not come from single
            initial conditions repeats it N times (and says so), so that the table's means are that number.
        curve: cost against time, [L, B, T']; T' is 1 where there is no curve.
        relative_error: ‖Q_b(θ) - θ‖² / ‖θ‖² of the layer, [L, B].
        gain: cost per unit of relative weight-error energy, [L]; nan where it cannot be computed.
        probe_stderr: standard error of the cost over random probes, [L, B]; zero without any.
        growth_rate, growth_window: as in `Sensitivity`; nan and empty by default.
        provenance: what to add to that of the table, JSON values. "engine" is a dict of "name", "reason" and
            "serial" (layer -> reason).
    """

    samples: FloatArray
    curve: FloatArray
    relative_error: FloatArray
    gain: FloatArray
    probe_stderr: FloatArray
    growth_rate: FloatArray | None = None
    growth_window: IntArray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class DirectMethod(Protocol):
    """What `score` needs of a method that measures directly; a frozen dataclass, its fields JSON values."""

    @property
    def bits(self) -> tuple[int, ...]:
        """The menu, B bit-widths, increasing."""

    @property
    def quantizer(self) -> Quantizer:
        """How weights are rounded."""

    @property
    def meaning(self) -> str:
        """One sentence: what the numbers in the table's damage columns are."""

    @property
    def keeps_states(self) -> bool:
        """Whether it uses `reference.states`, which are then kept from the float rollout."""

    def measure(self, task: Task, reference: Reference, report: Report) -> Measured:
        """All layers at all bit-widths.

        Args:
            task: system, initial conditions (with inputs), horizon, weights and their row blocks, seed, memory limit.
            reference: the float rollout of the whole horizon, and the unit of errors. A method that looks at one step
                uses `reference.outputs[: system.block]`.
            report: called with (done, total) as work proceeds.
        """


class DirectRun:
    """A direct method on a task, behind the same door as `LaneRun`."""

    def __init__(self, method: DirectMethod, task: Task) -> None:
        if split_engine(task.engine, "score")[0] not in ENGINES:
            raise ArgumentError(f"[score] engine must be one of {ENGINES}, got {task.engine!r}")
        self._method = method
        self._task = task
        self.reference = roll_reference(task.system, task.states, task.horizon, keep_states=method.keeps_states)
        self.description: dict[str, Any] = {}

    def measure(self, store: Checkpoint | None, report: Report) -> Measured:
        """Nothing is kept in the checkpoint: there is no part of the work that could be resumed."""
        return self._method.measure(self._task, self.reference, report)
