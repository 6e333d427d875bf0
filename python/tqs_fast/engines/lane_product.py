"""The product of every lane's rows with that lane's own weight matrix: `y[lane] = x[lane] @ W[lane]ᵀ + bias`.

The float weight multiplies all lanes at once when most lanes use it (overwriting the few that do not is cheaper than
gathering
the rest); variants that equally many lanes use are one batched product, written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class WeightVariants:
    """The variants of one weight.

    Attributes:
        stacked: `[V, *weight.shape]`.
        of_lane: the variant each lane uses, None for the float weight; `[lanes]`.
    """

    stacked: torch.Tensor
    of_lane: tuple[int | None, ...]


class LaneProduct:
    """`x [lanes, rows, in]` -> `[lanes, rows, out]` for one weight `[out, in]` and its variants."""

    def __init__(self, variants: WeightVariants) -> None:
        self._transposed = variants.stacked.transpose(1, 2)  # [V, in, out]
        lanes_of: list[list[int]] = [[] for _ in variants.stacked]
        self._float_lanes: list[int] = []
        for lane, variant in enumerate(variants.of_lane):
            (self._float_lanes if variant is None else lanes_of[variant]).append(lane)
        self._float_everywhere = 2 * len(self._float_lanes) > len(variants.of_lane)
        self._lanes_of = [(v, as_index(lanes)) for v, lanes in enumerate(lanes_of) if lanes]
        order = [lane for lanes in lanes_of for lane in lanes]
        equal = len({len(lanes) for lanes in lanes_of}) == 1
        self._batched = as_index(order) if equal else None
        self._buffer: torch.Tensor | None = None

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, reuse: bool = False
    ) -> torch.Tensor:
        """The products; with `reuse` in a buffer that the next call overwrites (fresh pages cost as much as they)."""
        shape = (x.shape[0], x.shape[1], weight.shape[0])
        if reuse and self._buffer is not None and self._buffer.shape == shape and self._buffer.dtype == x.dtype:
            out = self._buffer
        else:
            out = x.new_empty(shape)
            self._buffer = out if reuse else None
        if self._float_everywhere:
            _product(x.flatten(0, 1), weight.t(), bias, out.flatten(0, 1))
        elif self._float_lanes:
            out[self._float_lanes] = torch.nn.functional.linear(x[self._float_lanes], weight, bias)
        if self._batched is None:
            for variant, lanes in self._lanes_of:
                out[lanes] = torch.nn.functional.linear(x[lanes], self._transposed[variant].t(), bias)
            return out
        rows = x[self._batched]
        variants = len(self._transposed)
        grouped = rows.reshape(variants, -1, rows.shape[-1])
        if isinstance(self._batched, slice) and len(rows) == variants:
            _product(grouped, self._transposed, bias, out[self._batched])
        else:
            y = _product(grouped, self._transposed, bias, out.new_empty(*grouped.shape[:2], weight.shape[0]))
            out[self._batched] = y.reshape(*rows.shape[:2], -1)
        return out


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """`x @ weight + bias` into `out`, all two- or all three-dimensional."""
    if bias is None:
        return torch.matmul(x, weight, out=out)
    multiply = torch.addmm if x.dim() == 2 else torch.baddbmm
    return multiply(bias, x, weight, out=out)


def as_index(lanes: Sequence[int]) -> slice | list[int]:
    """`lanes` as a slice where they are consecutive, so that indexing is a view."""
    if lanes and list(lanes) == list(range(lanes[0], lanes[0] + len(lanes))):
        return slice(lanes[0], lanes[0] + len(lanes))
    return list(lanes)
