"""Systems for the growth tests whose Jacobians are written down in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import tqs_fast as tqs
from tqs_fast.reference import growth as oracle
from tqs_fast.systems import flows, lorenz63


def lorenz_jacobian(h: float):
    """Of one Runge-Kutta step of Lorenz-63."""
    sigma, rho, beta = lorenz63.SIGMA, lorenz63.RHO, lorenz63.BETA

    def field(s):
        return np.array([sigma * (s[1] - s[0]), s[0] * (rho - s[2]) - s[1], s[0] * s[1] - beta * s[2]])

    def derivative(s):
        return np.array([[-sigma, sigma, 0], [rho - s[2], -1, -s[0]], [s[1], s[0], -beta]])

    return lambda state: oracle.runge_kutta_jacobian(field, derivative, state, h)


class Loop(nn.Module):
    """A GRU cell that reads its own hidden state through a small bottleneck."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, inner, bias=False)
        self.cell = nn.GRUCell(inner, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.cell(self.out(h), h)


def gru_system(width: int = 12, inner: int = 4, gain: float = 4.0) -> tqs.System:
    """A loop of gain well above 1: chaotic."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Loop(width, inner).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= gain
    return flows.map_system(module, lambda n, g: torch.randn(n, width, generator=g, dtype=torch.float64), name="gru")


def gru_oracle(system: tqs.System):
    """(step, jacobian) of `gru_system` in NumPy."""
    module = system.module
    weights = {name: p.detach().numpy() for name, p in module.cell.named_parameters()}
    out = module.out.weight.detach().numpy()

    def step(h):
        return oracle.gru_step(weights, out @ h, h)

    def jacobian(h):
        by_x, by_h = oracle.gru_jacobian(weights, out @ h, h)
        return by_h + by_x @ out

    return step, jacobian


def matrix_system(matrix) -> tqs.System:
    """z -> A z in float64, from random states."""
    tensor = torch.as_tensor(np.asarray(matrix), dtype=torch.float64)
    module = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, dtype=torch.float64)
    module.weight = nn.Parameter(tensor.clone())
    return flows.map_system(
        module, lambda n, g: torch.randn(n, tensor.shape[1], generator=g, dtype=torch.float64), name="linear"
    )


def start(system: tqs.System, count: int, seed: int = 0) -> tqs.Contexts:
    """Random states as they come: nothing is rolled forward, so that a map without an attractor may be used."""
    return tqs.Contexts(system.initial_state(count, torch.Generator().manual_seed(seed)))
