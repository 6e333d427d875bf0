"""Time on the GPU, also without what a call costs on the host, and the limits of the machine in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

CALLS = 24  # per replay; each takes the next of the rotated weights


def seconds(call: Callable[[], Any], device: str) -> float:
    """Of one call, on a GPU between two events."""
    if device != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def product_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations per second of a [size, size] product, as torch computes it (float32: without tf32)."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [seconds(lambda: a @ b, device) for _ in range(8)]
    return 2 * size**3 / statistics.median(times[2:])


class Replay:
    """`CALLS` calls of `call(i)` as one CUDA graph."""

    def __init__(self, call: Callable[[int], Any]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(3):
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for i in range(CALLS):
                call(i)

    def microseconds(self) -> float:
        """Of one call."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / CALLS


def paired(calls: dict[str, Callable[[int], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """(microseconds of each in every round, why others have none), replays in turn; the first round is not counted."""
    replays, failed = {}, {}
    stream = torch.cuda.current_stream()
    for name, call in calls.items():
        try:
            replays[name] = Replay(call)
        except Exception as error:  # a peer that cannot do this shape, or not in a graph
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            torch.cuda.set_stream(stream)  # torch leaves its stream of captures current where ending one fails
            torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in replays}
    for turn in range(rounds + 1):
        for name, replay in replays.items():
            microseconds = replay.microseconds()
            if turn:
                times[name].append(microseconds)
    return times, failed


def limits(size: int = 8192) -> dict[str, float]:
    """Measured ceilings: bytes per second read and written by a copy, bf16 and int8 operations per second of cuBLAS.

    Args:
        size: of the products; a copy has four times as many elements.
    """
    source = torch.empty(4 * size**2, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(size, size, device="cuda").bfloat16()
    b = torch.randn(size, size, device="cuda").bfloat16()
    codes = torch.randint(-128, 128, (size, size), dtype=torch.int8, device="cuda")
    work = {
        "copy": lambda _: target.copy_(source),
        "bf16": lambda _: a @ b.T,
        "int8": lambda _: torch._int_mm(codes, codes.T),
    }
    samples, _ = paired(work, rounds=5)
    times = {name: statistics.median(own) for name, own in samples.items()}
    found = {"copy_bytes_per_second": 2 * source.numel() * 4 / times["copy"] * 1e6}
    for name in ("bf16", "int8"):
        if name in times:
            found[f"{name}_operations_per_second"] = 2 * size**3 / times[name] * 1e6
    return found
