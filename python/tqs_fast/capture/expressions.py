"""What a step computes from parameters and buffers alone: once, and again for other values of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Expression:
    """A parameter, a constant, or a torch function of other expressions.

    Attributes:
        function: applied to `arguments` and `keywords`, in which expressions may be nested; None for a leaf.
        parameter: name of the parameter that a leaf is, None for a constant one.
        leaf: value of a leaf.
    """

    function: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    parameter: str | None = None
    leaf: torch.Tensor | None = None

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters it depends on, each once, in order of first use."""
        if self.parameter is not None:
            return (self.parameter,)
        found: dict[str, None] = {}
        for child in _children((self.arguments, self.keywords)):
            found.update(dict.fromkeys(child.parameters))
        return tuple(found)

    @cached_property
    def value(self) -> Any:
        """Its value for the module's own parameters, without gradients: a tensor, or what a function returned."""
        if self.function is None:
            assert self.leaf is not None
            return self.leaf.detach()
        with torch.no_grad():
            return self.function(*_replace(self.arguments, _own_value), **_replace(dict(self.keywords), _own_value))

    def derive(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Its value where `values` replace parameters by name; differentiable by torch."""
        known: dict[int, Any] = {}

        def evaluate(expression: Expression) -> Any:
            if not any(name in values for name in expression.parameters):
                return expression.value
            if expression.parameter is not None:
                return values[expression.parameter]
            if id(expression) not in known:
                assert expression.function is not None
                known[id(expression)] = expression.function(
                    *_replace(expression.arguments, evaluate), **_replace(dict(expression.keywords), evaluate)
                )
            return known[id(expression)]

        result: torch.Tensor = evaluate(self)
        return result


def _own_value(expression: Expression) -> Any:
    return expression.value


def _children(tree: Any) -> list[Expression]:
    if isinstance(tree, Expression):
        return [tree]
    if isinstance(tree, Mapping):
        return [child for item in tree.values() for child in _children(item)]
    if isinstance(tree, (tuple, list)):
        return [child for item in tree for child in _children(item)]
    return []


def _replace(tree: Any, function: Callable[[Expression], Any]) -> Any:
    if isinstance(tree, Expression):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _replace(item, function) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_replace(item, function) for item in tree)
    return tree
