"""Which engine runs a system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from tqs_fast.engines.lane import Lane
from tqs_fast.engines.native_call import split_engine
from tqs_fast.engines.native_engine import NativeEngine
from tqs_fast.engines.reference import Reference
from tqs_fast.engines.statistics import LaneErrors
from tqs_fast.engines.swapped import SwappedEngine
from tqs_fast.engines.torch_engine import TorchEngine
from tqs_fast.engines.torch_form import in_torch
from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.quantization.held import Swappable
from tqs_fast.systems import States, System

# Bytes of weights from which "auto" leaves a program outside torch there: the native engine holds them three times over
# (4.6 times the weights at the peak, against 1.4; 1 GB, bench/onnx_stress.py).
LARGE = 2**28

ENGINES = ("auto", "native", "torch", "serial", "swapped")


class Engine(Protocol):
    """Rolls lanes of one system out from one set of states."""

    @property
    def name(self) -> str:
        """As in `ENGINES`."""

    @property
    def serial(self) -> dict[int, str]:
        """Weight index -> why its lanes run one after the other."""

    def roll(self, memory_limit: int | None = None) -> torch.Tensor:
        """Outputs `[T, N, C]` of the float model."""

    def lanes_per_chunk(self, reference: Reference, memory_limit: int | None) -> int:
        """Lanes that one call of `run` should be given."""

    def run(self, lanes: Sequence[Lane], reference: Reference, memory_limit: int | None = None) -> LaneErrors:
        """Squared scaled errors of `lanes` over the reference's horizon."""

    def trajectories(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Outputs `[lanes, T, N, C]` of `lanes`; may hold NaN or infinity where one diverged."""

    def run_tangents(
        self, lanes: Sequence[Mapping[int, torch.Tensor]], reference: Reference, memory_limit: int | None = None
    ) -> LaneErrors:
        """Squared scaled tangents of the outputs along weight directions: per lane, weight index -> direction."""


def choose_engine(
    name: str, system: System, states: States, parameters: Sequence[torch.nn.Parameter], *, horizon: int
) -> tuple[Engine, str]:
    """The engine called `name`, and why it was chosen.

    "auto" is the native engine wherever it can capture the step and its first step agrees with torch, else the torch
    engine; for a module that computes outside torch it is the native engine where its torch form can be captured, else
    "swapped"; large ones are "swapped" at once.

    Raises:
        ArgumentError: no engine has that name, or a weight is not used by a step.
            Or the engine does not run this kind of module.
        CaptureError: `name` is "native" and the step cannot be captured; or a module outside torch has no torch form.
    """
    name, device = split_engine(name, "score")
    if name not in ENGINES:
        raise ArgumentError(f"[score] engine must be one of {ENGINES}, got {name!r}")
    outside = isinstance(system.module, Swappable)
    if name == "swapped" and outside:
        return SwappedEngine(system, states, parameters, horizon=horizon), "asked for"
    if name == "swapped":
        raise ArgumentError(f'[score] {system.name} is a torch module, expected one outside torch; use engine="auto"')
    if name in ("torch", "serial"):
        system = in_torch(system)
        return TorchEngine(system, states, parameters, horizon=horizon, folded=name == "torch"), "asked for"
    size = sum(parameter.numel() * parameter.element_size() for parameter in system.module.parameters())
    if outside and name == "auto" and size >= LARGE:
        reason = f"the native engine would copy {size / 2**20:.0f} MiB of weights"
        return SwappedEngine(system, states, parameters, horizon=horizon), reason
    try:
        native = NativeEngine(system, states, parameters, horizon=horizon, device=device)
        return native, "asked for" if name == "native" else "the step was captured"
    except CaptureError as error:
        if name == "native":
            raise
        reason = f"the native engine cannot run it: {error}"
    if outside:
        return SwappedEngine(system, states, parameters, horizon=horizon), reason
    return TorchEngine(system, states, parameters, horizon=horizon), reason
