"""The float32 limit of one thread of this machine, measured by peak.c; needs a C compiler."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.c")


def float32_peak() -> float:
    """GFLOP/s of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O3", "-march=native", str(SOURCE), "-o", str(program)], check=True)
        return float(subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()[0])
