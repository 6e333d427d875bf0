"""The transposed step: cotangents of the state after a step as a system of their own, whose steps walk backwards.

    λ_t = J_tᵀ λ_{t+1},    J_t the Jacobian of the step at x_t

is a driven linear system with state λ and the states x_t, last one first, as inputs. Its step is torch.func.vjp of the
original one. torch.export cannot look into that, but make_fx can: it writes out primal and pullback as one flat graph,
which then is captured like any other step. Nothing else has to know about derivatives: the transposed rules are the
backward formulas of torch, decomposed into ops that programs have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from tqs_fast.capture.export import explain, tracing
from tqs_fast.errors import CaptureError
from tqs_fast.systems.system import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

aten = torch.ops.aten


def _convolution_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    is_transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor, None, None]:
    """That of x: the gradient, spread out by the stride, convolved with the mirrored weight."""
    if is_transposed:
        raise NotImplementedError("the derivative of a transposed convolution is not written out")
    margins: list[int] = []
    for axis in range(2, x.dim()):
        step, before = stride[axis - 2], padding[axis - 2]
        reach = dilation[axis - 2] * (weight.shape[axis] - 1)
        spread = (gradient.shape[axis] - 1) * step + 1
        if step > 1:
            sizes = [*gradient.shape[:axis], spread, *gradient.shape[axis + 1 :]]
            gradient = aten.slice_scatter(gradient.new_zeros(sizes), gradient, axis, 0, spread, step)
        margins = [reach - before, x.shape[axis] + before - spread, *margins]
    # [O, C / groups, taps...] -> [C, O / groups, taps...], mirrored
    by_group = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    mirrored = by_group.reshape(-1, *by_group.shape[2:]).flip(list(range(2, x.dim())))
    gradient = torch.nn.functional.pad(gradient, margins)
    ones = [1] * len(stride)
    pulled = aten.convolution(gradient, mirrored, None, ones, [0] * len(stride), dilation, False, [0], groups)
    return pulled, None, None


# What torch keeps whole, or leaves to its backends, and programs do not have.
WRITTEN_OUT = {
    **get_decompositions(
        [
            aten.native_group_norm,
            aten.native_group_norm_backward,
            aten.native_layer_norm,
            aten.native_layer_norm_backward,
            aten.silu_backward,
        ]
    ),
    aten.convolution_backward.default: _convolution_backward,
}


@contextmanager
def _written_out() -> Iterator[None]:
    """Recurrent layers and attention as the operations that they consist of."""
    with tracing(), sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        yield


def transposed(system: System) -> System:
    """The system of cotangents of `system`'s state.

    Its state is a tree like that of `system`, its inputs are pairs (state, input) or, where `system` is free-running,
    (state,): what the original step was given. Its output is the first leaf of the state, flattened.

    Raises:
        CaptureError: the state has integers, or torch cannot write the derivative of the step out.
    """
    generator = torch.Generator().manual_seed(0)
    state = system.initial_state(1, generator)
    if not all(leaf.is_floating_point() for leaf in tree_leaves(state)):
        raise CaptureError(f'[capture] {system.name} has integers in its state; use engine="torch"')

    def pull(cotangents: Tree, given: tuple[Tree, ...]) -> Tree:
        def primal(before: Tree) -> Tree:
            after, _ = system.step(system.module, before, *given[1:])
            return tree_like(before, after)

        return torch.func.vjp(primal, given[0])[1](cotangents)[0]

    def inputs(count: int, steps: int, generator: torch.Generator) -> Tree:
        states = [system.initial_state(count, generator) for _ in range(steps)]
        columns = iter([torch.stack(leaves, dim=1) for leaves in zip(*map(tree_leaves, states), strict=True)])
        series = (tree_map(lambda _: next(columns), states[0]),)
        return series if system.inputs is None else (*series, system.inputs(count, steps, generator))

    example = tree_map(lambda leaf: leaf[:, 0], inputs(1, 1, generator))
    try:
        with _written_out():
            graph = make_fx(torch.func.functionalize(pull), decomposition_table=WRITTEN_OUT)(state, example)  # type: ignore[arg-type]
    except Exception as error:  # torch raises many kinds
        raise CaptureError(f"[capture] {system.name}, transposed: {explain(error, system.module)}") from error

    def step(module: torch.nn.Module, cotangents: Tree, given: tuple[Tree, ...]) -> tuple[Tree, torch.Tensor]:
        pulled: Any = (graph if torch.compiler.is_exporting() else pull)(cotangents, given)
        return pulled, tree_leaves(pulled)[0].flatten(1)

    def cotangents(count: int, generator: torch.Generator) -> Tree:
        return tree_map(
            lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype),
            system.initial_state(count, generator),
        )

    name = f"{system.name}, transposed"
    return System(system.module, step=step, initial_state=cotangents, inputs=inputs, name=name)
