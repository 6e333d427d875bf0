"""One variant at a time: a torch function mode that hands every call the variant in place of the float weight.

The module is never touched, so an interrupted run leaves nothing behind. This is the serial path: it works for every
torch function a network may call with its weight, and is the reference that the lanes must equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tqs_fast.engines.arguments import mention, replace_tensors


class Substitution(TorchFunctionMode):
    """Replaces parameters by other tensors of the same shape wherever a torch function is given them.

    Args:
        replacements: pairs of parameter and replacement.
    """

    def __init__(self, replacements: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
        super().__init__()
        self._parameters = tuple(replacements)  # held so that ids stay valid
        self._by_id = {id(parameter): tensor for parameter, tensor in replacements.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not mention(self._by_id, args) and not mention(self._by_id, kwargs.values()):
            return func(*args, **kwargs)

        def swap(_: int, tensor: torch.Tensor) -> torch.Tensor:
            return self._by_id.get(id(tensor), tensor)

        args, kwargs = replace_tensors(swap, (args, kwargs))
        return func(*args, **kwargs)
