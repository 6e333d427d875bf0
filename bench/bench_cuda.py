"""Question: how far are the CUDA products on packed weights from the machine's limits, and from the best of others?

int4 in groups of 128 and int8 per channel, three shapes, M = 1 ... 512, bfloat16 rows. All contestants of one product
take turns in one run: CUDA graphs of calls that go through more copies of the weight than L2 holds, medians of
microseconds per call. Beside them the largest error against float64 in units of the stated bound, the bytes and
operations per second over what a copy and cuBLAS reach in the same run, and the quotients with each contestant.

    python bench/bench_cuda.py --out bench/results/cuda.json [--seconds 240] [--peers]
    python bench/bench_cuda.py --quick --out cuda.json      whether it runs
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import torch

import harness
from gpu.clock import limits, paired
from gpu.ways import Call, Weight, ways

SHAPES = ((4096, 4096), (8192, 8192), (12288, 4096))  # [N, K]
FORMATS = ((4, 128), (8, 0))
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
    microseconds, failed = paired(bound, rounds=7)
    if "ours" not in microseconds:
        raise RuntimeError(f"ours: {failed['ours']}")
    own = microseconds["ours"]
    moved = weight.packed.nbytes + 2 * m * (n + k)
    best = min((time for name, time in microseconds.items() if not name.startswith("ours")), default=float("nan"))
    return {
        "bits": weight.packed.bits, "group_size": weight.packed.group_size, "N": n, "K": k, "M": m,
        "error / bound": error_in_bounds(calls["ours"], x, weight),
        "microseconds": microseconds, "failed": failed,
        # A copy moves every byte twice; its rate counts both.
        "bytes / copy": moved / (own * 1e-6) / ceilings["copy_bytes_per_second"],
        "operations / cuBLAS bf16 peak": 2 * m * n * k / (own * 1e-6) / ceilings["bf16_operations_per_second"],
        "best other / ours": best / own,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0, help="no new weight after so long")
    parser.add_argument("--peers", action="store_true", help="gemlite and humming, too, which compile for minutes")
    parser.add_argument("--quick", action="store_true", help="one small shape and few rows")
    arguments = parser.parse_args()
    shapes, counts = (((64, 256),), (1, 8, 40)) if arguments.quick else (SHAPES, ROWS)
    began, ceilings = time.perf_counter(), limits(64) if arguments.quick else limits()
    print(json.dumps(ceilings), flush=True)
    machine = harness.machine()
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for bits, group_size in FORMATS:
        for n, k in shapes:
            if time.perf_counter() - began > arguments.seconds:
                missing[f"int{bits} {n}x{k}"] = "out of time"
                continue
            weight = Weight.draw(n, k, bits, group_size)
            calls, refused = ways(weight, peers=arguments.peers)
            missing |= {f"{name}, int{bits}": why for name, why in refused.items()}
            for m in counts:
                try:
                    rows.append(measure(weight, calls, m, ceilings))
                    print(json.dumps(rows[-1]), flush=True)
                except Exception as error:  # of one product alone
                    failed[f"int{bits} {n}x{k}, M = {m}"] = f"{type(error).__name__}: {error}"[:400]
                document = {"machine": machine, "limits": ceilings, "missing": missing, "failed": failed, "rows": rows}
                arguments.out.write_text(json.dumps(document, indent=1) + "\n")  # what there is, should time run out
            del calls, weight
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit(f"products failed: {failed}")
    if any(row["error / bound"] > 1 for row in rows):
        raise SystemExit("a product is further from float64 than its bound")


if __name__ == "__main__":
    main()
