"""One step of the model, differentiable in its weights; and what tables of one-step scores have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tqs_fast.engines import Reference
from tqs_fast.engines.substitution import Substitution
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring.direct import FloatArray, Measured
from tqs_fast.scoring.task import Task
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree, tree_map


class OneStep:
    """The first step from some of the initial conditions, in units of the reference's scale.

    Args:
        task: system, initial conditions and weights.
        reference: whose scale `[C]` is the unit.
        function: the name that error messages carry.
    """

    def __init__(self, task: Task, reference: Reference, function: str) -> None:
        self._task = task
        self._scale = reference.scale
        self._function = function

    def leaves(self, values: Mapping[int, torch.Tensor] | None = None) -> list[torch.Tensor]:
        """A tensor to differentiate by for each weight of the task: its value, or that of `values` by index."""
        values = {} if values is None else values
        return [
            values.get(index, parameter).detach().clone().requires_grad_()
            for index, parameter in enumerate(self._task.parameters)
        ]

    def outputs(self, leaves: list[torch.Tensor], rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        """`[rows, block, C]`, divided by the scale, as a function of `leaves`; `rows` are initial conditions."""
        states = self._task.states
        index = torch.from_numpy(rows)

        def pick(tree: Tree) -> Tree:
            return tree_map(lambda leaf: leaf[index.to(leaf.device)], tree)

        step_input = input_at(states.inputs, 0)
        arguments = () if step_input is None else (pick(step_input),)
        system = self._task.system
        with torch.enable_grad(), Substitution(dict(zip(self._task.parameters, leaves, strict=True))):
            _, output = system.step(system.module, pick(states.state), *arguments)
        if output.dim() == 2:
            output = output.unsqueeze(1)
        return output / self._scale.to(output)

    def gradients(self, value: torch.Tensor, leaves: list[torch.Tensor], *, again: bool = False) -> list[torch.Tensor]:
        """d value / d leaf, zero where a weight has no part in it; `again` keeps the graph for another call.

        Raises:
            ArgumentError: torch cannot differentiate the step.
        """
        try:
            found = torch.autograd.grad(value, leaves, retain_graph=again, allow_unused=True)
        except (NotImplementedError, RuntimeError) as error:
            raise ArgumentError(
                f"[{self._function}] torch cannot differentiate a step of {self._task.system.name} "
                f"({str(error).splitlines()[0]}); use OutputDivergence, which needs no gradients"
            ) from error
        return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def rows_of_family(task: Task, family: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of the initial conditions of one family."""
    return np.flatnonzero(task.states.family_of == family)


def table_of(
    samples: FloatArray, relative_error: FloatArray, probe_stderr: FloatArray, task: Task, why: str
) -> Measured:
    """Columns of a score that has no curve: `samples [L, B, N]`; the gain is taken at the largest bit-width.

    Args:
        why: how it was computed, for provenance.
    """
    families = range(len(task.states.families))
    means = np.mean([samples[:, :, rows_of_family(task, f)].mean(axis=2) for f in families], axis=0)
    error = relative_error[:, -1]
    return Measured(
        samples=samples,
        curve=means[:, :, None],
        relative_error=relative_error,
        gain=means[:, -1] / np.where(error > 0, error, np.nan),
        probe_stderr=probe_stderr,
        provenance={"engine": {"name": "torch", "reason": why, "serial": {}}},
    )
