"""Row blocks: a weight split along its output rows into parts that are scored, planned and packed each at its own bits.

Groups of a scale never cross rows, so a block rounds exactly as the same rows of the whole weight do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.weights import Weight

_NAME = re.compile(r"^(?P<weight>.+)\[(?P<first>\d+):(?P<end>\d+)\]$")


@dataclass(frozen=True)
class Block:
    """Rows `[first, end)` of a weight.

    Attributes:
        name: the weight's name, followed by `[first:end]` unless the block is the whole weight.
        weight: what it is a part of.
        first, end: rows.
    """

    name: str
    weight: Weight
    first: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows: `[end - first, ...]`."""
        return (self.end - self.first, *self.weight.shape[1:])

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """The block's rows of the weight's tensor, a view."""
        return parameter[self.first : self.end]

    def replaced(self, parameter: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The weight's tensor with `rows` in place of the block's: a copy, or `rows` if they are all of it."""
        if rows.shape == parameter.shape:
            return rows
        changed = parameter.clone()
        changed[self.first : self.end] = rows
        return changed


def split(weight: Weight, row_blocks: int) -> list[Block]:
    """`weight` in `row_blocks` blocks of almost equal size, or one block a row where it has fewer rows.

    Raises:
        ArgumentError: row_blocks < 1.
    """
    if row_blocks < 1:
        raise ArgumentError(f"[score] row_blocks must be at least 1, got {row_blocks}")
    rows = weight.shape[0]
    count = min(row_blocks, rows)
    edges = [rows * b // count for b in range(count + 1)]
    if count == 1:
        return [Block(weight.name, weight, 0, rows)]
    return [Block(block_name(weight.name, first, end), weight, first, end) for first, end in pairwise(edges)]


def block_name(weight: str, first: int, end: int) -> str:
    """Name of the rows `[first, end)` of the weight called `weight`."""
    return f"{weight}[{first}:{end}]"


def parse_name(name: str) -> tuple[str, tuple[int, int] | None]:
    """Weight name and rows of a block's name; rows are None for a whole weight."""
    match = _NAME.match(name)
    if match is None:
        return name, None
    return match["weight"], (int(match["first"]), int(match["end"]))


def check_cover(weight: Weight, rows: list[tuple[int, int]], function: str) -> None:
    """Check that sorted row ranges cover a weight without gap or overlap.

    Raises:
        ArgumentError: they do not.
    """
    edges = [0, *(end for _, end in rows)]
    if [first for first, _ in rows] != edges[:-1] or edges[-1] != weight.shape[0] or sorted(set(edges)) != edges:
        raise ArgumentError(
            f"[{function}] expected row blocks of {weight.name} that cover its {weight.shape[0]} rows once, got "
            f"{', '.join(f'[{first}:{end}]' for first, end in rows)}"
        )
