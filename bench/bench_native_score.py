"""Question: how much faster does the native engine score a model than lanes in torch, and than a loop over variants?

`tqs.score` of the built-in systems, Residual at 2, 3, 4 and 8 bits, 16 initial conditions (drawn once, not timed),
horizon 96, in turn in the same process, once per number of threads:

    native   engine "native"
    torch    engine "torch": all variants folded into the batch
    serial   engine "serial": one variant at a time through the engine's own path
    copies   the plainest loop: a deep copy of the module per variant, its weight replaced, rolled out by torch alone

The tables must agree before anything is timed: errors (roots of damages) to ROUNDING, as in the tests, and beyond that
relatively. Two correct tables differ by rounding, which chaos multiplies: how much that is on each system is read off
"torch" against "serial", and nobody may be further than ALLOWANCE times that from "torch". The limit is the time of all
lanes' products at the float32 rate of the cores, measured in the same rounds.

    python bench/bench_native_score.py
    python bench/bench_native_score.py --quick --out quick.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import limit
import tqs_fast as tqs
from bench_score import roll_copies
from tqs_fast.engines import Lane, roll_reference
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.systems import States, draw
from tqs_fast.systems.initial import default_initial
from tqs_fast.systems.system import advance, input_at

SYSTEMS = ("lorenz-gru", "fracast", "silero-vad")
BITS = (2, 3, 4, 8)
ALLOWANCE = 10  # rounding errors are random: another sample of them may be several times larger
LONG = 60  # seconds: what takes longer is timed once, by its first call
ROUNDING = 2e-6  # of the scale of the outputs, over a rollout that amplifies it little
SMALLEST_DIFFERENCE = 1e-4  # relative, allowed where torch and serial happen to agree better

Damages = np.ndarray[Any, np.dtype[np.float64]]  # [layers, bits]


def score(system: tqs.System, states: States, horizon: int, engine: str) -> Damages:
    """The table of `tqs.score` from the given initial conditions."""
    start = tqs.Contexts(states.state, inputs=states.inputs)
    table = tqs.score(system, horizon=horizon, method=tqs.Residual(bits=BITS), initial=start, engine=engine)
    return np.asarray(table.damage)


def score_copies(system: tqs.System, states: States, horizon: int) -> Damages:
    """The same table by copying the module for every variant."""
    reference = roll_reference(system, states, horizon)
    quantizer = tqs.Quantizer()
    weights = find_weights(system.module)
    lanes = [
        Lane({index: quantizer.dequantized(parameter_of(system.module, weight).detach(), bits)})
        for index, weight in enumerate(weights)
        for bits in BITS
    ]
    samples = roll_copies(system, states, reference, [weight.name for weight in weights], lanes)
    return samples.mean(dim=1).reshape(len(weights), len(BITS)).numpy()


def difference(table: Damages, other: Damages) -> float:
    """Largest relative difference of two tables' errors (roots of damages), beyond what float32 leaves of an output."""
    apart = np.abs(np.sqrt(table) - np.sqrt(other))
    return float((np.maximum(apart - ROUNDING, 0) / np.maximum(np.sqrt(other), 1e-30)).max())


