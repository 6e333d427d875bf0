"""Question: how much of the first-order plan's damage does measured search leave at the same size, and at what cost?

Scores every built-in system with three seeds, allocates at the bytes of the uniform 3- and 4-bit models, searches, and
judges the packed models on initial conditions that neither scoring nor search nor its decision saw: other seeds of the
same kind, and real recordings. `kept` says which plan the search returned; "start" means that it found nothing better.

    python bench/bench_search.py [--systems lorenz-gru fracast silero-vad] [--seeds 3] [--evaluations 200]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import harness
import tqs_fast as tqs
from bench_plans import SETTINGS

EVALUATIONS = {"fracast": 100}  # a rollout of fracast takes a hundred times as long as one of the others


def run(name: str, seed: int, row_blocks: int, evaluations: int | None) -> list[dict[str, Any]]:
    system, setting = tqs.load_system(name), SETTINGS[name]
    start = time.perf_counter()
    table = tqs.score(system, horizon=setting.horizon, initial=setting.scored_on, seed=seed, row_blocks=row_blocks)
    score_seconds = time.perf_counter() - start
    rows = []
    for bits in (3, 4):
        size = sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers)
        plans = {method: tqs.allocate(table, bytes=size, method=method) for method in ("uniform", "knapsack")}
        start = time.perf_counter()
        limit = evaluations or EVALUATIONS.get(name, 200)
        found = tqs.search(system, table, plans["knapsack"], evaluations=limit, seed=seed)
        seconds = time.perf_counter() - start
        plans["searched"] = found.plan
        models = {method: tqs.quantize(system.module, plan) for method, plan in plans.items()}
        for judged, initial in setting.judged_on(1000 + seed).items():
            errors = {
                method: tqs.evaluate(system, model, horizon=setting.horizon, initial=initial, seed=1000 + seed)
                for method, model in models.items()
            }
            ratio, low, high = errors["searched"].ratio(errors["knapsack"])
            row = {
                "system": name, "horizon": setting.horizon, "row_blocks": row_blocks, "seed": seed, "bits": bits,
                "judged_on": judged, "damage": {method: error.damage for method, error in errors.items()},
                "searched_over_knapsack": ratio, "interval": [low, high],
                "searched_over_uniform": errors["searched"].ratio(errors["uniform"])[0],
                "bytes": {method: plan.bytes for method, plan in plans.items()}, "budget": size,
                "kept": found.chosen, "stopped": found.stopped, "evaluations": found.evaluations,
                "rank_correlation": found.rank_correlation,
                "decided": {candidate.name: candidate.error.damage for candidate in found.candidates},
                "score_seconds": score_seconds, "search_seconds": seconds, "plan": found.plan.bits,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{name:11} blocks {row_blocks} seed {seed} {bits} bits {judged:16} "
                + " ".join(f"{method} {error.damage:8.3g}" for method, error in errors.items())
                + f" searched/knapsack {ratio:4.2f} ({low:.2f} to {high:.2f}), kept {found.chosen}, "
                f"{found.evaluations} plans in {seconds:.1f} s",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--row-blocks", type=int, nargs="+", help="in place of each system's own")
    parser.add_argument("--evaluations", type=int, help="in place of 200 (fracast: 100)")
    parser.add_argument("--out", default="search", help="name of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for name in arguments.systems
        for row_blocks in arguments.row_blocks or SETTINGS[name].row_blocks
        for seed in range(arguments.seeds)
        for row in run(name, seed, row_blocks, arguments.evaluations)
    ]
    print("written to", harness.write(arguments.out, {"rows": rows}))


if __name__ == "__main__":
    main()
