"""Rolling the float model forward until its states lie on its own attractor, and refusing those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tqs_fast.errors import DivergenceError
from tqs_fast.systems.system import Forecaster, System, iterate
from tqs_fast.systems.tree import Tree, tree_leaves

MIN_STEPS = 64
# Outputs that move by less than this fraction of the range seen during the whole spin-up count as constant. A fixed
# point approached geometrically passes any threshold in the end; a limit cycle or chaos stays within a few tens of
# per cent of the range, far above it.
CONSTANT = 1e-2


def default_spin_up(system: System) -> int:
    """Steps after which a forecaster's window holds nothing but its own forecasts, and at least 64."""
    context = system.context_length if isinstance(system, Forecaster) else 0
    return max(MIN_STEPS, system.steps(context))


def spin_up(
    system: System, state: Tree, inputs: Tree | None, steps: int, *, spares: int = 0
) -> tuple[Tree, torch.Tensor]:
    """Roll `steps` steps; return the state `[N, ...]` reached, and which initial conditions `[N]` still move.

    Runs on one thread, so that the states do not depend on how a library splits its sums over threads.

    Args:
        state: tree of `[N, ...]`.
        inputs: tree of `[N, >= steps, ...]` for a driven system, else None.
        spares: initial conditions that may come to rest without an error.

    Raises:
        DivergenceError: NaN or infinity; or outputs that no longer vary in the last quarter of the spin-up. A
            free-running system must vary in all initial conditions but `spares`: at a fixed point all errors decay and
            a score says nothing. A driven one may rest while its input does; it is refused if nothing varies anywhere.
    """
    watched = max(2, steps // 4)
    overall: tuple[torch.Tensor, torch.Tensor] | None = None
    recent: tuple[torch.Tensor, torch.Tensor] | None = None
    with _one_thread():
        for t, (moved, output) in enumerate(iterate(system, state, inputs, steps)):
            state = moved
            _require_finite(system, output, t, steps)
            # [N, C] extremes over the values of this step
            extremes = (output.amin(dim=1), output.amax(dim=1))
            overall = extremes if overall is None else _widen(overall, extremes)
            if t >= steps - watched:
                recent = extremes if recent is None else _widen(recent, extremes)
    if isinstance(system, Forecaster) and system.growing:
        state = state[:, -system.context_length :]  # a rollout begins with a context of the usual length
    if overall is None or recent is None or watched > steps:
        return state, torch.ones(tree_leaves(state)[0].shape[0], dtype=torch.bool)
    ensemble = (overall[1].amax(dim=0) - overall[0].amin(dim=0)).double()
    # [N] largest share, over the channels, of the ensemble's range that an initial condition still covers
    share = ((recent[1] - recent[0]).double() / ensemble.clamp_min(torch.finfo(torch.float64).tiny)).amax(dim=1)
    constant = share < CONSTANT
    if bool(constant.all()) or (system.inputs is None and int(constant.sum()) > spares):
        raise DivergenceError(
            f"[spin_up] {system.name}: {_which(constant)} died to a constant: the outputs moved by less than "
            f"{CONSTANT:g} of their range over the last {watched} of {steps} spin-up steps, so that there is no "
            f"dynamics to score; {_advice(system)}"
        )
    return state, (~constant).cpu()


def _require_finite(system: System, output: torch.Tensor, t: int, steps: int) -> None:
    bad = ~torch.isfinite(output).flatten(1).all(dim=1)
    if bool(bad.any()):
        raise DivergenceError(
            f"[spin_up] {system.name}: {_which(bad)} diverged: the float model gave NaN or infinity at step {t} of "
            f"{steps}; {_advice(system)}"
        )


def _advice(system: System) -> str:
    synthetic = isinstance(system, Forecaster) or system.inputs is not None
    others = "Contexts or Synthetic initial conditions" if synthetic else "Contexts (states of your own)"
    return f"use {others}, or another spin_up"


def _which(chosen: torch.Tensor) -> str:
    indices = chosen.nonzero().flatten().tolist()
    shown = ", ".join(str(index) for index in indices[:8]) + (", ..." if len(indices) > 8 else "")
    return f"{len(indices)} of {chosen.numel()} initial conditions (number {shown})"


def _widen(
    known: tuple[torch.Tensor, torch.Tensor], new: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.minimum(known[0], new[0]), torch.maximum(known[1], new[1])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
