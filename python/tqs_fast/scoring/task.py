"""What is to be scored, from where and for how long: the same for every method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import Block, split
from tqs_fast.quantization.ties import Tie, tied_groups
from tqs_fast.quantization.weights import Weight, find_weights, parameter_of
from tqs_fast.systems import InitialConditions, States, System, default_initial, draw


@dataclass(frozen=True, eq=False)
class Task:
    """One scoring run.

    Attributes:
        system: what is rolled out; its module is never modified.
        states: N initial conditions in F families, with the inputs of a driven system.
        horizon: output values per rollout, T.
        weights: the W scored weights, in `named_parameters()` order; a tied weight is there once.
        parameters: their W tensors.
        blocks: the L layers of the table: row blocks of the weights, or the whole weights.
        weight_of: index into `weights` of each block, L of them.
        groups: indices of the blocks that one probe moves together; every block is in one group.
        seed: of everything random.
        engine: what the caller asked for: "auto", "native", "torch" or "serial".
        memory_limit: bytes that the work held at one time may take; None: the method's own choice.
    """

    system: System
    states: States
    horizon: int
    weights: tuple[Weight, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    blocks: tuple[Block, ...]
    weight_of: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    seed: int
    engine: str
    memory_limit: int | None

    def rows(self, block: int) -> torch.Tensor:
        """The tensor of layer `block`: the rows of its weight, detached, a view."""
        return self.blocks[block].of(self.parameters[self.weight_of[block]].detach())

    def description(self) -> dict[str, Any]:
        """The arguments as JSON, for the fingerprint of the run."""
        module = type(self.system.module).__qualname__
        return {
            "system": {"name": self.system.name, "module": module, "block": self.system.block},
            "horizon": self.horizon,
            "seed": self.seed,
            "layers": [block.name for block in self.blocks],
            **({"tie": self.tie} if self.tie else {}),
        }

    @property
    def tie(self) -> list[list[str]]:
        """Names of the blocks of each group of more than one."""
        return [[self.blocks[block].name for block in group] for group in self.groups if len(group) > 1]


def prepare(
    system: System,
    *,
    horizon: int,
    initial: InitialConditions | Sequence[InitialConditions] | None,
    engine: str,
    layers: str | Iterable[str] | None,
    row_blocks: int,
    tie: Tie | None,
    seed: int,
    memory_limit: int | None,
) -> Task:
    """The task that the arguments of `score` ask for; raises as `score` does."""
    if memory_limit is not None and memory_limit <= 0:
        raise ArgumentError(f"[score] memory_limit must be a positive number of bytes, got {memory_limit}")
    weights = find_weights(system.module, layers)
    owned = [(index, block) for index, weight in enumerate(weights) for block in split(weight, row_blocks)]
    tied = {index: group for group in tied_groups([b.name for _, b in owned], tie, "score") for index in group}
    groups = tuple(dict.fromkeys(tied.get(index, (index,)) for index in range(len(owned))))
    if any(len({owned[index][0] for index in group}) < len(group) for group in groups):
        raise ArgumentError("[score] tie holds several row blocks of one weight; tie whole weights, with row_blocks=1")
    return Task(
        system=system,
        states=draw(default_initial(system) if initial is None else initial, system, horizon=horizon, seed=seed),
        horizon=horizon,
        weights=tuple(weights),
        parameters=tuple(_parameter(system, weight) for weight in weights),
        blocks=tuple(block for _, block in owned),
        weight_of=tuple(index for index, _ in owned),
        groups=groups,
        seed=seed,
        engine=engine,
        memory_limit=memory_limit,
    )


def _parameter(system: System, weight: Weight) -> torch.nn.Parameter:
    parameter = parameter_of(system.module, weight)
    assert isinstance(parameter, torch.nn.Parameter)
    return parameter
