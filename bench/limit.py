"""The machine's limit: how many multiply-adds a rollout needs, and how many the cores can do."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# Independent chains of multiply-adds that never leave the registers: CHAINS covers latency times units of any x86-64
# (4 x 2) in 14 of 16 registers. Nothing may fold the loop: floating-point sums are not reassociated.
CHAINS = 12
SOURCE = (
    """
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vector __attribute__((vector_size(BYTES)));
long floats(void) { return BYTES / sizeof(float); }
float chains(long rounds, float a, float b) {
    vector x[CHAINS];
    for (int i = 0; i < CHAINS; ++i) x[i] = (vector){0} + (float)i;
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) x[i] = x[i] * a + b;
    vector sum = x[0];
    for (int i = 1; i < CHAINS; ++i) sum += x[i];
    return sum[0];
}
"""
).replace("CHAINS", str(CHAINS))
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-x", "c", "-")
ROUNDS = 10_000_000  # tens of milliseconds: starting threads does not show


@dataclass(frozen=True)
class Peak:
    """Float32 operations per second that `threads` cores reach; `measure` takes one sample."""

    measure: Callable[[], float]
    source: str


def peak(threads: int) -> Peak:
    """Multiply-adds in registers, compiled here; where there is no compiler the rate of a large product in torch,
    which is below the limit."""
    library = _compile()
    if library is None:
        return Peak(_product, "torch product of 1024 x 1024 matrices (no C compiler found): below the limit")
    chains, floats = library.chains, library.floats()
    chains.argtypes, chains.restype = (ctypes.c_long, ctypes.c_float, ctypes.c_float), ctypes.c_float

    def measure() -> float:
        workers = [threading.Thread(target=chains, args=(ROUNDS, 0.999, 0.001)) for _ in range(threads)]
        start = time.perf_counter()
        for worker in workers:  # ctypes gives the interpreter lock up during a call
            worker.start()
        for worker in workers:
            worker.join()
        return threads * ROUNDS * CHAINS * floats * 2 / (time.perf_counter() - start)

    return Peak(measure, f"multiply-adds in registers, {floats} floats wide")


def _compile() -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        done = subprocess.run([compiler, *FLAGS, "-o", path], input=SOURCE.encode(), capture_output=True, check=False)
        return ctypes.CDLL(str(path)) if done.returncode == 0 else None


def _product(size: int = 1024) -> float:
    a = torch.ones(size, size)
    start = time.perf_counter()
    torch.mm(a, a)
    return 2 * size**3 / (time.perf_counter() - start)


def count_flops(step: Callable[[], Any]) -> int:
    """Twice the multiply-adds of the matrix products and convolutions that `step()` runs in torch; not those inside
    fused recurrent layers. Elementwise work is not counted: the limit that follows is a lower bound.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step()
    return int(counter.get_total_flops())
