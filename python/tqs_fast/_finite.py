"""Whether tensors hold NaN or infinity."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value is NaN or infinite. Integers are finite.

    A finite sum has finite terms, and is one pass where a test of every value is several; only a sum that is not finite
    (which large finite values can cause as well) is looked at again.
    """
    return all(
        not tensor.is_floating_point() or math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())
        for tensor in tensors
    )
