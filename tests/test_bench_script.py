"""bench/gpu.sh, with programs in place of the real ones that note how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench/gpu.sh"
STEPS = ("pytest", "bench_rollout", "attention.py", "bench_qgemm", "score_forecaster", "memcheck", "racecheck")

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the shell's timeout")


@pytest.mark.parametrize(("broken", "status"), [("nothing", 0), ("pytest", 1), ("bench_rollout", 1), ("pip", 3)])
def test_what_fails_is_said_and_the_rest_runs(tmp_path, broken, status):
    programs, out = tmp_path / "programs", tmp_path / "out"
    programs.mkdir()
    for name in ("python3", "nvcc", "nvidia-smi", "compute-sanitizer"):
        (programs / name).write_text(f"""#!/bin/bash
            if [[ "$*" == *get_device_capability* ]]; then echo 90; exit; fi
            echo "called $*"
            if [[ "$*" == *{broken}* ]]; then exit 3; fi""")
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", SCRIPT, out], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == status, run.stderr
    assert (out / "gpu.txt").read_text() == run.stdout
    assert "TQS_CUDA_ARCHITECTURES=90a" in run.stdout
    called = "".join(line for line in run.stdout.splitlines() if line.startswith("called"))
    assert [step in called for step in STEPS] == [broken != "pip"] * len(STEPS)
    assert ("failed, or out of time (124): 3" in run.stdout) == (status == 1)
