"""tqs-fast: prepacked weights, activations as they are or rounded to int8 row by row."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from qgemm.contestant import Bind, Bound, rotating
from qgemm.weight import Weight, turned
from tqs_fast import kernels


def multiply(weight: Weight, copies: int, threads: int, activation: str, dtype: torch.dtype) -> Bind:
    """`kernels.qgemm`."""
    prepared = [turned_weight(weight.packed, rows).prepack() for rows in range(copies)]

    def bind(x: torch.Tensor) -> Bound:
        given = x.to(dtype)
        return rotating([partial(kernels.qgemm, given, p, activation=activation, threads=threads) for p in prepared])

    return bind


def turned_weight(packed: kernels.PackedWeight, rows: int) -> kernels.PackedWeight:
    zeros = None if packed.zeros is None else turned(packed.zeros, rows)
    return replace(packed, codes=turned(packed.codes, rows), scales=turned(packed.scales, rows), zeros=zeros)
