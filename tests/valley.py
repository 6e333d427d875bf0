"""A loss of two weights with a river, whose rounding provably leaves it: for a test and for the figure of the docs."""

from __future__ import annotations

import torch
from torch import nn

import tqs_fast as tqs


def valley() -> tqs.System:
    """y = x (w0 + w1): a low-loss river along w0 + w1 = 0.36, with walls to both sides. w2 = -1 only holds the scale:
    with 4 bits and minmax it is 1/8, whatever w0 and w1 do within (-1, 0.9).
    """
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.185, 0.175, -1.0]]))

    def step(module, x):
        return x, x * nn.functional.linear(torch.tensor([1.0, 1.0, 0.0]), module.weight)

    return tqs.System(layer, step=step, initial_state=lambda count, g: torch.randn(count, 1, generator=g))
