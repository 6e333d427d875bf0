"""NaN and infinity are found, and a sum that overflows is not mistaken for one."""

from __future__ import annotations

import pytest
import torch

from tqs_fast._finite import all_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_is_found(bad: float) -> None:
    x = torch.ones(3, 5)
    x[2, 4] = bad
    assert not all_finite([torch.ones(2), x])


def test_infinities_that_cancel_are_found() -> None:
    assert not all_finite([torch.tensor([float("inf"), -float("inf")])])


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    assert all_finite([torch.full((4,), torch.finfo(torch.float32).max), torch.arange(3), torch.empty(0)])
