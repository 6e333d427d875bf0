"""Walking the tensors in the arguments of a torch function: nested tuples, lists and dicts, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in `value`, depth first; anything else is passed over."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in tensors(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in tensors(item)]
    return []


def mention(ids: Collection[int], values: Iterable[Any]) -> bool:
    """Whether an object with one of `ids` is among `values` or nested in them (`weight in args`, cheaply)."""
    for value in values:
        if id(value) in ids:
            return True
        if type(value) in (tuple, list) and mention(ids, value):
            return True
    return False


def replace_tensors(function: Callable[[int, torch.Tensor], torch.Tensor], value: Any) -> Any:
    """`value` with every tensor replaced by `function(position, tensor)`, positions as in `tensors`."""
    position = -1

    def walk(item: Any) -> Any:
        nonlocal position
        if isinstance(item, torch.Tensor):
            position += 1
            return function(position, item)
        if isinstance(item, dict):
            return {key: walk(inner) for key, inner in item.items()}
        if isinstance(item, (tuple, list)):
            walked = [walk(inner) for inner in item]
            return type(item)(*walked) if hasattr(item, "_fields") else type(item)(walked)
        return item

    return walk(value)
