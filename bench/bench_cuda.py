"""Question: is the CUDA product on packed weights right, and how far is it from the machine's limit and from cuBLAS?

For K = N = 4096 and 8192, M = 1, 8, 64: the largest error against float64 in units of the rounding bound, then
microseconds beside a bfloat16 cuBLAS product of the dequantized weight and the time to read the packed bytes at the
copy rate measured in the same run. Weights are rotated through buffers larger than the L2 cache, so that every call
reads them from memory.

    python bench/bench_cuda.py --out bench/results/cuda.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from tqs_fast import kernels

FLUSHED = 256 * 2**20  # bytes of rotated weights: several times any L2 cache


def microseconds(call: Callable[[int], Any], rounds: int = 30) -> float:
    """Median time of `call(i)` on the current stream, `i` counting up."""
    for i in range(5):
        call(i)
    times = []
    for i in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def copy_bytes_per_second() -> float:
    """Device memory read and written per second by a copy."""
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (microseconds(lambda _: target.copy_(source)) * 1e-6)


def error_in_bounds(x: torch.Tensor, packed: kernels.PackedWeight, y: torch.Tensor) -> float:
    """max |y - exact| / bound, with the kernel's stated float32 bound and one bfloat16 rounding of the result."""
    exact = x.double().cpu().numpy() @ packed.dequantize().astype(np.float64).T
    sizes = x.double().abs().cpu().numpy() @ np.abs(packed.dequantize()).astype(np.float64).T
    bound = (packed.shape[1] / 32 + 9) * 2.0**-24 * sizes + 2.0**-8 * np.abs(exact) + 1e-30
    return float((np.abs(y.double().cpu().numpy() - exact) / bound).max())


def measure(bits: int, size: int, rows: int, rate: float) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    packed = kernels.pack(generator.standard_normal((size, size)).astype(np.float32), bits=bits, group_size=128)
    copies = max(2, FLUSHED // packed.nbytes)
    codes = [torch.from_numpy(packed.codes).cuda() for _ in range(copies)]
    scales = torch.from_numpy(packed.scales.view(np.int16)).cuda()
    x = torch.randn(rows, size, device="cuda").bfloat16()

    def ours(i: int) -> torch.Tensor:
        return kernels.qgemm_cuda(x, codes[i % copies], scales, None, bits, 128)

    dense = torch.from_numpy(packed.dequantize()).cuda().bfloat16()
    weights = [dense.clone() for _ in range(max(2, FLUSHED // (2 * dense.numel())))]
    mine = microseconds(ours)
    cublas = microseconds(lambda i: x @ weights[i % len(weights)].T)
    limit = packed.nbytes / (rate / 2) * 1e6  # a copy moves every byte twice
    return {
        "bits": bits, "K": size, "N": size, "M": rows, "error / bound": error_in_bounds(x, packed, ours(0)),
        "microseconds": mine, "cublas bf16 microseconds": cublas, "read limit microseconds": limit,
        "cublas / ours": cublas / mine, "limit / ours": limit / mine,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rate = copy_bytes_per_second()
    rows = [measure(bits, size, m, rate) for bits in (4, 8) for size in (4096, 8192) for m in (1, 8, 64)]
    for row in rows:
        print(json.dumps(row))
    if any(row["error / bound"] > 1 for row in rows):
        raise SystemExit("a product is further from float64 than its rounding bound")
    machine = harness.STARTED | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    document = {"machine": machine, "copy_bytes_per_second": rate, "rows": rows}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
