"""‖G‖_F² of every layer by Hutchinson probes, with G the derivative of the scaled, stacked trajectory by a weight.

Y stacks the outputs of a rollout, value (t, n, c) scaled by √(w_n / (T C)) / s_c with w_n the weight of initial
condition n (every family weighs the same, all sum to 1): then ‖Y(θ') - Y(θ)‖² is the damage that `Residual` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tqs_fast import kernels
from tqs_fast._progress import Report
from tqs_fast.engines import Reference
from tqs_fast.engines.torch_form import differentiable
from tqs_fast.engines.weight_adjoints import WeightAdjoints
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.direct import FloatArray
from tqs_fast.scoring.methods import stream
from tqs_fast.scoring.task import Task
from tqs_fast.systems.tree import Tree, tree_map

FINEST = 32  # columns per norm: the smallest group that a quantizer knows, of which all larger ones are made


@dataclass(frozen=True, eq=False)
class SquaredNorms:
    """Squared norms of Gᵀv, whose mean over probes v = ±1 is ‖G‖_F².

    Attributes:
        of_block: per layer `[F, P, rows, ceil(columns / FINEST)]`, float64; the F families on the scale of a damage of
            each alone.
        passes: how often the steps were computed again, on the way back.
        how: torch differentiated.
    """

    of_block: list[FloatArray]
    passes: int
    how: str


def squared_norms(task: Task, reference: Reference, probes: int, report: Report) -> SquaredNorms:
    """Pull `probes` random cotangents back through the rollout of each family; `reference` has its states.

    Gradients of at most `probes` copies of the weights are held, of fewer where `task.memory_limit` is less; each is
    summed over time and initial conditions before it is squared, and reduced at once.

    Raises:
        ArgumentError, DivergenceError: as `Adjoint.measure`.
    """
    assert len(reference.states) == task.system.steps(task.horizon)
    system = differentiable("Adjoint", task.system)
    adjoints = WeightAdjoints(system, [weight.name for weight in task.weights], together=task.memory_limit is None)
    at_once = _probes_at_once(adjoints, probes, task.memory_limit)
    cuts = [range(first, min(first + at_once, probes)) for first in range(0, probes, at_once)]
    families = range(len(task.states.families))
    of_block = [
        np.empty((len(families), probes, block.shape[0], -(-task.rows(b)[0].numel() // FINEST)))
        for b, block in enumerate(task.blocks)
    ]
    report(0, len(families) * len(cuts))
    for f in families:
        rows = torch.from_numpy(np.flatnonzero(task.states.family_of == f))
        states = [_rows(state, rows) for state in reference.states]
        inputs = None if task.states.inputs is None else _rows(task.states.inputs, rows)
        for cut, numbers in enumerate(cuts):
            cotangents = _Cotangents(task, reference, rows, numbers)
            sums = adjoints.pull(states, inputs, cotangents, count=len(numbers))
            for index, block, norms in zip(task.weight_of, task.blocks, of_block, strict=True):
                for row, number in enumerate(numbers):
                    norms[f, number] = finest_sums(block.of(sums[index][row]).double().square())
            del sums
            report(f * len(cuts) + cut + 1, len(families) * len(cuts))
    return SquaredNorms(of_block, len(cuts), adjoints.how)


def _probes_at_once(adjoints: WeightAdjoints, probes: int, memory_limit: int | None) -> int:
    if memory_limit is None:
        return probes
    size = adjoints.bytes_per_cotangent
    if size > memory_limit:
        raise ArgumentError(
            f"[score] memory_limit of {memory_limit} bytes is too small for the gradients of one probe ({size} bytes); "
            "raise it or score fewer layers at a time"
        )
    return min(probes, memory_limit // size)


def _rows(tree: Tree, rows: torch.Tensor) -> Tree:
    """The rows of one family; nothing is copied where there is no other."""
    return tree_map(lambda leaf: leaf if len(leaf) == len(rows) else leaf[rows.to(leaf.device)], tree)


class _Cotangents:
    """Scaled signs `[K, n, block, C]` of the outputs of every step; zero past the horizon.

    The sign of value (t, n, c) of a probe is a function of these numbers, the seed and N alone. One byte is kept for
    each: drawing them step by step took longer than a step of a small network.

    Args:
        rows: of the family.
        probes: K of them, by number.
    """

    def __init__(self, task: Task, reference: Reference, rows: torch.Tensor, probes: range) -> None:
        horizon, count, channels = reference.outputs.shape
        block = task.system.block
        size = horizon * count * channels
        self._signs = np.zeros((len(probes), task.system.steps(horizon) * block, len(rows), channels), dtype=np.int8)
        for row, number in enumerate(probes):
            drawn = kernels.uniform(size, seed=task.seed, stream=stream("Adjoint", number))
            positive = drawn.reshape(horizon, count, channels)[:, rows.numpy()] >= 0.5
            self._signs[row, :horizon] = np.where(positive, 1, -1)
        self._scale = 1 / (reference.scale * (len(rows) * horizon * channels) ** 0.5)
        self._block = block

    def __call__(self, t: int) -> torch.Tensor:
        signs = torch.from_numpy(self._signs[:, t * self._block : (t + 1) * self._block]).to(self._scale.device)
        scaled: torch.Tensor = signs.transpose(1, 2) * self._scale
        return scaled


def finest_sums(values: torch.Tensor) -> FloatArray:
    """Sums over every `FINEST` columns, `[rows, ceil(columns / FINEST)]`, in a fixed order, where the values lie."""
    matrix = values.flatten(1)
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % FINEST))
    return np.asarray(padded.reshape(len(padded), -1, FINEST).sum(dim=2).cpu().numpy())
