"""Attention masks: what is added to scores, and masks that only hide later positions."""

from __future__ import annotations

import torch

from tqs_fast.capture.graph import Graph, Tensor

HIDDEN = -1e30  # a score below this is never seen again


def additive(graph: Graph, mask: Tensor, precision: str, keeps: bool) -> Tensor:
    """0 where a boolean mask lets a key be seen, -inf elsewhere; True lets it where `keeps`, else hides it."""
    if mask.is_constant:
        return graph.fold(_additive, mask, keeps, precision=precision)
    values = (0.0, -torch.inf) if keeps else (-torch.inf, 0.0)
    return graph.elementwise("where", [mask, *values], mask.sizes, precision)


def causal_offset(mask: Tensor) -> int | None:
    """The offset for which a constant mask hides key t from query s where t > s + offset, and adds 0 elsewhere.

    What is hidden may be -inf or the most negative number, which is the same unless a row hides every key.
    """
    if not mask.is_constant or mask.source.parameters or mask.rank < 2:  # type: ignore[union-attr]
        return None
    value: torch.Tensor = mask.source.value  # type: ignore[union-attr]
    rows = value.reshape(-1, *value.shape[-2:])
    hidden = rows[0] < HIDDEN
    offset = int((~hidden[0]).sum()) - 1
    if offset < 0 or not bool((rows == rows[:1]).all()):
        return None
    queries, keys = (torch.arange(size, device=value.device) for size in hidden.shape)
    causal = keys[None] > queries[:, None] + offset
    return offset if bool((hidden == causal).all() and (rows[0][~hidden] == 0).all()) else None


def _additive(mask: torch.Tensor, keeps: bool) -> torch.Tensor:
    hidden = mask == 0 if keeps else mask != 0
    return torch.zeros(mask.shape).masked_fill(hidden, -torch.inf)
