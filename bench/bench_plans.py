"""Question: at the size of uniform 3- and 4-bit models, how much damage does an allocated plan leave of the uniform
one?

Scores every built-in system with three seeds, allocates at the bytes of the uniform model, and judges both packed
models
on initial conditions that scoring never saw: other seeds of the same kind, and real recordings. Also prints the ratio
that an ideal plan would reach if damage obeyed c_l 4^-b with real-valued bits (the weighted geometric over the weighted
arithmetic
mean of the layers' sensitivity per weight): how much there is to win at all.

    python bench/bench_plans.py [--systems lorenz-gru fracast silero-vad] [--seeds 3] [--row-blocks 1 4]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import tqs_fast as tqs
from tqs_fast.systems import lorenz_contexts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import series

Families = list[Any]


@dataclass(frozen=True)
class Setting:
    """How one system is scored, and on what it is judged (a function of the seed, never the one scoring used)."""

    horizon: int
    scored_on: Families
    judged_on: Callable[[int], dict[str, Families]]
    row_blocks: tuple[int, ...]


def lorenz(seed: int) -> dict[str, Families]:
    return {"attractor": [tqs.Attractor(count=256)], "true Lorenz-63": [lorenz_contexts(256, seed=seed)]}


def fracast(seed: int) -> dict[str, Families]:
    real = {
        name: [tqs.Contexts(series.windows(values, count=4, seed=seed), name=name, allow_nan=True)]
        for name, values in series.series().items()
    }
    return {"synthetic": [tqs.Synthetic(count=12)], **real}


def silero(seed: int) -> dict[str, Families]:
    judged: dict[str, Families] = {"synthetic speech": [tqs.Attractor(count=64)]}
    recorded = series.speech(64, SETTINGS["silero-vad"].horizon, seed=seed)
    if recorded is not None:
        state = tqs.load_system("silero-vad").initial_state(64, torch.Generator())
        judged["recorded speech"] = [tqs.Contexts(state, inputs=torch.from_numpy(recorded), name="speech")]
    return judged


SETTINGS = {
    "lorenz-gru": Setting(32, [tqs.Attractor(count=128)], lorenz, (1, 4)),
    "fracast": Setting(96, [tqs.Synthetic(count=12)], fracast, (1,)),
    "silero-vad": Setting(96, [tqs.Attractor(count=64)], silero, (1, 4)),
}


def ideal_ratio(table: tqs.Sensitivity, bits: int) -> float:
    """min Σ c_l 4^-b_l at the mean of `bits`, over Σ c_l 4^-bits, from the damages measured at `bits`."""
    sizes = np.array([layer.parameters for layer in table.layers], dtype=float)
    per_weight = np.maximum(table.damage[:, table.bits.index(bits)], 1e-12) / sizes
    shares = sizes / sizes.sum()
    return float(np.exp(shares @ np.log(per_weight)) / (shares @ per_weight))


def run(name: str, seed: int, row_blocks: int, horizon: int | None) -> list[dict[str, Any]]:
    system, setting = tqs.load_system(name), SETTINGS[name]
    setting = replace(setting, horizon=horizon or setting.horizon)
    start = time.perf_counter()
    table = tqs.score(system, horizon=setting.horizon, initial=setting.scored_on, seed=seed, row_blocks=row_blocks)
    seconds = time.perf_counter() - start
    rows = []
    for bits in (3, 4):
        size = sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers)
        plans = {method: tqs.allocate(table, bytes=size, method=method) for method in ("knapsack", "uniform")}
        models = {method: tqs.quantize(system.module, plan) for method, plan in plans.items()}
        for judged, initial in setting.judged_on(1000 + seed).items():
            errors = {
                method: tqs.evaluate(system, model, horizon=setting.horizon, initial=initial, seed=1000 + seed)
                for method, model in models.items()
            }
            ratio, low, high = errors["knapsack"].ratio(errors["uniform"])
            row = {
                "system": name, "horizon": setting.horizon, "row_blocks": row_blocks,
                "seed": seed, "bits": bits, "judged_on": judged,
                "ratio": ratio, "interval": [low, high], "ideal_ratio": ideal_ratio(table, bits),
                "damage": {method: error.damage for method, error in errors.items()},
                "predicted": {method: plan.predicted_damage for method, plan in plans.items()},
                "bytes": {method: plan.bytes for method, plan in plans.items()},
                "plan": plans["knapsack"].bits, "score_seconds": seconds,
            }  # fmt: skip
            rows.append(row)
            allocated, uniform = errors["knapsack"].damage, errors["uniform"].damage
            print(
                f"{name:11} blocks {row_blocks:2} seed {seed} {bits} bits {judged:16} allocated {allocated:9.3g} "
                f"uniform {uniform:9.3g} ratio {ratio:5.2f} ({low:.2f} to {high:.2f}), "
                f"ideal {row['ideal_ratio']:.2f}, scored in {seconds:.1f} s",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--row-blocks", type=int, nargs="+", help="in place of each system's own")
    parser.add_argument("--horizon", type=int, help="in place of each system's own (lorenz-gru, fracast)")
    parser.add_argument("--out", default="plans", help="name of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for name in arguments.systems
        for row_blocks in arguments.row_blocks or SETTINGS[name].row_blocks
        for seed in range(arguments.seeds)
        for row in run(name, seed, row_blocks, arguments.horizon)
    ]
    print("written to", harness.write(arguments.out, {"rows": rows}))


if __name__ == "__main__":
    main()
