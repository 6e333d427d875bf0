"""Question: how much of the rollout damage of round-to-nearest do compensating quantizers leave, on trained systems?

    python bench/bench_compensated_rollouts.py
    python bench/bench_compensated_rollouts.py --systems lorenz-gru --seeds 1 --methods gptq sensitivity

Every system of `bench/evaluate` (see there for what it needs), uniform plans of 2, 3 and 4 bits and plans that the
knapsack mixes at the same sizes. Inputs of the layers are seen along rollouts from self-generated initial conditions,
with another seed each time; damage is judged on states that neither scoring nor compensation saw: the model's own
attractor with other seeds, true states, recordings. All judged families count equally; every ratio pairs initial
conditions. A summary over cells leaves out those where nearest codes are saturated (damage above 0.3): what is left of
a trajectory there is chance.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch

import harness
import tqs_fast as tqs
from evaluate.subject import Subject
from evaluate.systems import catalogue
from evaluate.systems.trained import default_cache
from tqs_fast.rewriting import rewrite

METHODS = {
    "gptq, stored order": tqs.Compensation("gptq", act_order=False),
    "gptq": tqs.Compensation("gptq"),
    "sensitivity": tqs.Compensation("sensitivity"),
    "sensitivity, 2 sweeps": tqs.Compensation("sensitivity", sweeps=2),
    "gptq, trajectory": tqs.Compensation("gptq", weighting="trajectory"),
    "sensitivity, trajectory": tqs.Compensation("sensitivity", weighting="trajectory"),
    "sensitivity, 2 sweeps, trajectory": tqs.Compensation("sensitivity", weighting="trajectory", sweeps=2),
    "obq": tqs.Compensation("obq"),
}
BITS, SATURATED = (2, 3, 4), 0.3
collect = rewrite.collect_hessians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(catalogue.NAMES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--horizon", type=int, default=32)
    parser.add_argument("--damping", type=float)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", default="compensated_rollouts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells: list[dict[str, Any]] = []
    for name in options.systems:
        subject = catalogue.load(name, options.cache)
        cells += run(subject, options)
        report = {"horizon": options.horizon, "summary": summary(cells), "cells": cells}
        path = harness.write(options.out, report)  # after every system: a long run may be stopped
    for row in report["summary"]:
        print(row)
    print("written to", path)


def run(subject: Subject, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells of one system."""
    system, cells = subject.system, []
    plans = planned(subject, options.horizon)
    for seed in range(options.seeds):
        rewrite.collect_hessians = partial(remembered, {})  # what is seen does not depend on plan or method
        # torch, because to capture each of fifty packed models takes longer than to roll it out once
        judged = [judge.initial for judge in subject.judges(2000 + seed, options.horizon)]
        question = {"horizon": options.horizon, "initial": judged, "seed": 2000 + seed, "engine": "torch"}
        for (kind, bits), plan in plans.items():
            nearest = tqs.evaluate(system, tqs.quantize(system.module, plan), **question)
            found = {}
            for name in options.methods:
                changes = {} if options.damping is None else {"damping": options.damping}
                settings = tqs.Compensation(
                    **{**vars(METHODS[name]), "seed": 100 + seed, "horizon": options.horizon, **changes}
                )
                begin = time.perf_counter()
                small = tqs.quantize(
                    system.module, plan, method=settings, system=system, initial=list(subject.scored_on)
                )
                seconds = time.perf_counter() - begin
                error = tqs.evaluate(system, small, **question)
                found[name] = {
                    "damage": error.damage,
                    "ratio": error.ratio(nearest),
                    "seconds": seconds,
                    "output_error_over_nearest": output_error(small),
                }
            cells.append(
                {"system": system.name, "plan": kind, "bits": bits, "seed": seed, "rtn": nearest.damage, "of": found}
            )
            print(line(cells[-1]), flush=True)
    return cells


def planned(subject: Subject, horizon: int) -> dict[tuple[str, int], tqs.Plan]:
    """Uniform plans, and those of the knapsack at their sizes."""
    table = tqs.score(
        subject.system, horizon=horizon, initial=list(subject.scored_on), method=tqs.Residual(), progress=False
    )
    plans = {}
    for bits in BITS:
        size = sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers)
        plans["uniform", bits] = tqs.allocate(table, bytes=size, method="uniform")
        if bits > min(BITS):
            plans["mixed", bits] = tqs.allocate(table, bytes=size)
    return plans


def remembered(
    known: dict[tuple[str, int], Any], module: Any, weights: Any, system: Any, settings: Any, initial: Any
) -> Any:
    """`collect_hessians`, once per weighting and seed."""
    key = settings.weighting, settings.seed
    if key not in known:
        known[key] = collect(module, weights, system, settings, initial)
    return known[key]


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean of damage over that of nearest codes, by plan, bits and method."""
    rows = []
    for kind, bits in sorted({(cell["plan"], cell["bits"]) for cell in cells}):
        chosen = [cell for cell in cells if (cell["plan"], cell["bits"]) == (kind, bits)]
        clear = [cell for cell in chosen if cell["rtn"] <= SATURATED]
        for name in chosen[0]["of"]:
            everything = [cell["of"][name]["ratio"][0] for cell in chosen]
            ratios = [cell["of"][name]["ratio"] for cell in clear]
            rows.append(
                {
                    "plan": kind, "bits": bits, "method": name, "cells": len(chosen), "unsaturated": len(clear),
                    "ratio": mean([ratio[0] for ratio in ratios]), "ratio_of_all": mean(everything),
                    "output_error_over_nearest": mean(
                        [cell["of"][name]["output_error_over_nearest"] for cell in chosen]
                    ),
                    "significantly_better": sum(ratio[2] < 1 for ratio in ratios),
                    "significantly_worse": sum(ratio[1] > 1 for ratio in ratios),
                    "worst": max((ratio[0] for ratio in ratios), default=None),
                }
            )  # fmt: skip
    return rows


def output_error(small: Any) -> float:
    """Squared error of the outputs of weights over that of the nearest codes, geometric mean over weights."""
    return float(
        np.exp(np.mean(np.log(list(small.tqs_plan.provenance["compensation"]["output_error_over_nearest"].values()))))
    )


def mean(ratios: list[float]) -> float | None:
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None


def line(cell: dict[str, Any]) -> str:
    return (
        f"{cell['system']:20} {cell['plan']:7} {cell['bits']} bits seed {cell['seed']}: rtn {cell['rtn']:.3g}; "
        + ", ".join(f"{name} {found['ratio'][0]:.3f}" for name, found in cell["of"].items())
    )


if __name__ == "__main__":
    main()
