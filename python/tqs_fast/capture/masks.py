"""Attention masks that only hide later positions."""

from __future__ import annotations

import torch

from tqs_fast.capture.graph import Tensor

HIDDEN = -1e30  # a score below this is never seen again


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
