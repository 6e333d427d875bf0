"""Cotangents of the outputs pulled back through a rollout to the weights: Gᵀv with G = ∂(all outputs)/∂(all weights).

Backwards in time, one step at a time: a step is computed again from its stored state, with gradients, so that only the
states and one step's activations are ever held. A weight is the same at every step, so what the steps contribute adds
up in one accumulator per weight and cotangent. Layers share everything: their number does not enter the cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.func import vmap

from tqs_fast._finite import all_finite
from tqs_fast.engines.torch_ways import UNSUPPORTED, WAYS, Way, first_way
from tqs_fast.errors import ArgumentError, DivergenceError
from tqs_fast.systems import System
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

Cotangents = Callable[[int], torch.Tensor]

# All K cotangents in one batched call save K - 1 calls of every operation, but hold each step's gradients of all of
# them at once, and work on larger tensors. Forward rollouts for four in turn and for four together, by what a step
# saves for its backward pass, one thread of a Zen 4 core: 16.7 and 12.1 at 0.2 MB (lorenz-gru), 8.0 and 5.6 at 0.8
# (silero-vad), 15.0 and 9.9 at 6 (a transformer of 32 layers), 8.9 and 22.6 at 800 (fracast). Weights are among what
# is saved, so that gradients held this way are as small.
TOGETHER = 2**24  # bytes
FEW = 2  # one is a size that steps may squeeze away

IN_TURN = tuple(way for way in WAYS if not way.together)


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of the rollout, and what arrives behind it.

    Attributes:
        state: before the step.
        step_input: of a driven system.
        output: cotangents of its output, `[K, N, block, C]`.
        after: cotangents `[K, N, ...]` of the state after it, by index of the leaf; empty after the last step.
        first: whether nothing lies before it, so that no cotangent of its state is asked for.
    """

    state: Tree
    step_input: Tree | None
    output: torch.Tensor
    after: dict[int, torch.Tensor]
    first: bool


