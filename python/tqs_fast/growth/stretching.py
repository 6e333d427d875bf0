"""What a propagated frame has been stretched by: the quantity that both engines compute, and the torch engine's way.

Benettin's method (Benettin, Galgani, Giorgilli, Strelcyn, Meccanica 15, 1980) in its QR form: an orthonormal frame
Q [D, K] per sample is pushed through `interval` steps and orthonormalised again,

    Q' R = J_{t + interval - 1} ... J_t Q,

and log |R_ii| is added up. Sums are kept per block of time, from which statistics.py takes means and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.engines.torch_form import differentiable
from tqs_fast.engines.torch_tangents import TorchTangents, floating
from tqs_fast.growth.vector import StateVector
from tqs_fast.systems import System
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Done = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Stretching:
    """Over some steps of N samples with a frame of K directions, in B blocks.

    Attributes:
        logs: sum of log |R_ii| (natural) over each block, `[B, N, K]`; -inf where a direction was annihilated, nan in a
            sample that failed.
        steps: of each block, `[B]`.
        condition: of the frame just before it was orthonormalised, the largest of each sample, `[N]`: see
            `orthonormalise`; inf where the frame itself overflowed.
        diverged: step after which the trajectory (-1: never) was found not to be finite, `[N]`.
        state: tree of `[N, ...]` after the last step; meaningless in a sample that failed.
        frame: `[N, D, K]` float64, orthonormal columns; likewise.
    """

    logs: FloatArray
    steps: IntArray
    condition: FloatArray
    diverged: IntArray
    state: Tree
    frame: torch.Tensor

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Samples whose trajectory and frame stayed finite, `[N]`."""
        finite: npt.NDArray[np.bool_] = (self.diverged < 0) & ~np.isnan(self.logs).any(axis=(0, 2))
        return finite


class Stretcher(Protocol):
    """Pushes frames through the steps of one system."""

    @property
    def name(self) -> str:
        """Of the engine."""

    @property
    def how(self) -> str:
        """How tangents are computed; known after the first run."""

    def run(
        self,
        state: Tree,
        inputs: Tree | None,
        frame: torch.Tensor,
        *,
        first: int,
        steps: int,
        interval: int,
        blocks: int,
        report: Done,
    ) -> Stretching:
        """Push `frame` through `steps` steps; samples that fail are set aside and the others go on.

        Args:
            state: tree of `[N, ...]`.
            inputs: tree of `[N, >= first + steps, ...]` for a driven system, else None.
            frame: `[N, D, K]` float64 with orthonormal columns.
            first: time of the first step, for the inputs.
            interval: steps between orthonormalisations; the last one may be shorter.
            blocks: at most so many blocks of time.
            report: is called with the number of steps done.
        """


def block_of(index: int, intervals: int, blocks: int) -> int:
    """Block of interval number `index` out of `intervals`: as equal as whole intervals allow."""
    return index * blocks // intervals


class TorchStretching:
    """Frames pushed by the torch engine, all samples at once.

    Args:
        system: whose steps are differentiated.
    """

    name = "torch"

    def __init__(self, system: System) -> None:
        self._system = system
        self._pusher = TorchTangents(differentiable("growth_rates", system))

    @property
    def how(self) -> str:
        """How tangents were computed."""
        return self._pusher.how

    def run(
        self,
        state: Tree,
        inputs: Tree | None,
        frame: torch.Tensor,
        *,
        first: int,
        steps: int,
        interval: int,
        blocks: int,
        report: Done,
    ) -> Stretching:
        """As `Stretcher.run`."""
        vector = StateVector(state)
        count, _, directions = frame.shape
        intervals = -(-steps // interval)
        blocks = min(blocks, intervals)
        logs = np.zeros((blocks, count, directions))
        lengths = np.zeros(blocks, dtype=np.int64)
        condition = np.ones(count)
        diverged = np.full(count, -1, dtype=np.int64)
        final_state, final_frame = tree_map(torch.clone, state), frame.clone()
        alive = np.arange(count)
        for index in range(intervals):
            begin = index * interval
            taken = min(interval, steps - begin)
            block = block_of(index, intervals, blocks)
            lengths[block] += taken
            tangents = vector.leaves(frame)
            for t in range(begin, begin + taken):
                pushed = self._pusher.step(state, tangents, pick_samples(input_at(inputs, first + t), alive))
                state, tangents = pushed.state, pushed.tangents
            frame = vector.frame(tangents)
            lost = ~_finite(floating(state))
            overflowed = ~_finite((frame,))
            failed = lost | overflowed
            if failed.any():
                diverged[alive[lost]] = first + begin + taken - 1
                condition[alive[overflowed]] = np.inf
                logs[:, alive[failed]] = np.nan
                kept = np.flatnonzero(~failed)
                alive, frame, state = alive[kept], frame[kept], pick_samples(state, kept)
            if len(alive) == 0:
                break
            frame, stretch, conditions = orthonormalise(frame)
            logs[block, alive] += stretch.numpy()
            condition[alive] = np.maximum(condition[alive], conditions.numpy())
            report(begin + taken)
        _put(final_state, state, alive)
        final_frame[alive] = frame
        return Stretching(logs, lengths, condition, diverged, final_state, final_frame)


def orthonormalise(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q `[N, D, K]`, log |R_ii| `[N, K]` and the condition `[N]` of frames `[N, D, K]`, by Householder reflections.

    A column that depends on those before it has log 0 = -inf, and Q is completed to an orthonormal frame.

    The condition is ‖(R S)⁻¹‖_F / √K, where S scales every column to norm 1: 1 for orthogonal columns of any lengths,
    and at least κ₂(R S) / K. Lengths do not count because Householder's errors are relative to each column; what costs
    digits, as many as this number has, is columns that have turned towards each other.
    """
    # NumPy's: torch hands every small factorisation to all threads, which costs more than the factorisation
    q, r = (torch.from_numpy(part) for part in np.linalg.qr(frame.numpy()))
    diagonal = r.diagonal(dim1=1, dim2=2).abs()
    scaled = r / torch.linalg.vector_norm(r, dim=1, keepdim=True)
    identity = torch.eye(r.shape[1], dtype=r.dtype).expand_as(r)
    inverse = torch.linalg.solve_triangular(scaled, identity, upper=True)
    condition = torch.linalg.matrix_norm(inverse) / r.shape[1] ** 0.5
    singular = (diagonal == 0).any(dim=1) | ~torch.isfinite(condition)
    return q, diagonal.log(), torch.where(singular, torch.inf, condition)


def _finite(leaves: Sequence[torch.Tensor]) -> npt.NDArray[np.bool_]:
    """Which samples `[N]` are finite in every leaf."""
    finite = torch.stack([torch.isfinite(leaf).flatten(1).all(dim=1) for leaf in leaves]).all(dim=0)
    return np.asarray(finite.cpu().numpy())


def pick_samples(tree: Tree | None, rows: IntArray) -> Tree | None:
    """Samples `rows` of every leaf."""
    return None if tree is None else tree_map(lambda leaf: leaf[torch.from_numpy(rows).to(leaf.device)], tree)


def _put(target: Tree, source: Tree, rows: IntArray) -> None:
    """Writes samples `rows` of every leaf in place."""
    for leaf, new in zip(tree_leaves(target), tree_leaves(source), strict=True):
        leaf[torch.from_numpy(rows).to(leaf.device)] = new
