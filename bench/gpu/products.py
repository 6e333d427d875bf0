"""Products with packed weights on a GPU, next to torch, other libraries and a copy: bench_qgemm.py --device cuda.

bfloat16 rows. All contestants of one product take turns in one run: CUDA graphs of calls that go through more copies of
the weight than L2 holds, medians of microseconds per call. Beside them the largest error against float64 in units of
the stated bound, the bytes and operations per second over what a copy and cuBLAS reach in the same run, and the
quotient with the best of the others, with the 95 % interval of its median.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from typing import Any

import torch

import harness
from gpu.clock import limits, paired
from gpu.ways import Call, Weight, ways
from qgemm.layers import find_layers
from tqs_fast import kernels

SHAPES = ("4096x4096", "8192x8192", "12288x4096", "forecaster-1b", "forecaster-200m", "lorenz-gru:192x64")  # [N, K]
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def error_in_bounds(call: Call, x: torch.Tensor, weight: Weight) -> float:
    """max |y - exact| / bound of csrc/backend/kernel_table.h (float activations), one rounding to bfloat16 included."""
    dense = torch.from_numpy(weight.packed.dequantize()).cuda().double()
    exact, sizes = x.double() @ dense.T, x.double().abs() @ dense.abs().T
    bound = 3 * (dense.shape[1] + 2) * 2.0**-24 * sizes + 2.0**-8 * exact.abs() + 1e-30
    return float(((call(x, 0).double() - exact).abs() / bound).max())


def measure(weight: Weight, calls: dict[str, Call], m: int, ceilings: dict[str, float]) -> dict[str, Any]:
    n, k = weight.packed.shape
    # Not drawn on the GPU: a capture that failed may have left torch's generator there unusable.
    x = torch.randn(m, k).bfloat16().cuda()
    bound = {name: functools.partial(call, x) for name, call in calls.items()}
    samples, failed = paired(bound, rounds=7)
    if "ours" not in samples:
        raise RuntimeError(failed["ours"])
    microseconds = {name: statistics.median(own) for name, own in samples.items()}
    own = microseconds["ours"]
    moved = weight.packed.nbytes + 2 * m * (n + k)
    others = [name for name in samples if not name.startswith("ours")]
    best = min(others, key=microseconds.__getitem__, default="ours")
    return {
        "bits": weight.packed.bits, "group_size": weight.packed.group_size, "symmetric": weight.packed.symmetric,
        "N": n, "K": k, "M": m, "error / bound": error_in_bounds(calls["ours"], x, weight),
        "microseconds": microseconds, "failed": failed,
        # A copy moves every byte twice; its rate counts both.
        "bytes / copy": moved / (own * 1e-6) / ceilings["copy_bytes_per_second"],
        "operations / cuBLAS bf16 peak": 2 * m * n * k / (own * 1e-6) / ceilings["bf16_operations_per_second"],
        "best other": best, "best other / ours": harness.ratio(samples, best, "ours"),
    }  # fmt: skip


def run(options: argparse.Namespace, formats: list[tuple[int, int]]) -> None:
    """All layers of `options.shapes` in each format; results are written after every product, should time run out."""
    began, ceilings = time.perf_counter(), limits(64) if options.quick else limits()
    print(json.dumps(ceilings), flush=True)
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for bits, group_size in formats:
        for layer in [layer for spec in options.shapes for layer in find_layers(spec)]:
            if time.perf_counter() - began > options.within:
                missing[f"int{bits} {layer.name} {layer.shape}"] = "out of time"
                continue
            packed = kernels.pack(layer.read(), bits=bits, group_size=group_size, symmetric=not options.asymmetric)
            weight = Weight.on_device(packed)
            calls, refused = ways(weight, peers=options.peers)
            missing |= {f"{name}, int{bits}": why for name, why in refused.items()}
            for m in options.rows:
                try:
                    rows.append({"layer": layer.name, **measure(weight, calls, m, ceilings)})
                    print(json.dumps(rows[-1]), flush=True)
                except Exception as error:  # of one product alone
                    failed[f"int{bits} {layer.name} {layer.shape}, M = {m}"] = f"{type(error).__name__}: {error}"[:400]
                document = {"limits": ceilings, "missing": missing, "failed": failed, "rows": rows}
                harness.write(options.out, document)
            del calls, weight
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit(f"products failed: {failed}")
    if any(row["error / bound"] > 1 for row in rows):
        raise SystemExit("a product is further from float64 than its bound")
