"""The tangent map of a whole rollout, M = J_{T-1} ... J_0, as a linear operator per sample: products with M and Mᵀ.

M itself is never formed. So that neither overflows nor underflows over long horizons, the product of every few
Jacobians is divided by a power of two s_j chosen on the first product; operator and adjoint share these, and
`log_scale` = Σ_j log s_j gives the size back.
"""

from __future__ import annotations

import numpy as np
import torch

from tqs_fast.engines.torch_tangents import Leaves, floating
from tqs_fast.growth.products import Products
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import System, iterate
from tqs_fast.systems.tree import Tree, tree_map

STRIDE = 8  # steps between divisions: even float32 holds a growth of 10^4 a step for so long


class Linearisation:
    """M and Mᵀ of N samples.

    The states of the rollout are kept, T + 1 of them per sample; a sample whose rollout is not finite is left out.

    Args:
        system: whose steps are differentiated.
        multiplier: the products with Jacobians.
        state: tree of `[N, ...]` to start from.
        inputs: tree of `[N, >= steps, ...]` for a driven system, else None.
        steps: T.

    Attributes:
        diverged: step after which a trajectory was not finite, -1: never, `[N]`.
        samples: indices of those that stayed finite, `[A]`; products are over these.
        products: tangent rollouts and adjoint rollouts so far, each counted per direction.
    """

    def __init__(self, system: System, multiplier: Products, state: Tree, inputs: Tree | None, *, steps: int) -> None:
        states = [state]
        for moved, _ in iterate(system, state, inputs, steps):
            states.append(moved)
        self.diverged = _first_failure(states)
        self.samples = torch.from_numpy(np.flatnonzero(self.diverged < 0))
        rows = self.samples.to(floating(state)[0].device)
        self._states = [tree_map(lambda leaf: leaf[rows], each) for each in states]
        self._inputs = None if inputs is None else tree_map(lambda leaf: leaf[rows], inputs)
        self._steps = steps
        self._vector = StateVector(state)
        self._multiplier = multiplier
        self._scales: torch.Tensor | None = None
        self.products = {"tangent": 0, "adjoint": 0}

    @property
    def size(self) -> int:
        """D."""
        return self._vector.size

    @property
    def final(self) -> Tree:
        """State of `[A, ...]` after the last step."""
        return self._states[-1]

    @property
    def log_scale(self) -> torch.Tensor:
        """Σ_j log s_j, `[A]` float64; M is exp of it times the operator. Known after the first product."""
        if self._scales is None:
            return torch.zeros(len(self.samples), dtype=torch.float64)
        return self._scales.log().sum(dim=0)

    def forward(self, block: torch.Tensor) -> torch.Tensor:
        """The scaled M times `block` `[A, D, K]`."""
        self.products["tangent"] += block.shape[2]
        scales = self._scales
        chosen = []
        size = _magnitude(block)
        leaves = self._vector.leaves(block)
        for j, (states, inputs) in enumerate(self._strides()):
            leaves = self._multiplier.push(states, inputs, leaves)
            if scales is None:
                grown = _magnitude(self._vector.frame(leaves))
                growth = torch.where((grown > 0) & (size > 0), grown / size, 1.0)
                chosen.append(torch.exp2(growth.log2().round()))
                size = grown / chosen[-1]
            leaves = _divide(leaves, chosen[j] if scales is None else scales[j])
        if scales is None:
            self._scales = torch.stack(chosen)
        return self._vector.frame(leaves)

    def adjoint(self, block: torch.Tensor) -> torch.Tensor:
        """The scaled Mᵀ times `block` `[A, D, K]`; after a first product with M."""
        assert self._scales is not None
        self.products["adjoint"] += block.shape[2]
        leaves = self._vector.leaves(block)
        for (states, inputs), scale in zip(reversed(self._strides()), reversed(self._scales), strict=True):
            leaves = _divide(self._multiplier.pull(states, inputs, leaves), scale)
        return self._vector.frame(leaves)

    def _strides(self) -> list[tuple[list[Tree], Tree | None]]:
        """States before the steps of every stride, and their inputs."""
        cuts = [(begin, min(begin + STRIDE, self._steps)) for begin in range(0, self._steps, STRIDE)]
        return [(self._states[begin:end], self._inputs_between(begin, end)) for begin, end in cuts]

    def _inputs_between(self, begin: int, end: int) -> Tree | None:
        return None if self._inputs is None else tree_map(lambda leaf: leaf[:, begin:end], self._inputs)

    def directions(self, block: torch.Tensor) -> Leaves:
        """`[A, D, K]` as `[K, A, ...]` of every floating leaf."""
        return self._vector.leaves(block)


def _magnitude(block: torch.Tensor) -> torch.Tensor:
    """Largest element of every sample, `[A]`: a norm whose squares would overflow is not taken."""
    return block.abs().amax(dim=(1, 2))


def _divide(leaves: Leaves, scale: torch.Tensor) -> Leaves:
    """`[K, A, ...]` over a power of two per sample `[A]`, which is exact."""
    return tuple(leaf / scale.to(leaf.device, leaf.dtype).reshape(1, -1, *[1] * (leaf.dim() - 2)) for leaf in leaves)


def _first_failure(states: list[Tree]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """First step after which a sample is not finite, -1: never; `[N]`."""
    count = floating(states[0])[0].shape[0]
    failed = np.full(count, -1, dtype=np.int64)
    for t, state in enumerate(states[1:]):
        finite = torch.stack([torch.isfinite(leaf).flatten(1).all(dim=1) for leaf in floating(state)]).all(dim=0)
        failed[(failed < 0) & ~finite.cpu().numpy()] = t
    return failed
