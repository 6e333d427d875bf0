"""Flows and maps with known growth rates: small systems to try the tools on, and to check them with.

Everything is in float64: their constants (8/3 and the like) are not those of the literature in float32.
`tqs-fast growth tqs_fast.systems.flows:lorenz63` and `tqs.load_system("tqs_fast.systems.flows:henon")` find them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems import lorenz63 as constants
from tqs_fast.systems.system import System

Start = Callable[[int, torch.Generator], torch.Tensor]


class RungeKutta4(torch.nn.Module):
    """The classical fourth-order Runge-Kutta map of an autonomous flow z' = field(z).

    Args:
        field: right-hand side, `[N, D]` -> `[N, D]`.
        step: time per call.
        substeps: Runge-Kutta steps that a call is cut into.
    """

    def __init__(self, field: torch.nn.Module, *, step: float, substeps: int = 1) -> None:
        super().__init__()
        if not step > 0 or substeps < 1:
            raise ArgumentError(f"[RungeKutta4] expected step > 0 and substeps >= 1, got {step} and {substeps}")
        self.field = field
        self.step = step
        self.substeps = substeps

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """`z` [N, D] a time `step` later."""
        h = self.step / self.substeps
        for _ in range(self.substeps):
            k1 = self.field(z)
            k2 = self.field(z + 0.5 * h * k1)
            k3 = self.field(z + 0.5 * h * k2)
            k4 = self.field(z + h * k3)
            z = z + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        return z


class Lorenz63(torch.nn.Module):
    """Right-hand side of the Lorenz flow (Lorenz, 1963), `[N, 3]` -> `[N, 3]`."""

    def __init__(
        self, sigma: float = constants.SIGMA, rho: float = constants.RHO, beta: float = constants.BETA
    ) -> None:
        super().__init__()
        self.sigma, self.rho, self.beta = _constants(sigma, rho, beta)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        x, y, z = state.unbind(-1)
        return torch.stack([self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z], dim=-1)


class Rossler(torch.nn.Module):
    """Right-hand side of the Rössler flow (Rössler, 1976), `[N, 3]` -> `[N, 3]`."""

    def __init__(self, a: float = 0.2, b: float = 0.2, c: float = 5.7) -> None:
        super().__init__()
        self.a, self.b, self.c = _constants(a, b, c)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        x, y, z = state.unbind(-1)
        return torch.stack([-y - z, x + self.a * y, self.b + z * (x - self.c)], dim=-1)


class Henon(torch.nn.Module):
    """The Hénon map (Hénon, 1976), `[N, 2]` -> `[N, 2]`; its Jacobian has determinant -b everywhere."""

    def __init__(self, a: float = 1.4, b: float = 0.3) -> None:
        super().__init__()
        self.a, self.b = _constants(a, b)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        x, y = state.unbind(-1)
        return torch.stack([1 - self.a * x * x + y, self.b * x], dim=-1)


class Logistic(torch.nn.Module):
    """The logistic map z -> r z (1 - z), `[N, 1]` -> `[N, 1]`; at r = 4 its exponent is ln 2."""

    def __init__(self, r: float = 4.0) -> None:
        super().__init__()
        (self.r,) = _constants(r)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.r * state * (1 - state)


def map_system(module: torch.nn.Module, initial_state: Start, *, name: str | None = None) -> System:
    """A module `[N, D]` -> `[N, D]` as a system whose output is its state.

    Args:
        module: the map; a flow becomes one through `RungeKutta4`.
        initial_state: `initial_state(count, generator)` -> `[count, D]`.
        name: shown in tables; defaults to the class name of the module.
    """

    def step(module: torch.nn.Module, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved: torch.Tensor = module(state)
        return moved, moved

    return System(module, step=step, initial_state=initial_state, name=name)


def lorenz63(step: float = 0.01) -> System:
    """Lorenz-63 by Runge-Kutta; exponents 0.906, 0, -14.572 per time unit, so 0.00906, 0, -0.14572 per step of 0.01."""
    mean, spread = torch.from_numpy(constants.MEAN), torch.from_numpy(constants.STD)
    return map_system(
        RungeKutta4(Lorenz63(), step=step), lambda count, g: mean + spread * _normal(count, 3, g), name="lorenz-63"
    )


def rossler(step: float = 0.05) -> System:
    """Rössler by Runge-Kutta; exponents 0.0714, 0, -5.39 per time unit."""
    spread = torch.tensor([3.0, 3.0, 0.01], dtype=torch.float64)
    return map_system(RungeKutta4(Rossler(), step=step), lambda count, g: spread * _normal(count, 3, g), name="rossler")


def henon() -> System:
    """The Hénon map; exponents 0.4192 and ln 0.3 - 0.4192 per step."""
    return map_system(Henon(), lambda count, g: 0.1 * _normal(count, 2, g), name="henon")


def logistic() -> System:
    """The logistic map at r = 4; exponent ln 2 per step."""

    def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(count, 1, generator=generator, dtype=torch.float64)

    return map_system(Logistic(), uniform, name="logistic")


def _constants(*values: float) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def _normal(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, size, generator=generator, dtype=torch.float64)
