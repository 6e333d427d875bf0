"""What every bench shares: the machine it ran on, paired timing, and JSON results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tqs_fast as tqs

RESULTS = Path(__file__).parent / "results"
SETTLE = 0.005  # seconds; OpenMP threads spin for about a millisecond after their last work


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def commit() -> str:
    """What is measured; where there is no checkout, what the environment's TQS_COMMIT says."""
    found = _said("git", "rev-parse", "--short", "HEAD")
    changed = _said("git", "status", "--porcelain", "--", ":!results")
    return (found + ("+changes" if changed else "")) if found else os.environ.get("TQS_COMMIT", "")


def gpu() -> dict[str, Any]:
    """Torch's current device; empty where there is none."""
    if not torch.cuda.is_available():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
    }


def machine() -> dict[str, Any]:
    """Processor, GPU, versions and commit, so that a figure can be placed."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "isa": tqs.kernels.isa(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "tqs-fast": tqs.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        **gpu(),
    }


def paired(
    functions: dict[str, Callable[[], Any]], rounds: int = 7, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every function in every round, the functions in turn: a slow moment of the machine hits them all.

    With `time.process_time` as the clock, work of one thread is timed beside other work of the machine.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return seconds


def interleaved(
    functions: dict[str, Callable[[], Any]],
    rounds: int,
    estimates: dict[str, float],
    least: float = 0.02,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Seconds per call of every function in every round, for contestants with thread pools of their own.

    The order is drawn anew in every round, so that nobody always follows the same neighbour. Before its sample a
    function waits until the threads of the one before have stopped spinning; one that takes less than `least` seconds
    by its estimate is called once untimed, then as often as fills them.
    """
    repeats = {name: max(1, round(least / estimates[name])) for name in functions}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = np.random.default_rng(seed)
    for _ in range(rounds):
        for name in order.permutation(list(functions)):
            function = functions[name]
            time.sleep(SETTLE)
            if repeats[name] > 1:
                function()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                function()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return seconds


def one_call(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of one call of each, all warm."""
    estimates = {}
    for name, function in functions.items():
        start = time.perf_counter()
        function()
        estimates[name] = time.perf_counter() - start
    return estimates


def rounds_within(budget: float, estimates: dict[str, float], least: int, most: int) -> int:
    """How many rounds of `interleaved` fit into `budget` seconds, between `least` and `most`."""
    return int(min(most, max(least, budget / sum(max(seconds, 0.03) for seconds in estimates.values()))))


def ratio(seconds: dict[str, list[float]], numerator: str, denominator: str) -> dict[str, float]:
    """Median, smallest and largest of the round-by-round ratio, and a 95 % bootstrap interval of the median (rounds are
    drawn together for both).
    """
    ratios = np.array(seconds[numerator]) / np.array(seconds[denominator])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "median": float(np.median(ratios)), "min": float(ratios.min()), "max": float(ratios.max()),
        "low": float(low), "high": float(high),
    }  # fmt: skip


def processors(threads: int) -> set[int]:
    """So many processors of those this process may use, on different cores where there are enough.

    Raises:
        ValueError: there are fewer.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise ValueError(f"[harness] expected {threads} processors, this process may use {len(allowed)}")

    def siblings(cpu: int) -> str:
        return "".join(_lines(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")) or str(cpu)

    first = {siblings(cpu): cpu for cpu in reversed(allowed)}
    cores = sorted(first.values())
    return set([*cores, *(cpu for cpu in allowed if cpu not in cores)][:threads])


def run_on(threads: int, arguments: list[str]) -> Any:
    """Run Python with `arguments` and `--worker PATH` on `threads` processors; what it wrote to PATH as JSON.

    A process of its own, because thread pools are sized when a process starts.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    chosen = processors(threads)
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQS_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        subprocess.run(
            [sys.executable, *arguments, "--worker", path],
            check=True,
            env=os.environ | environment,
            preexec_fn=lambda: os.sched_setaffinity(0, chosen),
        )
        return json.loads(path.read_text())


STARTED = machine()  # before anything is edited under a long run


def write(name: str, document: dict[str, Any]) -> Path:
    """`name` where it is a path that ends in .json, else `bench/results/<name>.json`, with the machine on top."""
    path = Path(name) if name.endswith(".json") else RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"machine": STARTED | {"threads": torch.get_num_threads()}, **document}, indent=1) + "\n"
    )
    return path
