"""Error statistics of lanes against the reference, streamed step by step: no trajectory is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tqs_fast.engines.reference import Reference

STEPS_AT_ONCE = 16  # a reduction of one small step is all overhead; what is held back stays small


@dataclass(frozen=True, eq=False)
class LaneErrors:
    """Squared scaled errors e_t² = ((y_t - reference_t) / scale)² of some lanes; infinite where a lane diverged.

    Attributes:
        samples: `[lanes, N]`, mean over time and channels of every initial condition.
        curve: `[lanes, T]`, mean over channels and initial conditions (families count equally).
    """

    samples: torch.Tensor
    curve: torch.Tensor


class ErrorStatistics:
    """Accumulates `LaneErrors` in float64.

    Args:
        reference: the float rollout, T values.
        weights: `[N]`, of the initial conditions in the curve; sum 1.
        lanes: number of lanes.
    """

    def __init__(self, reference: Reference, weights: torch.Tensor, lanes: int) -> None:
        self._reference = reference
        self._weights = weights
        horizon, count, _ = reference.outputs.shape
        self._samples = torch.zeros(lanes, count, dtype=torch.float64)
        self._curve = torch.zeros(lanes, horizon, dtype=torch.float64)
        self._t = 0
        self._pending: list[torch.Tensor] = []

    def update(self, output: torch.Tensor) -> None:
        """Take the outputs of one step, `[lanes * N, block, C]`; values past the horizon are dropped."""
        self._pending.append(output)
        if len(self._pending) == STEPS_AT_ONCE:
            self._reduce()

    def result(self) -> LaneErrors:
        """The statistics over the steps taken so far."""
        self._reduce()
        return LaneErrors(self._samples / self._t, self._curve[:, : self._t])

    def _reduce(self) -> None:
        if not self._pending:
            return
        horizon, count, channels = self._reference.outputs.shape
        output = torch.cat(self._pending, dim=1)  # [lanes * N, values, C]
        self._pending = []
        values = min(output.shape[1], horizon - self._t)
        reference = self._reference.outputs[self._t : self._t + values].transpose(0, 1)
        lanes = output.reshape(-1, count, output.shape[1], channels)[:, :, :values]
        scaled = (lanes.double() - reference.double()) / self._reference.scale
        squared = scaled.square().mean(dim=-1).nan_to_num(nan=torch.inf, posinf=torch.inf)  # [lanes, N, values]
        self._samples += squared.sum(dim=-1).cpu()
        self._curve[:, self._t : self._t + values] = (squared.cpu() * self._weights[None, :, None]).sum(dim=1)
        self._t += values
