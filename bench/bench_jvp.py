"""Question: how fast is a rollout with a batch of tangents, next to the best of JAX and PyTorch and to the machine?

64 steps with 16 tangents of the state, float32, for a GRU, a three-layer LSTM, a causal transformer with learned
positions whose window slides, one with rotary positions whose context grows (recomputed, and with cached keys and
values), and a Mamba-like selective scan (bench/jvp). All contestants of a network take turns in the same process,
once per number of threads:

    native                `tqs.rollout(..., tangents=..., engine="native")`
    jax jvp               jit(vmap(jvp(scan)))                    jax by hand   stacked tangents written out (GRU)
    jax differences       jit of the scan over stacked forward differences
    func rollout          torch.func: vmap(jvp(rollout))          func steps    vmap(jvp(step)), step by step
    compiled steps        torch.compile of the latter             by hand       eager torch, written out (GRU)
    differences           eager torch over stacked forward differences
    compiled differences  torch.compile of that step

Some also run a form of the network written for them (last layer at the last position only, equations written out).
Every result is compared with central differences of the float64 rollout first: a wrong one is reported and not timed,
and one that cannot run is reported with what it raised. The limit is the time of 1 + K forward passes' matrix products
at the float32 rate of the cores, measured in the same rounds. Every contestant's first call (tracing, compiling) is
apart from its median.

Extras: `pip install -r bench/peers.txt` (never needed by the package), and a C++ compiler for torch.compile and the
limit.

    python bench/bench_jvp.py                      all networks, one thread and two (about an hour)
    python bench/bench_jvp.py --quick --out quick.json
    python bench/bench_jvp.py --networks gru lstm --only native jax --threads 1
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import harness
import limit
from jvp import truth
from jvp.form import Contestant, Form, Network
from jvp.recurrent import gru, lstm
from jvp.rotary import rotary
from jvp.selective_scan import selective_scan
from jvp.transformer import transformer

NETWORKS: dict[str, Callable[[int], Network]] = {
    "gru": gru,
    "lstm": lstm,
    "transformer": transformer,
    "rotary": rotary,
    "rotary-window": partial(transformer, rotary=True),
    "selective-scan": selective_scan,
}
DEFAULT_NETWORKS = [name for name in NETWORKS if name != "rotary-window"]  # costs what `transformer` costs
EPSILON = (
    1e-3  # of forward differences in float32: rounding 2^-24 / epsilon, truncation epsilon / 2 times the curvature
)

# name -> (file of bench/jvp, function, its further arguments); a file is imported when a contestant needs it.
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "native": ("native", "rollout", {}),
    "jax jvp": ("jax_ways", "jvp", {}),
    "jax by hand": ("by_hand_jax", "gru", {}),
    "jax differences": ("jax_ways", "differences", {"epsilon": EPSILON}),
    "func rollout": ("torch_ways", "func_rollout", {}),
    "func steps": ("torch_ways", "func_steps", {}),
    "compiled steps": ("torch_ways", "compiled_steps", {}),
    "by hand": ("by_hand", "gru", {}),
    "differences": ("torch_ways", "differences", {"epsilon": EPSILON}),
    "compiled differences": ("torch_ways", "differences", {"epsilon": EPSILON, "inductor": True}),
}


def build(way: str, form: Form, horizon: int) -> Contestant:
    file, function, further = WAYS[way]
    contestant: Contestant = getattr(importlib.import_module(f"jvp.{file}"), function)(form, horizon, **further)
    return contestant


def prepare(
    way: str, form: Form, horizon: int, expected: truth.Truth
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """What is known of a contestant before it is timed, and the call to time (None where it failed or is wrong)."""
    row: dict[str, Any] = {"way": way, "note": form.note}
    start = time.perf_counter()
    try:
        contestant = build(way, form, horizon)
        result = contestant.call()
        row["first_seconds"] = time.perf_counter() - start
        row["error"] = expected.error(contestant.read(result))
    except Exception as error:  # what a way cannot do is a result of this bench
        return row | {"failed": f"{type(error).__name__}: {str(error).strip()[:600]}"}, None
    row["tolerance"] = truth.DIFFERENCES if "differences" in way else truth.EXACT
    row["wrong"] = not row["error"] <= row["tolerance"]
    return row, None if row["wrong"] else contestant.call


def measure(network: Network, expected: truth.Truth, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """All contestants of one network in turn."""
    contestants: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for form_name, form in network.forms.items():
        for way in form.ways:
            name = way if form_name == "plain" else f"{way} ({form_name})"
            if options.only and not any(word in name for word in options.only):
                continue
            row, call = prepare(way, form, options.horizon, expected)
            contestants[name] = row
            print(f"  {name:40} {describe(row)}", flush=True)
            if call:
                calls[name] = call
    peak = limit.peak(threads)
    rates: list[float] = [peak.measure() for _ in range(9)]
    calls["limit"] = lambda: rates.append(peak.measure())
    estimates = harness.one_call(calls)
    rounds = options.rounds or harness.rounds_within(options.seconds, estimates, 5, 41)
    seconds = harness.interleaved(calls, rounds, estimates)
    del seconds["limit"]
    for name, samples in seconds.items():
        contestants[name] |= {"median_seconds": statistics.median(samples), "seconds": samples}
    ours = [name for name in seconds if name.startswith("native")]
    lanes = 1 + options.tangents
    flops = {form: lanes * count_flops(network.forms[form], options.horizon) for form in {"plain", network.counted}}
    limits = {form: count / max(rates) for form, count in flops.items()}
    return {
        "network": network.name, "threads": threads, "steps": options.horizon, "tangents": options.tangents,
        "parameters": sum(p.numel() for p in network.plain.system.module.parameters()), "rounds": rounds,
        "truth_uncertainty": expected.uncertainty, "contestants": contestants,
        "ratios": {a: {b: harness.ratio(seconds, a, b) for b in seconds if b != a} for a in ours},
        "float32_per_second": max(rates), "limit_source": peak.source, "limit_form": network.counted,
        "flops": flops, "limit_seconds": limits[network.counted],
    }  # fmt: skip


def count_flops(form: Form, horizon: int) -> int:
    """Of `horizon` steps without tangents."""
    return limit.count_flops(lambda: truth.roll(form, form.system.module, form.state, horizon))


def describe(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed'].splitlines()[0][:110]}"
    verdict = "WRONG, " if row["wrong"] else ""
    return f"{verdict}error {row['error']:.1e}, first call {row['first_seconds']:.2f} s"


def show(result: dict[str, Any]) -> None:
    """The table of one network, fastest first."""
    timed = {name: row for name, row in result["contestants"].items() if "median_seconds" in row}
    limit_seconds = result["limit_seconds"]
    print(
        f"{result['network']}, {result['threads']} thread(s), {result['rounds']} rounds, limit "
        f"{limit_seconds * 1e3:.2f} ms at {result['float32_per_second'] / 1e9:.0f} GFLOP/s"
    )
    for name, row in sorted(timed.items(), key=lambda item: item[1]["median_seconds"]):
        found = result["ratios"].get("native", {}).get(name)
        ratio = f"native / it {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""
        share = 100 * limit_seconds / row["median_seconds"]
        print(f"  {name:40} {row['median_seconds'] * 1e3:10.2f} ms  {share:5.1f} % of the limit  {ratio}")
    print(flush=True)


def work(options: argparse.Namespace) -> None:
    """One process, one number of threads: every network, results to `options.worker`."""
    threads = options.threads[0]
    torch.set_num_threads(threads)
    results = []
    for name in options.networks:
        expected = torch.load(truth_path(options, name), weights_only=False)
        print(f"{name}, {threads} thread(s)", flush=True)
        results.append(measure(NETWORKS[name](options.tangents), expected, options, threads))
        show(results[-1])
        torch.compiler.reset()
    Path(options.worker).write_text(json.dumps(results))


def truth_path(options: argparse.Namespace, network: str) -> Path:
    return Path(options.truths) / f"{network}.pt"


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in ("jax", "jaxlib", "torch") if name in installed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=DEFAULT_NETWORKS, choices=list(NETWORKS))
    parser.add_argument("--only", nargs="+", help="contestants whose name holds one of these words")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--tangents", type=int, default=16)
    parser.add_argument("--rounds", type=int, help="in place of what fits into --seconds")
    parser.add_argument("--seconds", type=float, default=240, help="of timing per network and number of threads")
    parser.add_argument("--quick", action="store_true", help="4 steps, 3 tangents, 2 rounds: whether everything runs")
    parser.add_argument("--out", default="jvp", help="name of the result file, or a path that ends in .json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--truths", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.horizon, options.tangents, options.rounds = 4, 3, 2
    if options.worker:
        work(options)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        options.truths = folder
        for name in options.networks:
            network = NETWORKS[name](options.tangents)
            torch.save(truth.find_truth(network.plain, options.horizon), truth_path(options, name))
        for threads in options.threads:
            given = ["--threads", str(threads), "--truths", folder]
            results += harness.run_on(threads, [__file__, *sys.argv[1:], *given])
    document = {"peers": versions(), "epsilon": EPSILON, "results": results}
    print("written to", harness.write(options.out, document))


if __name__ == "__main__":
    main()
