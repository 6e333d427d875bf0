"""Captured programs of module kinds with quantizable weights (tests/cases/modules.py) against torch."""

from __future__ import annotations

import pytest
import torch

from capturing import TOLERANCE, check_program
from cases.modules import CASES, ModuleCase
from networks import looped
from tqs_fast.systems.tree import tree_map

# The others only repeat what tests/cases/networks.py has.
NAMES = {
    "Conv1d-circular",
    "Conv1d-groups",
    "Conv2d-replicate",
    "Conv2d-same",
    "Embedding-tied",
    "GRU-state",
    "LSTM-projection",
    "MultiheadAttention-extra-keys",
    "MultiheadAttention-padding",
    "MultiheadAttention-sizes",
    "RNNCell-relu-no-bias",
    "TransformerEncoderLayer-norm-first",
}
ROWS = [case for case in CASES if case.name in NAMES]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_program_follows_torch(case: ModuleCase):
    assert len(ROWS) == len(NAMES)
    system, state = looped(case.make_module(), case.make_input(3), lambda module, *given: module(*given, **case.kwargs))
    system.initial_state = lambda count, generator: tree_map(lambda leaf: leaf[:count], state)
    check_program(system, torch.float32, TOLERANCE[torch.float32])
