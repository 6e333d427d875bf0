"""Question: how long does it take from nothing to a searched 4-bit plan?

For every system of the suite (bench/evaluate) a fresh process: start it and import, load the model, score every layer
by measured rollouts at 2, 3, 4 and 8 bits, allocate at the bytes of the uniform 4-bit model, measure up to 400 whole
plans, pack the model, and judge it on initial conditions that neither scoring nor search saw. Horizon 32, initial
conditions as in the suite. Wall seconds on a machine that should do nothing else, one run for each seed; training is
not part of it.

Needs the checkpoints of `python bench/evaluate train` and `bench/evaluate/requirements.txt`.

    python bench/bench_from_nothing.py
    python bench/bench_from_nothing.py --systems lorenz-gru --threads 1 --out quick.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import harness
import tqs_fast as tqs
from evaluate.cells import JUDGE_SEED, size
from evaluate.methods import METHODS, Searched
from evaluate.systems import catalogue, trained

HORIZON, BITS = 32, 4
EVALUATIONS = next(method.evaluations for method in METHODS if isinstance(method, Searched))
STAGES = ("start", "load", "score", "allocate", "search", "quantize", "evaluate")


def run_one(name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All stages, in this process."""
    torch.set_num_threads(options.threads)
    seconds = {"start": time.time() - options.began}

    def timed(stage: str, call: Any) -> Any:
        begin = time.perf_counter()
        result = call()
        seconds[stage] = time.perf_counter() - begin
        return result

    subject = timed("load", lambda: catalogue.load(name, options.cache))
    system, initial = subject.system, list(subject.scored_on)
    table = timed("score", lambda: tqs.score(system, horizon=HORIZON, initial=initial, seed=seed))
    budget = size(table, BITS)
    plan = timed("allocate", lambda: tqs.allocate(table, bytes=budget))
    uniform = tqs.allocate(table, bytes=budget, method="uniform")
    found = timed(
        "search",
        lambda: tqs.search(system, table, plan, evaluations=EVALUATIONS, initial=initial, seed=seed),
    )
    packed = timed("quantize", lambda: tqs.quantize(system.module, found.plan))
    judge = {"horizon": HORIZON, "initial": initial, "seed": JUDGE_SEED + seed}
    error = timed("evaluate", lambda: tqs.evaluate(system, packed, **judge))
    base = tqs.evaluate(system, tqs.quantize(system.module, uniform), **judge)
    return {
        "system": name, "seed": seed, "threads": options.threads, "layers": len(table.layers),
        "parameters": plan.parameters, "seconds": seconds, "evaluations": found.evaluations, "stopped": found.stopped,
        "over_uniform": list(error.ratio(base)),
    }  # fmt: skip


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(run_one(options.one, options, options.seeds[0])))
        return
    results = []
    for name in options.systems:
        for seed in options.seeds:
            command = [sys.executable, __file__, "--one", name, "--seeds", str(seed), "--threads", str(options.threads)]
            command += ["--cache", str(options.cache), "--began", str(time.time())]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result)
            stages = "  ".join(f"{stage} {result['seconds'][stage]:.2f}" for stage in STAGES)
            print(
                f"{name:21} {result['layers']:3} layers  {sum(result['seconds'].values()):6.1f} s  ({stages}; "
                f"{result['evaluations']} plans)  damage over uniform {result['over_uniform'][0]:.2f}",
                flush=True,
            )
    harness.STARTED["threads"] = options.threads
    print("written to", harness.write(options.out, {"horizon": HORIZON, "bits": BITS, "results": results}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(catalogue.NAMES), choices=catalogue.NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[10])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=trained.default_cache(), help="folder of checkpoints")
    parser.add_argument("--out", default="from_nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
