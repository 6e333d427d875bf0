"""Captured programs of tests/cases/networks.py against torch: recurrent."""

from __future__ import annotations

import pytest
import torch

from capturing import check_case
from cases.networks import CASES, NetworkCase

ROWS = [case for case in CASES if case.family == "recurrent"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_program_follows_torch(case: NetworkCase, dtype: torch.dtype):
    check_case(case, dtype)
