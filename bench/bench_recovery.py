"""Question: what share of the damage of rounding does training win back, in how many steps and seconds?

    python bench/bench_recovery.py
    python bench/bench_recovery.py --systems lorenz-gru --seeds 1

Uniform plans of 2 and 3 bits, from the float weights and from compensated ones, with learned scales, with CAGE's
correction as its authors set it and ten times as strong, the control, and forward passes only.
Training and early stopping see self-generated states; damage is judged on others (see bench/evaluate).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch

import harness
import tqs_fast as tqs
from evaluate.systems import catalogue
from evaluate.systems.trained import default_cache
from tqs_fast.quantization.weights import find_weights
from tqs_fast.scoring import Layer

HORIZON = 32
RUNS = {
    "ste": {},
    "ste from compensated": {},
    "ste, learned scales": {"scales": "learned"},
    "ste from compensated, learned scales": {"scales": "learned"},
    "cage": {"method": "cage"},
    "cage, correction 100": {"method": "cage", "correction": 100.0},
    "zeroth-order": {"method": "zeroth-order"},
    "float-then-ptq": {"method": "float-then-ptq", "steps": 10},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["lorenz-gru", "lstm-halvorsen", "mixer-pressure"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", default="recovery")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.systems:
        subject = catalogue.load(name, options.cache)
        for bits in (2, 3):
            for seed in range(options.seeds):
                rows += measure(subject, bits, seed, options.steps)
        path = harness.write(options.out, {"horizon": HORIZON, "rows": rows})
    print("written to", path)


def measure(subject: Any, bits: int, seed: int, steps: int) -> list[dict[str, Any]]:
    """Every run of one cell."""
    system = subject.system
    weights = find_weights(system.module)
    layers = tuple(Layer(w.name, w.kind, w.shape, w.parameters) for w in weights)
    plan = tqs.Plan({w.name: bits for w in weights}, layers)
    judged = [judge.initial for judge in subject.judges(3000 + seed, HORIZON)]
    question = {"horizon": HORIZON, "initial": judged, "seed": 3000 + seed, "engine": "torch"}
    nearest = tqs.evaluate(system, tqs.quantize(system.module, plan), **question)
    settings = tqs.Compensation(sweeps=2, horizon=HORIZON, seed=100 + seed)
    small = tqs.quantize(system.module, plan, method=settings, system=system)
    rows = []
    for name, changes in RUNS.items():
        start = small if "from compensated" in name else None
        found = tqs.recover(
            system,
            plan,
            quantized=start,
            horizon=HORIZON,
            seed=200 + seed,
            patience=1000,
            **{"steps": steps, **changes},
        )
        damage = tqs.evaluate(system, found.module, **question)
        best = found.history[found.best]
        rows.append(
            {
                "system": system.name, "bits": bits, "seed": seed, "run": name, "rtn": nearest.damage,
                "compensated": tqs.evaluate(system, small, **question).damage, "damage": damage.damage,
                "ratio": damage.ratio(nearest), "share": 1 - damage.damage / nearest.damage,
                "kept_step": best.step, "seconds": found.history[-1].seconds, "recovery": found.to_json(),
            }
        )  # fmt: skip
        ratio, low, high = rows[-1]["ratio"]
        print(
            f"{system.name:16} {bits} bits seed {seed} {name:36} rtn {nearest.damage:.3g}, compensated "
            f"{rows[-1]['compensated']:.3g}, recovered {damage.damage:.3g}: {ratio:.3f} ({low:.3f} to {high:.3f}) "
            f"of rtn, step {best.step}, {found.history[-1].seconds:.0f} s",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
