"""Systems: a trained network seen as a discrete-time dynamical system, z_{t+1}, y_t = step(z_t)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.tree import Tree, tree_leaves, tree_like, tree_map

Step = Callable[..., tuple[Tree, torch.Tensor]]
InitialState = Callable[[int, torch.Generator], Tree]
Inputs = Callable[[int, int, torch.Generator], Tree]
Predict = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


class System:
    """The general case: any network and any state.

    Args:
        module: the trained network; it is put in eval mode and never modified.
        step: `step(module, state) -> (state, output)`, or `step(module, state, input)` for a driven system.
            Every leaf of the state is `[N, ...]`; output is `[N, C]`, or `[N, block, C]` when a step emits a block.
            It uses only the module it is given (a quantized copy is rolled out through the same function), returns
            new tensors (many rollouts begin at one state) and draws no random numbers: noise comes as `inputs`.
        initial_state: `initial_state(count, generator) -> state`, random starting states.
        inputs: None for a free-running system, else `inputs(count, steps, generator)` -> tree of `[N, steps, ...]`,
            of which each step sees the slice at its own time.
        block: values per step.
        default_initial: where rollouts start unless the caller says: "attractor", or "synthetic" for a system without
            a stable attractor.
        name: shown in tables; defaults to the class name of the module.

    Attributes:
        growing: whether every leaf of the state gains `block` positions along its second dimension at every step.

    Raises:
        ArgumentError: module is not a torch module, a callable is missing, or block < 1.
    """

    growing = False

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        step: Step,
        initial_state: InitialState,
        inputs: Inputs | None = None,
        block: int = 1,
        default_initial: str = "attractor",
        name: str | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise ArgumentError(f"[System] module must be a torch.nn.Module, got {type(module).__name__}")
        if not callable(step) or not callable(initial_state):
            raise ArgumentError("[System] step and initial_state must be functions")
        if block < 1:
            raise ArgumentError(f"[System] block must be at least 1, got {block}")
        self.module = module.eval()
        self.step = step
        self.initial_state = initial_state
        self.inputs = inputs
        self.block = block
        self.default_initial = default_initial
        self.name = name or type(module).__name__
        self._drawn: dict[int, tuple[object, Tree]] = {}

    @property
    def state_template(self) -> Tree:
        """A state `[1, ...]`, with the structure, sizes and dtypes of every other. Drawn once."""
        return self._template(self.initial_state, lambda generator: self.initial_state(1, generator))

    @property
    def input_template(self) -> Tree | None:
        """An input `[1, 1, ...]`, likewise; None for a free-running system."""
        inputs = self.inputs
        return None if inputs is None else self._template(inputs, lambda generator: inputs(1, 1, generator))

    def _template(self, source: object, draw: Callable[[torch.Generator], Tree]) -> Tree:
        # by function: a copy of the system in another precision has functions of its own
        if id(source) not in self._drawn or self._drawn[id(source)][0] is not source:
            self._drawn[id(source)] = (source, draw(torch.Generator().manual_seed(0)))
        return self._drawn[id(source)][1]

    def steps(self, horizon: int) -> int:
        """Calls of `step` that cover `horizon` output values."""
        return -(-horizon // self.block)


class Recurrent(System):
    """Explicit state carried from step to step; free-running, or driven by `inputs` (see `System`)."""


class Forecaster(System):
    """A window of past values: the network's forecast is fed back.

    Args:
        module: maps a window `[N, context, C]` to `[N, C]` or `[N, block, C]`.
        context_length: values in the window, or that a growing one begins with.
        channels: C.
        predict: `predict(module, window)` where the module's own call does not have that form.
        block: values emitted per step, at most `context_length`.
        growing: False for a sliding window, the last `context_length` values; True for a context that grows by every
            forecast. The native engine keeps the keys and values of a growing context where the network is causal; in a
            sliding window every position moves, and what was computed for it no longer holds.
        initial_state: random windows `[N, context, C]`; by default standard normal, in the dtype of the parameters.
        default_initial, name: as in `System`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        context_length: int,
        *,
        channels: int = 1,
        predict: Predict | None = None,
        block: int = 1,
        growing: bool = False,
        initial_state: InitialState | None = None,
        default_initial: str = "attractor",
        name: str | None = None,
    ) -> None:
        if not 1 <= block <= context_length:
            raise ArgumentError(
                f"[Forecaster] block must lie between 1 and context_length ({context_length}), got {block}"
            )
        self.context_length = context_length
        self.channels = channels
        self.predict = predict
        self.growing = growing

        def step(module: torch.nn.Module, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output: torch.Tensor = module(window) if predict is None else predict(module, window)
            if output.dim() == 2:
                output = output.unsqueeze(1)
            if output.shape != (window.shape[0], block, channels):
                raise ArgumentError(
                    f"[Forecaster] expected a forecast of shape {[window.shape[0], block, channels]} "
                    f"for a window {list(window.shape)}, got {list(output.shape)}; check block and channels"
                )
            kept = window if growing else window[:, block:]
            return torch.cat([kept, output.to(window.dtype)], dim=1), output

        def random_windows(count: int, generator: torch.Generator) -> torch.Tensor:
            windows = torch.randn(count, context_length, channels, generator=generator)
            floating = (p.dtype for p in self.module.parameters() if p.is_floating_point())
            return windows.to(next(floating, windows.dtype))

        super().__init__(
            module,
            step=step,
            initial_state=initial_state or random_windows,
            block=block,
            default_initial=default_initial,
            name=name,
        )


def advance(
    system: System, state: Tree, step_input: Tree | None, *, module: torch.nn.Module | None = None
) -> tuple[Tree, torch.Tensor]:
    """One step without gradients: `(state, output [N, block, C])`, checked.

    Args:
        state: tree of `[N, ...]`.
        step_input: tree of `[N, ...]` for a driven system, else None.
        module: stepped in place of `system.module` (a quantized copy, say).

    Raises:
        ArgumentError: the step changes the shapes or dtypes of its state, or its output is not [N, C] or [N, block, C];
            or it writes into the state or the input that it was given.
    """
    arguments = () if step_input is None else (step_input,)
    before = tree_leaves(state)
    given = [leaf for leaf in (*before, *tree_leaves(arguments)) if not leaf.is_inference()]  # those count no writes
    writes = [leaf._version for leaf in given]
    with torch.no_grad():
        returned, output = system.step(system.module if module is None else module, state, *arguments)
    if writes != [leaf._version for leaf in given]:
        raise ArgumentError(
            f"[advance] {system.name}: the step writes into the state or the input it was given, from which other "
            "rollouts begin, too; make new tensors (z = z + dz in place of z += dz, torch.cat or clone for a cache)"
        )
    try:
        state = tree_like(state, returned)
    except ValueError:
        state = returned  # of another structure: refused below
    after = tree_leaves(state)
    gained = system.block if system.growing else 0
    expected = [(_lengthened(leaf.shape, gained), leaf.dtype) for leaf in before]
    if expected != [(leaf.shape, leaf.dtype) for leaf in after]:
        raise ArgumentError(
            f"[advance] {system.name}: a step must return a state of the shapes and dtypes it was given: "
            f"expected {_describe(before)}, got {_describe(after)}"
        )
    if output.dim() == 2:
        output = output.unsqueeze(1)
    count = before[0].shape[0]
    if output.dim() != 3 or output.shape[:2] != (count, system.block):
        raise ArgumentError(
            f"[advance] {system.name}: expected an output of shape [{count}, C] or [{count}, {system.block}, C], "
            f"got {list(output.shape)}; check block"
        )
    return state, output


def input_at(inputs: Tree | None, t: int) -> Tree | None:
    """The slice of step `t` of inputs `[N, T, ...]`; None for a free-running system."""
    return None if inputs is None else tree_map(lambda leaf: leaf[:, t], inputs)


def iterate(
    system: System, state: Tree, inputs: Tree | None, steps: int, *, module: torch.nn.Module | None = None
) -> Iterator[tuple[Tree, torch.Tensor]]:
    """Roll `steps` steps without gradients, yielding `(state, output [N, block, C])` after each.

    Args:
        state: tree of `[N, ...]`.
        inputs: tree of `[N, >= steps, ...]` for a driven system, else None.
        module: rolled out in place of `system.module`.

    Raises:
        ArgumentError: as `advance`.
    """
    for t in range(steps):
        state, output = advance(system, state, input_at(inputs, t), module=module)
        yield state, output


def _lengthened(shape: torch.Size, positions: int) -> torch.Size:
    return torch.Size((shape[0], shape[1] + positions, *shape[2:])) if positions else shape


def _describe(leaves: list[torch.Tensor]) -> str:
    return ", ".join(f"{list(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)
