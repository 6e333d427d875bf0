"""Lanes: copies of a rollout that differ in some weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tqs_fast import _cuda_weights, kernels


@dataclass(frozen=True, eq=False)
class Drawn:
    """Normal noise on elements `[begin, begin + count)` of a weight, drawn where it is used.

    Attributes:
        scale: the weight gets `scale` times `tqs_fast.kernels.normal(count, seed=seed, stream=stream)`, summed in
            float64 and rounded once.
    """

    seed: int
    stream: int
    scale: float
    begin: int
    count: int

    def tensor(self, parameter: torch.Tensor) -> torch.Tensor:
        """The weight with the noise, in its own dtype."""
        if _cuda_weights.on_device(parameter):
            return _cuda_weights.noisy(parameter, **vars(self))
        noise = torch.from_numpy(kernels.normal(self.count, seed=self.seed, stream=self.stream)).double()
        changed = parameter.detach().double().cpu().flatten().clone()
        changed[self.begin : self.begin + self.count] += self.scale * noise
        return changed.reshape(parameter.shape).to(parameter)


Change = torch.Tensor | Drawn


@dataclass(frozen=True, eq=False)
class Lane:
    """One copy of the rollout: weight index -> the tensor it uses there, or noise on it; other weights stay float."""

    changes: dict[int, Change]


def materialise(change: Change, parameter: torch.Tensor) -> torch.Tensor:
    """The weight as a lane uses it."""
    return change.tensor(parameter) if isinstance(change, Drawn) else change
