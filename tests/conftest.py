"""Tests of the emulated GPU run its threads in an adversary's order, every test in its own."""

from __future__ import annotations

import os
import zlib

import pytest

import emulated

# 0 is ascending order. A seed of the environment is that of every test.
GIVEN = os.environ.get("TQS_EMULATOR_SEED")
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7) if GIVEN is None else (int(GIVEN),)


@pytest.fixture(autouse=True)
def schedule(request: pytest.FixtureRequest) -> None:
    if "cuda" in request.path.name:
        emulated.schedule(SEEDS[zlib.crc32(request.node.name.encode()) % len(SEEDS)])
