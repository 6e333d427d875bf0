"""Weights of a program outside torch, shown as parameters of modules that compute nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tqs_fast.errors import CaptureError


class WeightHolder(nn.Module):
    """Part of a dotted name; holds the weights whose names end here.

    Attributes:
        weight_kinds: attribute -> operator, of every weight held (see `weights`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight_kinds: dict[str, str] = {}

    def hold(self, weights: Mapping[str, tuple[torch.Tensor, str]]) -> None:
        """Register weights: parameter name (see `qualified_names`) -> (values `[outputs, ...]`, operator).

        A parameter is registered itself: modules that hold the same one are scored as one.
        """
        for name, (values, kind) in weights.items():
            *parents, attribute = name.split(".")
            holder: WeightHolder = self
            for part in parents:
                if part not in holder._modules:
                    holder.add_module(part, WeightHolder())
                child = holder._modules[part]
                assert isinstance(child, WeightHolder)
                holder = child
            own = values if isinstance(values, nn.Parameter) else nn.Parameter(values, requires_grad=False)
            holder.register_parameter(attribute, own)
            holder.weight_kinds[attribute] = kind


class Swappable(WeightHolder, ABC):
    """A module that computes outside torch, with weights that can be exchanged."""

    @abstractmethod
    def with_weights(self, replaced: Mapping[str, torch.Tensor]) -> nn.Module:
        """A drop-in that shares everything but the named parameters; `self` is unchanged.

        Args:
            replaced: parameter name -> tensor of the parameter's shape.
        """

    def in_torch(self) -> nn.Module:
        """A drop-in that computes the same by torch, with the same parameters.

        Raises:
            CaptureError: there is none.
        """
        raise CaptureError(
            f"[capture] {type(self).__name__} is a program outside torch, of which nothing can be captured; use "
            'engine="swapped"'
        )


def qualified_names(names: Sequence[str]) -> list[str]:
    """Parameter names for weights: their own, dots making paths, except where torch allows no such name.

    A part that is empty, or that a module already has for something else, turns the dots into underscores; numbers tell
    equal names apart.
    """
    paths = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 1)}
    empty = WeightHolder()
    taken: set[str] = set()
    qualified = []
    for name in names:
        legal = all(part and not hasattr(empty, part) for part in name.split(".")) and name not in paths
        plain = name if legal else "weight:" + name.replace(".", "_")
        candidate, number = plain, 1
        while candidate in taken:
            number += 1
            candidate = f"{plain}-{number}"
        taken.add(candidate)
        qualified.append(candidate)
    return qualified
