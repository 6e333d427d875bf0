"""The state of one sample as a vector: its floating leaves, flattened and joined in tree order."""

from __future__ import annotations

import torch

from tqs_fast.engines.torch_tangents import Leaves, floating
from tqs_fast.systems.tree import Tree, tree_map


class StateVector:
    """How states and vectors of size D correspond.

    Args:
        state: tree of `[N, ...]` whose shapes and dtypes count.
    """

    def __init__(self, state: Tree) -> None:
        self._template = state
        leaves = floating(state)
        self._shapes = [leaf.shape[1:] for leaf in leaves]
        self._dtypes = [leaf.dtype for leaf in leaves]
        self._devices = [leaf.device for leaf in leaves]
        self._sizes = [leaf[0].numel() for leaf in leaves]

    @property
    def size(self) -> int:
        """D, floating numbers in the state of one sample."""
        return sum(self._sizes)

    def leaves(self, frame: torch.Tensor) -> Leaves:
        """`[N, D, K]` as `[K, N, ...]` of every floating leaf, in its own dtype."""
        rows = torch.split(frame.permute(2, 0, 1), self._sizes, dim=2)
        kinds = zip(rows, self._shapes, self._devices, self._dtypes, strict=True)
        return tuple(part.reshape(*part.shape[:2], *shape).to(device, dtype) for part, shape, device, dtype in kinds)

    def frame(self, leaves: Leaves) -> torch.Tensor:
        """`[K, N, ...]` of every floating leaf as `[N, D, K]` in float64, on the processor."""
        return torch.cat([leaf.flatten(2).to("cpu", torch.float64) for leaf in leaves], dim=2).permute(1, 2, 0)

    def tree(self, frame: torch.Tensor) -> Tree:
        """`[N, D, K]` as a state tree of `[K, N, ...]`, zero for other leaves."""
        leaves = iter(self.leaves(frame))
        count = frame.shape[2]
        return tree_map(
            lambda leaf: next(leaves) if leaf.is_floating_point() else leaf.new_zeros((count, *leaf.shape)),
            self._template,
        )
