"""Tangents on the torch engine: exact Jacobian-vector products of one step by forward-mode differentiation.

A step is differentiated as the user wrote it. Where torch has no forward-mode rule for a fused kernel (attention, LSTM,
encoder layers) the same mathematics is run on elementary operations; where an operation cannot be batched over tangents
they go one by one. Which of these a rollout needed is recorded. Finite differences never stand in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tqs_fast.engines.substitution import Substitution
from tqs_fast.errors import ArgumentError, TqsError
from tqs_fast.systems import System
from tqs_fast.systems.system import advance
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

Leaves = tuple[torch.Tensor, ...]
# What torch raises where a transform does not know an operation; errors of the step itself have been seen before.
UNSUPPORTED = (RuntimeError, ValueError, TypeError)


@dataclass(frozen=True, eq=False)
class TangentStep:
    """One step of lane 0 and its K tangents.

    Attributes:
        state: tree of `[N, ...]`.
        output: `[N, block, C]`.
        tangents: `[K, N, ...]` of every floating leaf of the state, in tree order.
        output_tangents: `[K, N, block, C]`.
    """

    state: Tree
    output: torch.Tensor
    tangents: Leaves
    output_tangents: torch.Tensor


class TorchTangents:
    """Pushes tangents through the steps of a system.

    Args:
        system: whose steps are differentiated.
        weights: parameter -> its tangents `[K, ...]`, the same at every step.
    """

    def __init__(self, system: System, weights: Mapping[torch.nn.Parameter, torch.Tensor] | None = None) -> None:
        self._system = system
        self._parameters = tuple(weights or {})
        self._weight_tangents = tuple((weights or {}).values())
        self._way: Way | None = None

    @property
    def how(self) -> str:
        """How tangents are computed; empty before the first step."""
        return "" if self._way is None else self._way.name

    def step(self, state: Tree, tangents: Leaves, step_input: Tree | None) -> TangentStep:
        """One step.

        Args:
            state: tree of `[N, ...]`.
            tangents: `[K, N, ...]` of every floating leaf, in tree order.
            step_input: tree of `[N, ...]` for a driven system, else None.

        Raises:
            ArgumentError: torch cannot differentiate an operation of the step, with its reason.
        """

        def primal(leaves: Leaves, weights: Leaves) -> tuple[tuple[Leaves, torch.Tensor], Leaves]:
            replaced = dict(zip(self._parameters, weights, strict=True))
            with Substitution(replaced) if replaced else nullcontext():
                after, output = advance(self._system, replace_floating(state, leaves), step_input)
                after = tree_like(state, after)
            return (floating(after), output), tuple(leaf for leaf in tree_leaves(after) if not leaf.is_floating_point())

        seeds = (tangents, self._weight_tangents)
        points = (floating(state), tuple(parameter.detach() for parameter in self._parameters))
        if self._way is None:
            advance(self._system, state, step_input)  # an error of the step itself is raised as it is
            with warnings.catch_warnings():
                # torch's own, when it loads its forward-mode rules
                warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is ", DeprecationWarning)
                self._way, result = self._first(primal, points, seeds)
        else:
            result = self._way.run(primal, points, seeds)
        (leaves, output), (moved, output_tangents), rest = result
        return TangentStep(_join(state, leaves, rest), output, moved, output_tangents)

    def _first(self, primal: Callable[..., Any], points: Any, seeds: Any) -> tuple[Way, Any]:
        """The first way that works, and its result."""
        reasons: list[str] = []
        for way in WAYS:
            try:
                return way, way.run(primal, points, seeds)
            except TqsError:
                raise
            except UNSUPPORTED as error:
                reasons.append(str(error).strip().split("\n")[0])
        raise ArgumentError(
            f"[tangents] {self._system.name}: torch cannot differentiate a step in forward mode: {reasons[-1]}; write "
            "the operation it names out of elementary ones (or give its autograd.Function a `jvp` rule)"
        )


@dataclass(frozen=True)
class Way:
    """One way to run jvp for all tangents: together or one by one, on the kernels torch chooses or elementary ones."""

    name: str
    together: bool
    elementary: bool

    def run(self, primal: Callable[..., Any], points: Any, seeds: Any) -> Any:
        """`(values, tangents with K leading, auxiliary)` of `primal` at `points`."""

        def push(tangents: Any) -> Any:
            return jvp(primal, points, tangents, has_aux=True)

        with elementary_kernels() if self.elementary else nullcontext():
            if self.together:
                # the trajectory and what has no tangent are the same for all, so they stay without a K
                return vmap(push, out_dims=(None, 0, None))(seeds)  # type: ignore[arg-type]
            results = [push(_pick(seeds, k)) for k in range(len(tree_leaves(seeds)[0]))]
        values, _, rest = results[0]
        moved = [tree_leaves(tangents) for _, tangents, _ in results]
        stacked = iter([torch.stack(column) for column in zip(*moved, strict=True)])
        return values, tree_map(lambda _: next(stacked), results[0][1]), rest


WAYS = (
    Way("vmap(jvp)", together=True, elementary=False),
    Way("vmap(jvp), elementary kernels", together=True, elementary=True),
    Way("jvp one by one", together=False, elementary=False),
    Way("jvp one by one, elementary kernels", together=False, elementary=True),
)


def _pick(seeds: Tree, k: int) -> Tree:
    return tree_map(lambda leaf: leaf[k], seeds)


@contextmanager
def elementary_kernels() -> Iterator[None]:
    """Attention, LSTMs and encoder layers out of elementary operations, which have forward-mode rules.

    These switches of torch are global: another thread's modules meanwhile run on the same (slower) kernels.
    """
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    # by attribute: mkldnn.flags() also sets the tf32 switch, which warns on a build without Intel GPUs
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mkldnn.enabled = onednn
        torch.backends.mha.set_fastpath_enabled(fast_path)


def floating(tree: Tree) -> Leaves:
    """The floating leaves, in tree order."""
    return tuple(leaf for leaf in tree_leaves(tree) if leaf.is_floating_point())


def replace_floating(tree: Tree, leaves: Sequence[torch.Tensor]) -> Tree:
    """`tree` with its floating leaves replaced, in tree order."""
    given = iter(leaves)
    return tree_map(lambda leaf: next(given) if leaf.is_floating_point() else leaf, tree)


def _join(template: Tree, leaves: Leaves, rest: Leaves) -> Tree:
    """A tree like `template` with these floating leaves and these others."""
    given, others = iter(leaves), iter(rest)
    return tree_map(lambda leaf: next(given) if leaf.is_floating_point() else next(others), template)
