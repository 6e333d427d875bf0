"""Plans rolled out together as lanes, from one set of initial conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import tqs_fast as tqs
from evaluate import statistics
from evaluate.subject import InitialConditions, Judge
from tqs_fast.engines import Lane, choose_engine, roll_reference
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.systems import draw

Array = np.ndarray[Any, np.dtype[np.float64]]


class Rolls:
    """The plans of one system, from one set of initial conditions.

    Args:
        seed: of the initial conditions.
        quantizer: how plans round weights.

    Attributes:
        reference: float rollout `[T, N, C]` and its spread.
        engine: its name.
    """

    def __init__(
        self,
        system: tqs.System,
        initial: InitialConditions | Sequence[InitialConditions],
        *,
        horizon: int,
        seed: int,
        quantizer: tqs.Quantizer,
    ) -> None:
        weights = find_weights(system.module)
        self._index = {weight.name: index for index, weight in enumerate(weights)}
        self._parameters: list[Any] = [parameter_of(system.module, weight) for weight in weights]
        self._quantizer = quantizer
        self._rounded: dict[tuple[int, int], torch.Tensor] = {}
        states = draw(initial, system, horizon=horizon, seed=seed)
        self._runner, _ = choose_engine("auto", system, states, self._parameters, horizon=horizon)
        self.engine = self._runner.name
        self.reference = roll_reference(system, states, horizon, outputs=self._runner.roll())

    @property
    def layers(self) -> list[str]:
        """Names of the weights that plans are for."""
        return list(self._index)

    def forward(self) -> None:
        """One rollout of the float model: the unit of cost."""
        self._runner.roll()

    def damages(self, plans: Sequence[Mapping[str, int | None]]) -> Array:
        """`[plans, N]`, from bits by layer name; layers that are not named stay float."""
        return self._runner.run([self._lane(plan) for plan in plans], self.reference).samples.numpy()

    def outputs(self, plans: Sequence[Mapping[str, int | None]]) -> Array:
        """`[plans, T, N, C]`."""
        return self._runner.trajectories([self._lane(plan) for plan in plans]).double().numpy()

    def _lane(self, plan: Mapping[str, int | None]) -> Lane:
        return Lane({self._index[name]: self._round(name, bits) for name, bits in plan.items() if bits is not None})

    def _round(self, name: str, bits: int) -> torch.Tensor:
        index = self._index[name]
        if (index, bits) not in self._rounded:
            parameter = self._parameters[index].detach()
            self._rounded[index, bits] = self._quantizer.dequantized(parameter, bits).to(parameter)
        return self._rounded[index, bits]


def judge(rolls: Rolls, judged: Judge, plans: Mapping[str, Mapping[str, int | None]]) -> dict[str, Any]:
    """Figures per initial condition of every plan, and of the float model, in JSON values.

    Returns:
        "damage" {plan: [N]}; with a truth also "mae" and "valid" {plan: [N]} with an entry "float", and "naive".
    """
    outputs = rolls.outputs(list(plans.values()))
    reference = rolls.reference.outputs.double().numpy()
    damage = statistics.damages(outputs, reference, rolls.reference.scale.numpy())
    result: dict[str, Any] = {"damage": _by_name(plans, damage)}
    if judged.truth is not None:
        truth = judged.truth.transpose(1, 0, 2)
        with_float = np.concatenate([reference[None], outputs])
        names = ["float", *plans]
        result["mae"] = _by_name(names, statistics.absolute_errors(with_float, truth))
        result["valid"] = _by_name(names, statistics.valid_values(with_float, truth))
        result["naive"] = judged.naive
    return result


def _by_name(names: Any, rows: Array) -> dict[str, list[float | str]]:
    """Rounded to five digits, far below the spread over initial conditions; infinity is "inf"."""
    return {
        name: [float(f"{value:.5g}") if np.isfinite(value) else "inf" for value in row]
        for name, row in zip(names, rows, strict=True)
    }
