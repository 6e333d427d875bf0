"""How trained weights are rounded while they are trained: with scales chosen anew, or with trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tqs_fast.kernels import PackedWeight, round_to_grid
from tqs_fast.quantization.blocks import Block
from tqs_fast.quantization.weights import Weight

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan

Planned = Sequence[tuple[Weight, list[Block]]]


class RecomputedScales:
    """Q(w) is what `quantize` stores for w: scales are chosen by the plan's quantizer whenever weights are rounded.

    Attributes:
        logarithms: trained besides the weights: nothing.
    """

    def __init__(self, planned: Planned, plan: Plan) -> None:
        self._planned, self._plan = planned, plan
        self.logarithms: list[torch.Tensor] = []

    def rounded(self, latent: Sequence[torch.Tensor], logarithms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Q(w) of every weight."""
        found = []
        for (_, blocks), values in zip(self._planned, latent, strict=True):
            parts = [
                self._plan.quantizer.dequantized(block.of(values.detach()), _bits(self._plan, block)).to(values)
                for block in blocks
            ]
            found.append(torch.cat(parts))
        return found

    def pulled(
        self, latent: Sequence[torch.Tensor], logarithms: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Gradients in Q(w) -> those that the weights are given: straight through."""
        return list(gradients)

    def packed(self, latent: Sequence[torch.Tensor], logarithms: Sequence[torch.Tensor]) -> dict[str, PackedWeight]:
        """Blocks whose codes and scales are not those that `quantize` would choose: none."""
        return {}


class LearnedScales:
    """Scales of the format, trained with the weights; zero points stay those of the start.

    A group's scale is s = ± exp(t), rounded to the bfloat16 that is stored, and q = round(w / s) within the codes. As
    in LSQ (arXiv:1902.08153) the gradient in Q(w) goes to w where w / s lies within the codes and nowhere else, and to
    s as q - w / s there and as the last code where w / s lies beyond. Training t keeps the sign of scales, and makes a
    step of the optimiser relative to the scale. LSQ's factor on the gradient of s does nothing to Adam.

    Args:
        planned: weights and row blocks.
        grids: by block name, packed weights whose scales and zero points to start from.
    """

    def __init__(self, planned: Planned, grids: Mapping[str, PackedWeight]) -> None:
        self._planned, self._grids = planned, grids
        self._blocks = [block for _, blocks in planned for block in blocks]
        scales = [_from_bfloat16(grids[block.name].scales) for block in self._blocks]
        self.logarithms = [scale.abs().log() for scale in scales]
        self._signs = [scale.sign() for scale in scales]

    def rounded(self, latent: Sequence[torch.Tensor], logarithms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Q(w) of every weight: exactly what `packed` stores."""
        packed = self.packed(latent, logarithms)
        return [
            torch.cat([torch.from_numpy(packed[block.name].dequantize()) for block in blocks])
            .reshape(values.shape)
            .to(values)
            for (_, blocks), values in zip(self._planned, latent, strict=True)
        ]

    def pulled(
        self,
        latent: Sequence[torch.Tensor],
        logarithms: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Gradients in Q(w) -> those of the weights, then those of the logarithms."""
        to_weights, to_scales = [], []
        places = iter(self._scales(logarithms))
        for (_, blocks), values, gradient in zip(self._planned, latent, gradients, strict=True):
            parts = []
            for block in blocks:
                scales = next(places)
                grid = self._grids[block.name]
                inside, slope = _slopes(_matrix(block, values), scales, grid)
                arrived = _matrix(block, gradient)
                parts.append((arrived * inside).reshape(block.of(gradient).shape))
                to_scales.append(_group_sums(arrived * slope, grid) * scales)
            to_weights.append(torch.cat(parts))
        return to_weights + to_scales

    def packed(self, latent: Sequence[torch.Tensor], logarithms: Sequence[torch.Tensor]) -> dict[str, PackedWeight]:
        """By block name, the nearest codes on the scales as they are."""
        values = [
            _matrix(block, weight)
            for (_, blocks), weight in zip(self._planned, latent, strict=True)
            for block in blocks
        ]
        return {
            block.name: round_to_grid(
                matrix.float().cpu().numpy(),
                PackedWeight(grid.codes, _to_bfloat16(scales), grid.zeros, grid.bits, grid.group_size, grid.shape),
            )
            for block, matrix, scales in zip(self._blocks, values, self._scales(logarithms), strict=True)
            for grid in [self._grids[block.name]]
        }

    def _scales(self, logarithms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """[N, G] of every block."""
        return [sign * logarithm.exp() for sign, logarithm in zip(self._signs, logarithms, strict=True)]


Rounding = RecomputedScales | LearnedScales


def _slopes(matrix: torch.Tensor, scales: torch.Tensor, grid: PackedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K]: 1 where w lies within the codes, and ∂Q(w)/∂s."""
    scales = scales.bfloat16().to(matrix)
    zeros = _zeros(grid).to(matrix)
    ratio = matrix / _spread(scales, grid)
    low, high = -_spread(zeros, grid), 2**grid.bits - 1 - _spread(zeros, grid)
    q = ratio.round().clamp(low, high)
    inside = (ratio >= low) & (ratio <= high)
    return inside.to(matrix), torch.where(inside, q - ratio, q)


def _zeros(grid: PackedWeight) -> torch.Tensor:
    """[N, G]"""
    if grid.zeros is None:
        return torch.full(grid.scales.shape, 2.0 ** (grid.bits - 1))
    return torch.from_numpy(grid.zeros.astype(np.float32))


def _spread(values: torch.Tensor, grid: PackedWeight) -> torch.Tensor:
    """[N, G] of groups -> [N, K] of their columns."""
    columns = grid.shape[1]
    width = grid.group_size or columns
    return values.repeat_interleave(width, dim=1)[:, :columns]


def _group_sums(matrix: torch.Tensor, grid: PackedWeight) -> torch.Tensor:
    """[N, K] -> [N, G] sums over the columns of each group."""
    width = grid.group_size or grid.shape[1]
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % width))
    return padded.reshape(len(matrix), -1, width).sum(dim=2)


def _matrix(block: Block, values: torch.Tensor) -> torch.Tensor:
    """The rows of the block, [N, K]."""
    return block.of(values.detach()).flatten(1)


def _from_bfloat16(patterns: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> torch.Tensor:
    return torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16).float()


def _to_bfloat16(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return values.bfloat16().cpu().view(torch.int16).numpy().view(np.uint16)


def _bits(plan: Plan, block: Block) -> int:
    bits = plan.bits[block.name]
    assert bits is not None
    return bits