class WeightAdjoints:
    """Pulls cotangents back to the weights of a copy of the module; the system's own is not touched.

    Args:
        system: whose steps are differentiated.
        names: of the W weights, as in `named_parameters()`.
        together: whether a small network's gradients of all cotangents may be held at once beside their sums.

    Raises:
        ArgumentError: the module cannot be copied.
    """

    def __init__(self, system: System, names: Sequence[str], *, together: bool = True) -> None:
        try:
            self._module = copy.deepcopy(system.module).requires_grad_(False)
        except (RuntimeError, TypeError) as error:  # what pickling raises for a handle to something outside Python
            raise ArgumentError(
                f"[Adjoint] {system.name}: the module cannot be copied ({error}); use Residual or Noise"
            ) from error
        known = dict(self._module.named_parameters())
        self._system = system
        self._together = together
        self._names = tuple(names)
        self._weights = [known[name].requires_grad_() for name in names]
        for weight in self._weights:
            weight.grad = None
        self._way: Way | None = None
        self._sums: list[torch.Tensor] = []
        self._reached: set[int] = set()

    @property
    def how(self) -> str:
        """How cotangents are computed; empty before the first step."""
        return "" if self._way is None else f"torch.autograd, {self._way}"

    @property
    def bytes_per_cotangent(self) -> int:
        """Of the accumulators of one cotangent."""
        return sum(w.numel() * _accumulator(w.dtype).itemsize for w in self._weights)

    def pull(
        self, states: Sequence[Tree], inputs: Tree | None, cotangents: Cotangents, *, count: int
    ) -> list[torch.Tensor]:
        """Gᵀv for `count` = K cotangents v.

        Args:
            states: before each of the steps, trees of `[N, ...]`.
            inputs: tree of `[N, >= steps, ...]` for a driven system, else None.
            cotangents: step -> those of its output, `[K, N, block, C]`.

        Returns:
            Per weight `[K, *shape]`, in float32, or float64 where the weight is.

        Raises:
            ArgumentError: torch cannot differentiate the step, or no gradient reaches a weight.
            DivergenceError: a gradient is NaN or infinite.
        """
        self._sums = [w.new_zeros((count, *w.shape), dtype=_accumulator(w.dtype)) for w in self._weights]
        self._reached = set()
        after: dict[int, torch.Tensor] = {}
        for t in reversed(range(len(states))):
            after = self._step(_Step(states[t], input_at(inputs, t), cotangents(t), after, first=t == 0))
            if not all_finite(after.values()):
                raise self._not_finite(f"of the state before step {t}")
        sums, self._sums = self._sums, []
        for index, (name, total) in enumerate(zip(self._names, sums, strict=True)):
            if not all_finite([total]):
                raise self._not_finite(f"of {name}")
            if index not in self._reached or not bool(total.any()):
                raise ArgumentError(
                    f"[Adjoint] no gradient of the outputs of {self._system.name} reaches {name}: its step detaches, "
                    "rounds or compares what depends on it, or uses a module other than the one it is given; use "
                    "Residual or Noise, which need no gradient, or leave it out with layers=[...]"
                )
        return sums

    def _step(self, step: _Step) -> dict[int, torch.Tensor]:
        def run(way: Way) -> dict[int, torch.Tensor]:
            return self._pull_step(step, way.together)

        def afresh(way: Way) -> dict[int, torch.Tensor]:
            for total in self._sums:  # a way that failed half-way may have left the gradients of the last layers
                total.zero_()
            return run(way)

        if self._way is None:
            ways = WAYS if self._together and self._saved_bytes(step) <= TOGETHER else IN_TURN
            self._way, pulled = first_way(self._system.name, "Adjoint", afresh, ways=ways)
            return pulled
        try:
            return self._way.run(run)
        except UNSUPPORTED:  # control flow that depends on values: another operation than in the steps before
            if not self._way.together:
                raise
        in_turn = Way(together=False, elementary=self._way.elementary)
        self._way, pulled = first_way(self._system.name, "Adjoint", run, ways=[in_turn])
        return pulled

    def _saved_bytes(self, step: _Step) -> int:
        """About what a step keeps for its backward pass, each tensor once, from `FEW` initial conditions.

        For all of them it would cost another step, and what is too large is not to be made for counting it.
        """
        count = len(step.output[0])
        weights = {weight.data_ptr() for weight in self._module.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        few = replace(
            step,
            state=tree_map(lambda leaf: leaf[:FEW], step.state),
            step_input=None if step.step_input is None else tree_map(lambda leaf: leaf[:FEW], step.step_input),
        )
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kept = self._forward(few)
        del kept
        return sum(size if pointer in weights else size * count // min(FEW, count) for pointer, size in sizes.items())

    def _forward(self, step: _Step) -> tuple[dict[int, torch.Tensor], Tree, torch.Tensor]:
        """The step again, with gradients: leaves of its state by index, the state after it, its output."""
        leaves = tree_leaves(step.state)
        wanted = step.after or {index: leaf for index, leaf in enumerate(leaves) if leaf.is_floating_point()}
        before = {} if step.first else {index: leaves[index].detach().requires_grad_() for index in wanted}
        given = iter([before.get(index, leaf) for index, leaf in enumerate(leaves)])
        state = tree_map(lambda _: next(given), step.state)
        arguments = () if step.step_input is None else (step.step_input,)
        with torch.enable_grad():
            returned, output = self._system.step(self._module, state, *arguments)
        return before, tree_like(step.state, returned), output

    def _pull_step(self, step: _Step, together: bool) -> dict[int, torch.Tensor]:
        """Add the step's part to the sums; cotangents of the state before it, by index of the leaf."""
        before, after, output = self._forward(step)
        moving = {
            index: leaf
            for index, leaf in enumerate(tree_leaves(after))
            if leaf.is_floating_point() and leaf.requires_grad
        }
        if step.after and not moving.keys() <= step.after.keys():
            raise ArgumentError(
                f"[Adjoint] {self._system.name}: which leaves of the state depend on the weights changes from step to "
                "step; use Residual or Noise, which need no gradient"
            )
        if not step.after:
            # What the weights cannot move (inputs that are remembered, say) needs no cotangent in any earlier step.
            before = {index: leaf for index, leaf in before.items() if index in moving}
        ends = [(leaf, step.after[index]) for index, leaf in moving.items() if index in step.after]
        if output.requires_grad:
            ends.append((output, step.output.reshape(-1, *output.shape).to(output)))
        if not ends:
            return {}
        pull = self._pull_together if together else self._pull_in_turn
        return pull([end for end, _ in ends], [cotangent for _, cotangent in ends], before)

    def _pull_together(
        self, ends: list[torch.Tensor], cotangents: list[torch.Tensor], before: dict[int, torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        inputs = [*self._weights, *before.values()]
        arrived: list[int] = []

        def one(cotangent: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            gradients = torch.autograd.grad(ends, inputs, cotangent, retain_graph=True, allow_unused=True)
            arrived[:] = [number for number, gradient in enumerate(gradients) if gradient is not None]
            return tuple(gradient for gradient in gradients if gradient is not None)

        # not is_grads_batched=True, whose rules are older: it took 9.8 forward rollouts for lorenz-gru in place of 8.3
        gradients = vmap(one)(tuple(cotangents))
        found = dict(zip(arrived, gradients, strict=True))
        count, weights = len(cotangents[0]), len(self._weights)
        for number in arrived:
            if number < weights:
                self._sums[number] += found[number]
                self._reached.add(number)
        return {
            index: found[number] if number in found else leaf.new_zeros(count, *leaf.shape)
            for number, (index, leaf) in enumerate(before.items(), start=weights)
        }

    def _pull_in_turn(
        self, ends: list[torch.Tensor], cotangents: list[torch.Tensor], before: dict[int, torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """One cotangent after the other; the gradient of a weight is added to its sum, and freed, as it arrives."""
        count = len(cotangents[0])
        pulled = {index: leaf.new_zeros(count, *leaf.shape) for index, leaf in before.items()}
        for k in range(count):

            def add(weight: torch.Tensor, index: int, k: int = k) -> None:
                assert weight.grad is not None
                self._sums[index][k] += weight.grad
                self._reached.add(index)
                weight.grad = None

            hooks = [
                weight.register_post_accumulate_grad_hook(partial(add, index=index))  # type: ignore[no-untyped-call]
                for index, weight in enumerate(self._weights)
            ]
            try:
                torch.autograd.backward(
                    ends,
                    [cotangent[k] for cotangent in cotangents],
                    retain_graph=k < count - 1,
                    inputs=[*self._weights, *before.values()],
                )
            finally:
                for hook in hooks:
                    hook.remove()
            for index, leaf in before.items():
                if leaf.grad is not None:
                    pulled[index][k] = leaf.grad
                    leaf.grad = None
        return pulled

    def _not_finite(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"[Adjoint] {self._system.name}: the gradient {what} is not finite: the step is not differentiable at a "
            "state (a square root of 0, say) or errors outgrow the number format; shorten the horizon, start "
            "elsewhere, score tqs.in_float64(system), or use Residual or Noise, which need no gradient"
        )


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Sums over the steps of a rollout are not kept in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32
