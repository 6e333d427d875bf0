"""A rollout asks for memory before its first step and never again: longer ones do so as often as short ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tqs_fast

PRELOADED = Path(__file__).parent / "preload"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not COMPILER, reason="needs glibc and a C++ compiler")
def test_no_step_allocates(tmp_path):
    counter = tmp_path / "counter.so"
    source = PRELOADED / "count_allocations.cpp"
    built = subprocess.run(
        [COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC", str(source), "-o", str(counter)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    paths = [str(Path(tqs_fast.__file__).parent.parent), str(Path(__file__).parent)]
    environment = {**os.environ, "LD_PRELOAD": str(counter), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(PRELOADED / "count_allocations.py")],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert len(counts) == 3
    for name, ways in counts.items():
        for way, (short, long) in ways.items():
            assert short > 0, "nothing was counted"
            assert long == short, f"{name}, {way}: {long} allocations instead of {short} where there are 32 more steps"
