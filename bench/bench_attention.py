"""Question: how fast is causal attention with K tangents, next to what PyTorch offers and to the machine?

float32, D = 64, 4 heads, tangents of q, k and v, sequences of 96 to 1024, all contestants in turn in one process:

    ours           torch.func: vmap(jvp(tqs.ops.attention))
    operator       torch.ops.tqs_fast.attention_tangents, without torch.func around it
    math jvp       torch.func: vmap(jvp(softmax(q k^T) v written out)), the only form torch differentiates forward
    by hand        the tangents of that written out as stacked torch products
    differences    forward differences: scaled_dot_product_attention of the 1 + K stacked inputs

Every result is compared with vmap(jvp) of the formula in float64 first; one that is wrong is reported and not timed.
The limit is the time of the multiply-adds of visible pairs (2 D for the primal and 4 D for each tangent) at the float32
rate of the cores, measured in the same rounds.

    python bench/bench_attention.py                     one thread (about four minutes)
    python bench/bench_attention.py --threads 1 2 --lengths 96 1024
    python bench/bench_attention.py --quick --out quick.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn import functional as F

import harness
import limit
from tqs_fast.ops import attention

HEADS, DEPTH = 4, 64
EPSILON = 1e-3  # of forward differences: rounding 2^-24 / epsilon, truncation epsilon / 2 times the curvature
# Largest error over largest element. Exact ways: a few hundred roundings; differences: as above, with room.
TOLERANCE, DIFFERENCES = 64 * 2.0**-24, 64 * 2.0**-24 / EPSILON + 10 * EPSILON

Parts = tuple[Tensor, Tensor, Tensor]


def weights(q: Tensor, k: Tensor) -> Tensor:
    visible = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return torch.softmax((DEPTH**-0.5 * q @ k.mT).masked_fill(~visible, -torch.inf), -1)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(q, k) @ v


def along(function: Callable[..., Tensor], primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    """Output and its tangents [K, ...]."""
    return vmap(lambda *t: jvp(function, primal, t), out_dims=(None, 0))(*tangents)


def by_hand(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    (q, k, v), (dq, dk, dv) = primal, tangents
    p = weights(q, k)
    out = p @ v
    moved = p * (DEPTH**-0.5 * (dq @ k.mT + q @ dk.mT))
    return out, moved @ v - moved.sum(-1, keepdim=True) * out + p @ dv


def differences(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    stacked = (torch.cat([x[None], x + EPSILON * dx]) for x, dx in zip(primal, tangents, strict=True))
    out = F.scaled_dot_product_attention(*stacked, is_causal=True)
    return out[0], (out[1:] - out[0]) / EPSILON


def operator(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    settings = (DEPTH**-0.5, True, 0)
    return (
        torch.ops.tqs_fast.attention(*primal, None, *settings),
        torch.ops.tqs_fast.attention_tangents(*primal, None, *tangents, None, *settings),
    )


def ours(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    return along(lambda q, k, v: attention(q, k, v, causal=True), primal, tangents)


def math_jvp(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
    return along(formula, primal, tangents)


WAYS: dict[str, tuple[Callable[[Parts, Parts], tuple[Tensor, Tensor]], float]] = {
    "ours": (ours, TOLERANCE),
    "operator": (operator, TOLERANCE),
    "math jvp": (math_jvp, TOLERANCE),
    "by hand": (by_hand, TOLERANCE),
    "differences": (differences, DIFFERENCES),
}


def error(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """Largest error over the largest element, of output and tangents."""
    return max(float((ours - exact).abs().max() / exact.abs().max()) for ours, exact in zip(got, expected, strict=True))


def measure(length: int, options: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(length)
    shape = (HEADS, length, DEPTH)
    primal = tuple(torch.randn(shape, generator=generator) for _ in range(3))
    tangents = tuple(torch.randn((options.tangents, *shape), generator=generator) for _ in range(3))
    exact = along(formula, tuple(x.double() for x in primal), tuple(x.double() for x in tangents))
    contestants: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, (way, tolerance) in WAYS.items():
        found = error(way(primal, tangents), exact)
        contestants[name] = {"error": found, "tolerance": tolerance, "wrong": not found <= tolerance}
        if found <= tolerance:
            calls[name] = lambda way=way: way(primal, tangents)
    peak = limit.peak(options.threads[0])
    rates = [peak.measure() for _ in range(5)]
    calls["limit"] = lambda: rates.append(peak.measure())
    estimates = harness.one_call(calls)
    rounds = options.rounds or harness.rounds_within(options.seconds, estimates, 5, 41)
    seconds = harness.interleaved(calls, rounds, estimates)
    del seconds["limit"]
    for name, samples in seconds.items():
        contestants[name] |= {"median_seconds": statistics.median(samples), "seconds": samples}
    pairs = length * (length + 1) // 2
    flops = 2 * HEADS * DEPTH * pairs * (2 + 4 * options.tangents)
    return {
        "length": length, "tangents": options.tangents, "threads": options.threads[0], "rounds": rounds,
        "contestants": contestants, "flops": flops, "limit_seconds": flops / max(rates),
        "float32_per_second": max(rates), "limit_source": peak.source,
        "ratios": {name: harness.ratio(seconds, "ours", name) for name in seconds if name != "ours"},
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    print(
        f"length {result['length']}, {result['tangents']} tangents, {result['threads']} thread(s), "
        f"{result['rounds']} rounds, limit {1e3 * result['limit_seconds']:.2f} ms at "
        f"{result['float32_per_second'] / 1e9:.0f} GFLOP/s"
    )
    for name, row in result["contestants"].items():
        if "median_seconds" not in row:
            print(f"  {name:12} WRONG: error {row['error']:.1e}")
            continue
        against = result["ratios"].get(name)
        ratio = f"ours / it {against['median']:.3f} ({against['low']:.3f} to {against['high']:.3f})" if against else ""
        share = 100 * result["limit_seconds"] / row["median_seconds"]
        print(f"  {name:12} {1e3 * row['median_seconds']:9.2f} ms  {share:5.1f} % of the limit  {ratio}", flush=True)


def work(options: argparse.Namespace) -> None:
    """One process, one number of threads: every length, results to `options.worker`."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)  # torch's own
    torch.set_num_threads(options.threads[0])
    results = []
    for length in options.lengths:
        results.append(measure(length, options))
        show(results[-1])
    Path(options.worker).write_text(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[96, 256, 512, 1024])
    parser.add_argument("--tangents", type=int, default=16)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, help="in place of what fits into --seconds")
    parser.add_argument("--seconds", type=float, default=60, help="of timing per length and number of threads")
    parser.add_argument("--quick", action="store_true", help="short sequences, 3 tangents, 2 rounds: whether it runs")
    parser.add_argument("--out", default="attention", help="name of the result file, or a path that ends in .json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.tangents, options.rounds = [16, 33], 3, 2
    if options.worker:
        work(options)
        return
    results = []
    for threads in options.threads:
        results += harness.run_on(threads, [__file__, *sys.argv[1:], "--threads", str(threads)])
    document = {"heads": HEADS, "depth": DEPTH, "epsilon": EPSILON, "results": results}
    print("written to", harness.write(options.out, document))


if __name__ == "__main__":
    main()
