"""Steps that draw random numbers, where every call must compute the same: errors and derivatives compare calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems import System


@contextmanager
def drawing_nothing(system: System, consequence: str) -> Iterator[None]:
    """Around steps of `system`.

    Raises:
        ArgumentError: they moved one of torch's default generators; says the `consequence`.
    """
    before = _generators()
    yield
    if before != _generators():
        raise ArgumentError(
            f"[rollout] a step of {system.name} draws random numbers, {consequence}; leave dropout to eval mode "
            "(F.dropout needs training=self.training), or hand noise to the step as `inputs`"
        )


def _generators() -> list[bytes]:
    """The states of torch's default generators: of the processor, and of GPUs that are in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return [state.numpy().tobytes() for state in states]
