"""The transposed step: cotangents of the state after a step as a system of their own, whose steps walk backwards.

    λ_t = J_tᵀ λ_{t+1},    J_t the Jacobian of the step at x_t

is a driven linear system with state λ and the states x_t, last one first, as inputs. Its step is torch.func.vjp of the
original one. torch.export cannot look into that, but make_fx can: it writes out primal and pullback as one flat graph,
which then is captured like any other step. Nothing else has to know about derivatives: the transposed rules are the
backward formulas of torch, decomposed into ops that programs have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

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
    """That of x: the transposed convolution of the gradient."""
    spatial = x.dim() - 2
    left = [
        x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (taps - 1) + 1)
        for i, taps in enumerate(weight.shape[2:])
    ]
    rest = [0] * spatial if is_transposed else left
    pulled = aten.convolution(gradient, weight, None, stride, padding, dilation, not is_transposed, rest, groups)
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


class _MarginsJoined(TorchFunctionMode):
    """Meanwhile circular and replicated margins are concatenated, which has a derivative in operations of programs."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_pad if func is F.pad else func)(*args, **(kwargs or {}))


def _pad(input: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> torch.Tensor:
    if mode not in ("circular", "replicate") or min(pad) < 0:
        return F.pad(input, pad, mode, value)
    for i in range(len(pad) // 2):
        axis, (before, after) = input.dim() - 1 - i, pad[2 * i : 2 * i + 2]
        end = input.shape[axis]
        if mode == "circular":
            pieces = [input.narrow(axis, end - before, before), input, input.narrow(axis, 0, after)]
        else:
            pieces = [input.narrow(axis, 0, 1)] * before + [input] + [input.narrow(axis, end - 1, 1)] * after
        input = torch.cat([piece for piece in pieces if piece.numel()], axis)
    return input


@contextmanager
def _written_out() -> Iterator[None]:
    """Recurrent layers, attention and margins as the operations that they consist of."""
    with tracing(), _MarginsJoined(), sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
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
