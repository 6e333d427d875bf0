"""A float weight that keeps count of what it multiplies: the Hessian of its outputs, gathered as they are computed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tqs_fast.compensation.elimination import FloatArray

CHUNK = 1 << 22  # inputs widened to float64 at once (32 MiB)


class ObservedTensor(nn.Module):
    """Takes the place of a `PackedTensor` in a drop-in and multiplies by the float weight.

    Drop-ins hand every product to `linear`: patches of convolutions, hidden states of recurrent layers, the rows of a
    joint projection. What they see adds up per range of rows; layers that share a weight share its observer.

    Args:
        weight: [N, ...], the float weight.

    Attributes:
        pending: while `marking`, (rows, x [M, K], mark [M, rows]) of every product since it was emptied: the mark is a
            zero that is added to the product, so that its gradient is that of the output.
        inputs: how many inputs the first row has seen.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self._weight = weight
        self._matrix = weight.flatten(1)
        self._sums: dict[tuple[int, int], Tensor] = {}
        self.marking = False
        self.pending: list[tuple[tuple[int, int], Tensor, Tensor]] = []
        self.inputs = 0

    def linear(self, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        """x [..., K] @ W[rows].T + bias."""
        start, stop, _ = (rows or slice(None)).indices(self.shape[0])
        y = F.linear(x, self._matrix[start:stop], bias)
        seen = x.detach().reshape(-1, x.shape[-1])
        if self.marking:
            mark = torch.zeros_like(y, requires_grad=True)
            self.pending.append(((start, stop), seen, mark))
            return y + mark
        self.add((start, stop), seen, None)
        return y

    def rows(self, indices: Tensor) -> Tensor:
        """W[indices]: a table's rows are looked up one at a time, there is no sum whose error columns could share."""
        return self._weight.index_select(0, indices)

    def dequantized(self) -> Tensor:
        """The float weight, for code that reads it; what that code multiplies is not seen."""
        return self._weight

    def add(self, rows: tuple[int, int], x: Tensor, weights: Tensor | None) -> None:
        """H[rows] += Σ_m weights[m] x[m] x[m]ᵀ, in float64; `weights` [M] of None is all ones."""
        columns = x.shape[1]
        total = self._sums.get(rows)
        if total is None:
            total = self._sums[rows] = x.new_zeros((columns, columns), dtype=torch.float64)
        if rows[0] == 0:
            self.inputs += len(x)
        size = max(1, CHUNK // columns)
        for first in range(0, len(x), size):
            part = x[first : first + size].double()
            weighted = part if weights is None else part * weights[first : first + size, None].double()
            total.addmm_(part.T, weighted)

    def hessians(self) -> list[tuple[int, int, FloatArray]]:
        """(first row, end row, H [K, K] float64): rows that saw the same inputs, together all rows that saw any."""
        edges = sorted({edge for rows in self._sums for edge in rows})
        found = []
        for first, end in pairwise(edges):
            parts = [total for rows, total in self._sums.items() if rows[0] <= first and end <= rows[1]]
            if parts:
                found.append((first, end, np.asarray(torch.stack(parts).sum(dim=0).cpu().numpy())))
        return found
