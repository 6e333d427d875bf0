"""int8 activations by NumPy, written from the text of `Activation` in csrc/backend/kernel_table.h; plans with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import tqs_fast as tqs
from packing import plan_for

Array = npt.NDArray[Any]
FLOAT32 = 2.0**-24


def rounded(x: Array) -> npt.NDArray[np.float64]:
    """The values that the rows of float32 x [..., K] are multiplied as."""
    rows = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    values = np.zeros(rows.shape)
    for row, out in zip(rows, values, strict=True):
        most = np.abs(row).max()
        if not np.isfinite(row).all():
            out[:] = np.nan
        elif most >= 2.0**-100:
            out[:] = np.rint(row * (np.float32(127) / most)) * np.float64(most / np.float32(127))
    return values.reshape(x.shape)


def assert_rounded_product(
    y: torch.Tensor, x: torch.Tensor, weight: Array, bias: torch.Tensor | None, groups: int
) -> None:
    """y [..., N] in float32 against the rounded rows of x [..., K] times weight [N, K], in float64.

    The integers are exact. A group's integer is rounded to float32, a fused multiply-add per group and one with the
    scale of the row, which is rounded itself: groups + 3 roundings of at most the sum of magnitudes.
    """
    rows = rounded(x.detach().float().numpy())
    own = np.zeros(len(weight)) if bias is None else bias.detach().double().numpy()
    exact = rows @ weight.T + own
    size = np.abs(rows) @ np.abs(weight).T + np.abs(own)
    error = np.abs(y.detach().double().numpy() - exact)
    bound = (groups + 3) * FLOAT32 * size
    assert (error <= bound).all(), f"error {error.max()}, bound {bound[np.unravel_index(error.argmax(), error.shape)]}"


def int8_plan(module: nn.Module, bits: Iterable[int | None] = (8, 4), quantizer: tqs.Quantizer | None = None):
    """`plan_for`, every packed layer with int8 activations."""
    return rounding_plan(plan_for(module, bits, quantizer))


def rounding_plan(plan: tqs.Plan) -> tqs.Plan:
    return replace(plan, activations={name: "int8" for name, bits in plan.bits.items() if bits is not None})
