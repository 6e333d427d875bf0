"""Question: how far is the prepacked product of native programs from the machine's float32 limit, and from torch?

y [M, N] = x [M, K] W [N, K]^T + bias on one thread, from warm caches, at the shapes that rollouts meet: a weight read
again and again for a handful to a thousand rows. In turn in the same run:

    native  the kernel that the ops call, weight packed beforehand
    torch   torch.addmm with out= (MKL or oneDNN), the weight as the module holds it

The limit is the float32 rate of the thread (limit.py), measured before and after. Calls of torch cost some microseconds
whatever the shape ("torch_call", a product of one element); a rollout in torch pays them, so they are not taken out.

    python bench/bench_gemm.py
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

import harness
import limit
from tqs_fast._native import core

ROWS = (1, 2, 4, 8, 9, 16, 17, 18, 33, 96, 144, 864)
WEIGHTS = ((384, 128), (256, 256), (1024, 256), (256, 1024))  # N, K
WORK = 4e8  # multiply-adds per round and shape


def measure(rows: int, n: int, k: int) -> dict[str, Any]:
    """One shape, in GFLOP/s."""
    x, weight, bias = torch.randn(rows, k), torch.randn(n, k), torch.randn(n)
    y, expected = torch.empty(rows, n), torch.empty(rows, n)
    packed = core.PackedWeight(weight.data_ptr(), n=n, k=k, precision="float32")
    calls = max(1, int(WORK / (rows * n * k)))

    def native() -> None:
        packed.multiply(rows=rows, x=x.data_ptr(), bias=bias.data_ptr(), y=y.data_ptr(), repeats=calls)

    def peer() -> None:
        for _ in range(calls):
            torch.addmm(bias, x, weight.T, out=expected)

    seconds = harness.paired({"native": native, "torch": peer}, rounds=9)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-3)
    flops = 2e-9 * rows * n * k * calls
    speed = {name: flops / statistics.median(values) for name, values in seconds.items()}
    return {
        "M": rows,
        "N": n,
        "K": k,
        "gflops": speed,
        "torch_over_native": harness.ratio(seconds, "torch", "native"),
    }


def torch_call() -> float:
    """Seconds of a product of one element."""
    one = torch.ones(1, 1)
    bias, y = torch.ones(1), torch.empty(1, 1)

    def call() -> None:
        for _ in range(10000):
            torch.addmm(bias, one, one, out=y)

    return statistics.median(harness.paired({"call": call})["call"]) / 10000


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = limit.peak(1)
    rates = [peak.measure() for _ in range(5)]
    with torch.inference_mode():
        shapes = [measure(rows, n, k) for n, k in WEIGHTS for rows in ROWS]
        call = torch_call()
    most = max(rates + [peak.measure() for _ in range(5)]) / 1e9
    document = {"limit_gflops": most, "limit_source": peak.source, "torch_call_seconds": call, "shapes": shapes}
    path = harness.write("gemm", document)
    print(f"limit {most:.0f} GFLOP/s, {path}")
    for shape in shapes:
        native = shape["gflops"]["native"]
        print(
            f"M={shape['M']:4d} N={shape['N']:5d} K={shape['K']:5d}  {native:6.1f} GFLOP/s  {native / most:4.0%} of "
            f"the limit  torch takes {shape['torch_over_native']['median']:.2f}x"
        )


if __name__ == "__main__":
    main()
