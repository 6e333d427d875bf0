"""The parameters of a module and the constants of its program that are derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from tqs_fast.capture import Constant, Program
from tqs_fast.engines.torch_ways import loading_forward_rules


class NativeWeights:
    """What a program's constants become when parameters change.

    Args:
        program: captured from `module`.
        module: owns the parameters.
    """

    def __init__(self, program: Program, module: torch.nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self._constants: dict[str, list[Constant]] = {name: [] for name in self._parameters}
        for constant in program.constants:
            for name in constant.parameters:
                self._constants[name].append(constant)

    def uses(self, name: str) -> bool:
        """Whether the step depends on this parameter."""
        return bool(self._constants[name])

    def derived(self, names: Mapping[str, object]) -> list[Constant]:
        """The constants that depend on any of these parameters."""
        return list({c.buffer: c for name in names for c in self._constants[name]}.values())

    def is_parameter(self, constant: Constant, name: str) -> bool:
        """Whether a constant is the parameter itself, element by element."""
        parameter = self._parameters[name]
        if not parameter.is_contiguous():  # constants are: the same memory is then read in another order
            return False
        return constant.tensor.data_ptr() == parameter.data_ptr() and constant.tensor.numel() == parameter.numel()

    def changed(self, constant: Constant, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The constant for other values of some parameters."""
        with torch.no_grad():
            return constant.derive(values).contiguous()

    def tangents(self, directions: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Constant buffer -> its derivative along parameter name -> direction."""
        result = {}
        for constant in self.derived(directions):
            names = [name for name in constant.parameters if name in directions]
            primals = tuple(self._parameters[name].detach() for name in names)
            along = tuple(directions[name].to(primal) for name, primal in zip(names, primals, strict=True))
            with loading_forward_rules():
                result[constant.buffer] = torch.func.jvp(partial(_derive, constant, names), primals, along)[1]
        return result


def _derive(constant: Constant, names: list[str], *values: torch.Tensor) -> torch.Tensor:
    return constant.derive(dict(zip(names, values, strict=True)))