def measure(name: str, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    system = tqs.load_system(name)
    states = draw(default_initial(system, options.count), system, horizon=options.horizon)
    ways: dict[str, Callable[[], Damages]] = {
        engine: lambda engine=engine: score(system, states, options.horizon, engine)  # type: ignore[misc]
        for engine in ("native", "torch", "serial")
    }
    ways["copies"] = lambda: score_copies(system, states, options.horizon)
    ways = {way: call for way, call in ways.items() if not options.only or way in options.only}
    rows: dict[str, dict[str, Any]] = {}
    tables: dict[str, Damages] = {}
    for way, call in ways.items():
        start = time.perf_counter()
        try:
            tables[way] = call()
            rows[way] = {"first_seconds": time.perf_counter() - start}
        except Exception as error:  # what an engine cannot do is a result of this bench
            rows[way] = {"failed": f"{type(error).__name__}: {str(error).strip()[:600]}"}
    noise = difference(tables["serial"], tables["torch"]) if "serial" in tables else 0.0
    allowed = max(SMALLEST_DIFFERENCE, ALLOWANCE * noise)
    for way, table in tables.items():
        rows[way]["difference"] = difference(table, tables["torch"])
        rows[way]["wrong"] = not rows[way]["difference"] <= allowed
    right = [way for way in tables if not rows[way]["wrong"]]
    timed: dict[str, Callable[[], Any]] = {w: ways[w] for w in right if rows[w]["first_seconds"] < LONG}
    peak = limit.peak(threads)
    rates = [peak.measure() for _ in range(9)]
    estimates = {way: rows[way]["first_seconds"] for way in timed} | {"limit": 0.1}
    timed["limit"] = lambda: rates.append(peak.measure())
    rounds = options.rounds or harness.rounds_within(options.seconds, estimates, 3, 15)
    seconds = harness.interleaved(timed, rounds, estimates)
    del seconds["limit"]
    seconds |= {way: [rows[way]["first_seconds"]] for way in right if way not in seconds}
    for way, samples in seconds.items():
        rows[way] |= {"median_seconds": statistics.median(samples), "seconds": samples}
    lanes = tables["torch"].size
    step = limit.count_flops(lambda: advance(system, states.state, input_at(states.inputs, 0)))
    flops = step * system.steps(options.horizon) * lanes
    return {
        "system": name, "threads": threads, "initial_conditions": states.count, "horizon": options.horizon,
        "lanes": lanes, "rounds": rounds, "allowed_difference": allowed, "ways": rows,
        "ratios": {
            f"{way} / {base}": harness.ratio(seconds, way, base)
            for base in ("native", "torch") if base in seconds
            for way in seconds if way != base
        },
        "flops": flops, "float32_per_second": max(rates), "limit_source": peak.source,
        "limit_seconds": flops / max(rates),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['system']}, {result['threads']} thread(s): {result['lanes']} lanes of {result['initial_conditions']} "
        f"initial conditions, {result['horizon']} values; tables may differ by {result['allowed_difference']:.1e}"
    )
    for way, row in result["ways"].items():
        if "median_seconds" not in row:
            print(f"  {way:7} {row.get('failed') or 'WRONG, differs by {:.1e}'.format(row['difference'])}")
            continue
        ratios = [
            f"{name} {found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
            for name, found in result["ratios"].items()
            if name.startswith(f"{way} /")
        ]
        share = 100 * result["limit_seconds"] / row["median_seconds"]
        print(f"  {way:7} {row['median_seconds'] * 1e3:9.1f} ms  {share:5.1f} % of the limit  {'; '.join(ratios)}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--only", nargs="+", help="of native, torch, serial and copies; torch must be among them")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--count", type=int, default=16, help="initial conditions")
    parser.add_argument("--rounds", type=int, help="in place of what fits into --seconds")
    parser.add_argument("--seconds", type=float, default=240, help="of timing per system and number of threads")
    parser.add_argument("--quick", action="store_true", help="horizon 8, 2 initial conditions, 2 rounds")
    parser.add_argument("--out", default="native_score", help="name of the result file, or a path that ends in .json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.horizon, options.count, options.rounds = 8, 2, 2
    if options.worker:
        torch.set_num_threads(options.threads[0])
        results = []
        for name in options.systems:
            results.append(measure(name, options, options.threads[0]))
            show(results[-1])
        Path(options.worker).write_text(json.dumps(results))
        return
    results = [
        result
        for threads in options.threads
        for result in harness.run_on(threads, [__file__, *sys.argv[1:], "--threads", str(threads)])
    ]
    print("written to", harness.write(options.out, {"bits": BITS, "results": results}))


if __name__ == "__main__":
    main()
