"""The table of operators: (domain, name) -> function from values to values.

A value is a torch tensor, computed from states, inputs and weights, or a NumPy array that is known before anything
runs: sizes, indices, constants. What is made of known values alone never reaches the table (torch_form.py evaluates
it), so that a function may ask for shapes and axes as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from tqs_fast.errors import CaptureError
from tqs_fast.onnx.read import Array

Value: TypeAlias = torch.Tensor | Array
Operator = Callable[..., Any]
OneOperator = TypeVar("OneOperator", bound=Operator)
OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(*names: str, domain: str = "") -> Callable[[OneOperator], OneOperator]:
    """Registers `function(call, *inputs)` -> a value, or one per output; an input that is left out is None."""

    def register(function: OneOperator) -> OneOperator:
        for name in names:
            assert (domain, name) not in OPERATORS, name
            OPERATORS[domain, name] = function
        return function

    return register


@dataclass(frozen=True, eq=False)
class Call:
    """What an operator is given beside its inputs.

    Attributes:
        name: of the operator.
        attributes: of the node, as Python values; tensors as arrays.
        opset: version of its domain.
        outputs: how many it has; those that nothing wants at the end are not counted.
        constant: an array as a tensor, the same tensor for the same array.
        precision: the dtype that stands for another: float64 for float32 in a twin of higher precision.
    """

    name: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    constant: Callable[[Array], torch.Tensor]
    precision: Callable[[torch.dtype], torch.dtype]

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.attributes.get(attribute, default)

    def tensor(self, value: Value) -> torch.Tensor:
        return value if isinstance(value, torch.Tensor) else self.constant(value)

    def numbers(self, value: Value | None, what: str) -> list[int] | None:
        """Known integers; None where the input is left out.

        Raises:
            CaptureError: they depend on the state.
        """
        if value is None:
            return None
        if isinstance(value, torch.Tensor):
            raise self.refused(f"its {what} depends on values")
        return [int(number) for number in np.asarray(value).reshape(-1)]

    def number(self, value: Value | None, default: float, what: str) -> float:
        """A known number, likewise."""
        if value is None:
            return default
        if isinstance(value, torch.Tensor):
            raise self.refused(f"its {what} depends on values")
        return float(np.asarray(value).reshape(-1)[0])

    def axes(self, value: Value | None) -> list[int] | None:
        """From an input, or the attribute of older opsets."""
        given = self.numbers(value, "axes")
        return given if given is not None else self.get("axes")

    def refused(self, reason: str) -> CaptureError:
        return CaptureError(reason)

    def supports_only(self, **allowed: Sequence[Any] | Any) -> None:
        """Raise CaptureError where an attribute that is present has another value."""
        for attribute, value in allowed.items():
            found = self.get(attribute, value)
            if found != value:
                raise self.refused(f"{attribute}={found} is not supported")
