"""Plain rollouts of modules that take each other's place, all by one engine: what is compared is rounded alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from tqs_fast.engines.native_call import split_engine
from tqs_fast.engines.prepared import prepared
from tqs_fast.engines.reference import roll_outputs
from tqs_fast.engines.rollout import ENGINES
from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.quantization.held import Swappable
from tqs_fast.systems import States, System
from tqs_fast.systems.tree import tree_leaves


def roll_modules(
    system: System, modules: Sequence[torch.nn.Module], states: States, horizon: int, *, engine: str, function: str
) -> tuple[list[torch.Tensor], dict[str, str]]:
    """Outputs `[T, N, C]` of the step with each of `modules`, and which engine ran them, and why.

    Args:
        system: its step is taken with each module in place of its own.
        modules: in evaluation mode.
        engine: "native", also on a device ("native:cuda"); "torch"; or "auto", "native" where the step can be captured
            with every one of them.
        function: named in messages.

    Raises:
        ArgumentError: no engine has that name, or horizon < 1.
        CaptureError: the native engine was asked for and cannot run the step.
    """
    engine, device = split_engine(engine, function)
    if engine not in ENGINES:
        raise ArgumentError(f"[{function}] expected engine to be one of {', '.join(ENGINES)}, got {engine!r}")
    if horizon < 1:
        raise ArgumentError(f"[{function}] horizon must be at least 1 value, got {horizon}")
    reason = "asked for"
    if isinstance(system.module, Swappable):
        if engine == "native":
            outputs = [_roll_native(_holding(system, module), states, horizon, device) for module in modules]
            return outputs, {"name": "native", "reason": reason}
        outputs = [roll_outputs(system, states, horizon, module=module) for module in modules]
        return outputs, {"name": "swapped", "reason": "the module computes outside torch"}
    if engine != "torch":
        try:
            outputs = [_roll_native(_holding(system, module), states, horizon, device) for module in modules]
            return outputs, {"name": "native", "reason": reason if engine == "native" else "the step was captured"}
        except CaptureError as error:
            if engine == "native":
                raise
            reason = f"the native engine cannot run it: {error}"
    outputs = [roll_outputs(system, states, horizon, module=module) for module in modules]
    return outputs, {"name": "torch", "reason": reason}


def _holding(system: System, module: torch.nn.Module) -> System:
    """`system` with another module."""
    if module is system.module:
        return system
    other = copy.copy(system)
    other.module = module
    return other


def _roll_native(system: System, states: States, horizon: int, device: torch.device | None) -> torch.Tensor:
    native = prepared(system, states.state, horizon=horizon, device=device)
    inputs = [] if states.inputs is None else tree_leaves(states.inputs)
    outputs, _ = native.ensemble(tree_leaves(states.state), inputs, steps=system.steps(horizon), values=horizon)
    return outputs[0]
