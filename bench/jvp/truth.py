"""The check of every contestant: central differences of the float64 rollout, in torch, of the plain form."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from jvp.form import Form, Rollout
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

STEP = 1e-5  # truncation ~ STEP^2, rounding ~ 2^-53 / STEP: both near 1e-10 of the tangent
AGREEMENT = 1e-6  # of the differences at STEP and at 2 STEP, below which they are trusted
EXACT = 1e-3  # float32 derivatives: 2^-24 per operation, grown along the rollout
DIFFERENCES = 0.1  # float32 forward differences: 2^-24 / epsilon plus epsilon times the curvature


@dataclass(frozen=True, eq=False)
class Truth:
    """Float64 outputs [T, N, C] and tangents [T, K, N, C]; `uncertainty` is how far two step sizes disagree."""

    outputs: torch.Tensor
    tangents: torch.Tensor
    uncertainty: float

    def error(self, rollout: Rollout) -> float:
        """Largest over steps of the relative error (Frobenius norm over K, N, C) of outputs and of tangents.

        NaN where a result is not finite.
        """
        return max(worst_step(rollout[0], self.outputs), worst_step(rollout[1], self.tangents), key=_nan_first)


def _nan_first(error: float) -> float:
    return error if error == error else float("inf")


def worst_step(got: torch.Tensor, expected: torch.Tensor) -> float:
    if got.shape != expected.shape:
        raise ValueError(f"[bench_jvp] expected a result of shape {list(expected.shape)}, got {list(got.shape)}")
    difference = (got.detach().double() - expected).flatten(1).norm(dim=1)
    return float((difference / expected.flatten(1).norm(dim=1)).max())


def find_truth(form: Form, horizon: int) -> Truth:
    """Roll the displaced float64 states out and check the step size on the first tangent.

    Raises:
        ArithmeticError: two step sizes disagree by more than AGREEMENT.
    """
    module = copy.deepcopy(form.system.module).double()
    state, tangents = to_double(form.state), to_double(form.tangents)

    def difference(directions: Tree, step: float) -> torch.Tensor:
        ahead = roll(form, module, displaced(state, directions, step), horizon)
        behind = roll(form, module, displaced(state, directions, -step), horizon)
        count = tree_leaves(state)[0].shape[0]
        return ((ahead - behind) / (2 * step)).unflatten(1, (-1, count))

    found = difference(tangents, STEP)
    first = tree_map(lambda leaf: leaf[:1], tangents)
    uncertainty = worst_step(difference(first, 2 * STEP), found[:, :1])
    if not uncertainty <= AGREEMENT:
        raise ArithmeticError(
            f"[bench_jvp] the float64 differences of {form.system.name} disagree by {uncertainty:.1e} between steps "
            f"{STEP} and {2 * STEP}; shorten the horizon"
        )
    return Truth(roll(form, module, state, horizon), found, uncertainty)


def to_double(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.double(), tree)


def displaced(state: Tree, directions: Tree, step: float) -> Tree:
    """state + step * direction of every direction, [K * N, ...]."""
    leaves = iter(tree_leaves(directions))
    return tree_map(lambda z: (z[None] + step * next(leaves)).flatten(0, 1), state)


@torch.no_grad()
def roll(form: Form, module: torch.nn.Module, state: Tree, horizon: int) -> torch.Tensor:
    outputs = []
    for _ in range(horizon):
        state, output = form.system.step(module, state)
        outputs.append(output.flatten(1))  # a forecaster gives [N, 1, C]
    return torch.stack(outputs)
