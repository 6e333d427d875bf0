"""What a contestant is: copies of one weight, and calls that multiply by one of them or by all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Call = Callable[[], Any]


class UnsupportedError(Exception):
    """The contestant has no kernel for this weight."""


@dataclass(frozen=True)
class Bound:
    """A contestant that holds its activations.

    Attributes:
        hot: multiplies by the first copy.
        cold: multiplies by the `products` copies that follow those of the call before, all copies in turn.
        outputs: the product with every copy.
    """

    hot: Call
    cold: Call
    products: int
    outputs: Callable[[], list[npt.NDArray[np.float32]]]


Bind = Callable[[torch.Tensor], Bound]  # of float32 activations [M, K], whose values bfloat16 holds


def rotating(calls: Sequence[Call]) -> Bound:
    """Of one call per copy; each returns its product, which the next may overwrite."""
    following = itertools.cycle(calls)
    return Bound(
        hot=calls[0],
        cold=lambda: next(following)(),
        products=1,
        outputs=lambda: [to_array(call()) for call in calls],
    )


def to_array(product: Any) -> npt.NDArray[np.float32]:
    """A copy in float32."""
    return np.array(product.float().numpy() if isinstance(product, torch.Tensor) else product, np.float32)
