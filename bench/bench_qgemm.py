"""Question: how fast are products with packed int4 and int8 weights, next to the best peers and to the machine?

y [M, N] = x [M, K] W [N, K]^T on the CPU (on a GPU: bench/gpu/products.py), everyone with the same codes and scales
(bench/qgemm), in turn in the same process, once per number of threads. Contestants are of two families:

    int8     activations rounded to int8: tqs-fast, ONNX Runtime (MatMulNBits at accuracy level 4,
             DynamicQuantizeMatMul), OpenVINO with dynamic quantization, torch linear_dynamic (fbgemm, oneDNN)
    float    activations as they are, float32 or bfloat16: tqs-fast, ONNX Runtime (accuracy level 0), OpenVINO,
             torch int4pack and int8pack, and the dequantized weight in torch (MKL, oneDNN)

Ours is compared with the best peer of its family, and with the best that takes the same type. A weight is hot (the same
again and again) or cold (copies in turn that exceed the last-level cache four times; where reading it could matter).
A hot call that takes more than 10 ms follows somebody else's and reads the weight once more, a few percent of its time.
Every result is compared with the float64 product first, element by element: a wrong one is reported and not timed.

The limit is the time of 2 M N K operations at the rate of the cores in registers (int8, bfloat16 or float32, by the
type of the activations), or cold that of reading the packed weight from memory if it is longer; both are measured in
the same rounds.

Extras: `pip install -r bench/qgemm/peers.txt` (never needed by the package), and a C compiler for the limits.

    python bench/bench_qgemm.py                     some layers and rows, one thread and two (about 15 minutes)
    python bench/bench_qgemm.py --quick --out quick.json
    python bench/bench_qgemm.py --shapes forecaster-1b 4096x4096 --groups 32 64 128 0 --rows 1 2 4 8 17 64 128 512
    python bench/bench_qgemm.py --plot docs/figures/qgemm.svg     of the results written before
    python bench/bench_qgemm.py --device cuda [--peers]
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import harness
from qgemm.contestant import Bind, Bound, to_array
from qgemm.layers import Layer, find_layers
from qgemm.limits import Machine, start_machine, with_limits
from qgemm.peaks import last_level_cache
from qgemm.ways import OURS, WAYS, Way, find_function, missing
from qgemm.weight import Problem, Weight, problem, unpack
from tqs_fast import kernels

SHAPES = (
    "4096x4096", "forecaster-200m:5120x1280", "forecaster-1b:2048x8192",
    "lorenz-gru:192x64", "silero-vad:512x128", "fracast:192x64",
)  # fmt: skip
ROWS = (1, 8, 17, 64, 512)
COLD = 4  # copies that are read in turn exceed the last-level cache so many times
MOST_COPIES = 192  # a weight that would need more stays in the cache of whoever uses it
LEAST_COLD = 0.02  # of the time of the operations, that reading the weight takes; below there is only "hot"
LEAST_ROUNDS, MOST_ROUNDS = 5, 31


def can_be_cold(weight: Weight, options: argparse.Namespace) -> bool:
    return "cold" in options.states and weight.packed.nbytes * MOST_COPIES >= options.cold_bytes


def is_cold(weight: Weight, rows: int, machine: Machine, options: argparse.Namespace) -> bool:
    """Whether the weight can be cold, and reading it from memory may matter."""
    rates = [rate for kind in ("float32", "bfloat16", "int8") if (rate := machine.best(kind))]
    bandwidth = machine.best("bytes")
    operations = 2 * rows * weight.codes.size / max(rates)
    matters = bandwidth is None or weight.packed.nbytes / bandwidth >= LEAST_COLD * operations
    return can_be_cold(weight, options) and matters


def copies_of(way: Way, weight: Weight, options: argparse.Namespace) -> int:
    """At least two, so that a mixed-up copy shows."""
    if not can_be_cold(weight, options):
        return 1
    size = weight.codes.size * way.bytes if way.bytes else weight.packed.nbytes
    return int(max(2, math.ceil(options.cold_bytes / size)))


def build(weight: Weight, threads: int, options: argparse.Namespace) -> dict[str, Bind | str]:
    """Every contestant with its copies, or why there is none."""
    built: dict[str, Bind | str] = {}
    for name, way in WAYS.items():
        if weight.packed.bits not in way.bits or missing(way.packages):
            continue
        if options.only and not any(word in name for word in options.only):
            continue
        try:
            built[name] = find_function(way)(weight, copies_of(way, weight, options), threads, **way.further)
        except Exception as error:  # what a peer cannot do is a result of this bench
            built[name] = describe(error)
    return built


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def prepare(name: str, bind: Bind | str, given: Problem, every_copy: bool) -> tuple[dict[str, Any], Bound | None]:
    """What is known of a contestant before it is timed, and its calls (None where it failed or is wrong)."""
    activations = WAYS[name].activations
    row: dict[str, Any] = {"activations": activations}
    if isinstance(bind, str):
        return row | {"failed": bind}, None
    try:
        bound = bind(given.x)
        outputs = bound.outputs() if every_copy else [bound.hot()]
        row["error"] = max(given.error(to_array(output), rows) for rows, output in enumerate(outputs))
    except Exception as error:  # likewise
        return row | {"failed": describe(error)}, None
    tolerance = given.tolerance(activations)
    if not row["error"] <= tolerance:
        return row | {"failed": f"WRONG: error {row['error']:.1e}, tolerance {tolerance:.1e}"}, None
    if activations == "int8" and row["error"] <= given.tolerance("float32"):
        return row | {"failed": "did not round activations to int8"}, None
    return row, bound


def measure_layer(
    layer: Layer, bits: int, group_size: int, machine: Machine, options: argparse.Namespace, threads: int
) -> list[dict[str, Any]]:
    """Every number of rows, hot and cold, of one weight in one format."""
    weight = unpack(kernels.pack(layer.read(), bits=bits, group_size=group_size, symmetric=not options.asymmetric))
    built = build(weight, threads, options)
    whole = problem(weight, max(options.rows))
    results = []
    for rows in options.rows:
        given = whole.first(rows)
        cold = is_cold(weight, rows, machine, options)
        checked = {name: prepare(name, bind, given, cold) for name, bind in built.items()}
        for state in ("hot", "cold") if cold else ("hot",):
            if state not in options.states:
                continue
            case = {
                "layer": layer.name, "M": rows, "N": layer.rows, "K": layer.columns, "bits": bits,
                "group_size": group_size, "symmetric": not options.asymmetric, "threads": threads, "state": state,
                "weight_bytes": weight.packed.nbytes,
            }  # fmt: skip
            bounds = {name: bound for name, (_, bound) in checked.items() if bound}
            samples = measure(bounds, state, machine, options)
            contestants = {name: row | summary(samples.get(name, [])) for name, (row, _) in checked.items()}
            ratios = {name: compare(name, samples) for name in OURS if name in samples}
            rounds = max(map(len, samples.values()), default=0)
            results.append(case | {"rounds": rounds, "contestants": contestants, "ours": ratios})
            show(with_limits(results[-1], machine))
    return results


def measure(
    bounds: dict[str, Bound], state: str, machine: Machine, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds per product of every contestant in every round, in turn with the machine's rates."""
    calls: dict[str, Callable[[], Any]] = {name: getattr(bound, state) for name, bound in bounds.items()}
    calls["limit"] = machine.sample
    estimates = harness.one_call(calls)
    rounds = options.rounds or harness.rounds_within(options.seconds, estimates, LEAST_ROUNDS, MOST_ROUNDS)
    samples = harness.interleaved(calls, rounds, estimates)
    products = {name: bound.products if state == "cold" else 1 for name, bound in bounds.items()}
    return {name: [sample / count for sample in samples[name]] for name, count in products.items()}


def summary(seconds: list[float]) -> dict[str, float]:
    return {"median_seconds": statistics.median(seconds), "min_seconds": min(seconds)} if seconds else {}


def compare(name: str, samples: dict[str, list[float]]) -> dict[str, Any]:
    """One of ours over the best peer of its family ("peer"), and over the best that takes the same type ("alike")."""
    found: dict[str, Any] = {}
    peers = [peer for peer in samples if peer not in OURS and WAYS[peer].family == WAYS[name].family]
    alike = [peer for peer in peers if WAYS[peer].activations == WAYS[name].activations]
    for kind, candidates in (("peer", peers), ("alike", alike)):
        if candidates:
            best = min(candidates, key=lambda peer: statistics.median(samples[peer]))
            found[kind] = {"best": best, "ratio": harness.ratio(samples, name, best)}
    return found


def show(case: dict[str, Any]) -> None:
    """The table of one case: families one after the other, each with its fastest first."""
    group = f"groups of {case['group_size']}" if case["group_size"] else "per channel"
    print(
        f"{case['layer']} [{case['N']}, {case['K']}], int{case['bits']} {group}{'' if case['symmetric'] else ', zeros'}"
        f", M = {case['M']}, {case['threads']} thread(s), {case['state']}"
    )
    rows = case["contestants"]
    for name in sorted(rows, key=lambda name: (WAYS[name].family, rows[name].get("median_seconds", math.inf))):
        print(f"  {name:25} {line(rows[name], case['ours'].get(name, {}))}")
    print(flush=True)


def line(row: dict[str, Any], ratios: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed'].splitlines()[0][:90]}"
    text = f"{row['median_seconds'] * 1e3:9.4f} ms"
    text += f"  {row['share']:5.1%} of the limit" if "share" in row else ""
    told = set()
    for found in ratios.values():
        if found["best"] not in told:
            ratio = found["ratio"]
            text += f"  {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) of {found['best']}"
        told.add(found["best"])
    return text


@torch.inference_mode()
def work(options: argparse.Namespace) -> None:
    """One process, one number of threads; results to `options.worker`."""
    threads = options.threads[0]
    torch.set_num_threads(threads)
    machine = start_machine(threads)
    results = []
    for layer in [layer for spec in options.shapes for layer in find_layers(spec)]:
        for bits, group_size in formats(options):
            results += measure_layer(layer, bits, group_size, machine, options, threads)
            gc.collect()
    limits = {
        kind: {"per_second": machine.best(kind), "source": peak.source}
        for kind, peak in machine.peaks.items() if peak
    }  # fmt: skip
    document = {"threads": threads, "limits": limits, "results": [with_limits(case, machine) for case in results]}
    Path(options.worker).write_text(json.dumps(rounded(document)))


def rounded(value: Any) -> Any:
    """Floats to four digits: there are ten thousand of them, and none is known better."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def formats(options: argparse.Namespace) -> list[tuple[int, int]]:
    """(bits, group size): int4 in every group size, int8 per channel."""
    return [(bits, group) for bits in options.bits for group in (options.groups if bits == 4 else [0])]


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in ("onnxruntime", "openvino", "torch") if name in installed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", nargs="+", help="NxK, a name, or name:NxK (qgemm/layers.py)")
    parser.add_argument("--rows", nargs="+", type=int, help="M")
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 8], choices=[4, 8])
    parser.add_argument("--groups", nargs="+", type=int, default=[128], choices=[32, 64, 128, 0], help="of int4")
    parser.add_argument("--asymmetric", action="store_true", help="weights with zero points")
    parser.add_argument("--states", nargs="+", default=["hot", "cold"], choices=["hot", "cold"])
    parser.add_argument("--only", nargs="+", help="contestants whose name holds one of these words")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, help="in place of what fits into --seconds")
    parser.add_argument("--seconds", type=float, default=2.5, help="of timing per case")
    parser.add_argument("--quick", action="store_true", help="small shapes, few copies, 2 rounds: whether all runs")
    parser.add_argument("--out", help="name of the result file, or a path that ends in .json")
    parser.add_argument("--plot", metavar="PATH", help="draw the results of --out (a run before) and end")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    on_gpu = parser.add_argument_group("with --device cuda")
    on_gpu.add_argument("--peers", action="store_true", help="gemlite and humming, too, which compile for minutes")
    on_gpu.add_argument("--within", type=float, default=240.0, help="seconds after which no new weight is begun")
    options = parser.parse_args()
    options.out = options.out or {"cpu": "qgemm", "cuda": "qgemm_cuda"}[options.device]
    if options.plot:
        source = Path(options.out if options.out.endswith(".json") else harness.RESULTS / f"{options.out}.json")
        importlib.import_module("qgemm.figure").draw(json.loads(source.read_text()), options.plot)
        return
    if options.quick:
        options.shapes, options.rows = ["512x384", "lorenz-gru:192x64"], [1, 9]
    if options.device == "cuda":
        products = importlib.import_module("gpu.products")
        options.shapes, options.rows = options.shapes or products.SHAPES, options.rows or products.ROWS
        products.run(options, formats(options))
        return
    options.shapes, options.rows = options.shapes or SHAPES, options.rows or ROWS
    options.cold_bytes = COLD * last_level_cache()
    if options.quick:
        options.rounds, options.cold_bytes = 2, 1
    if options.worker:
        work(options)
        return
    for package in missing(dict.fromkeys(package for way in WAYS.values() for package in way.packages)):
        print(f"{package} is not installed: its contestants are skipped (pip install -r bench/qgemm/peers.txt)")
    runs = [
        harness.run_on(threads, [__file__, *sys.argv[1:], "--threads", str(threads)]) for threads in options.threads
    ]
    document = {
        "peers": versions(),
        "limits": {run["threads"]: run["limits"] for run in runs},
        "results": [case for run in runs for case in run["results"]],
    }
    print("written to", harness.write(options.out, document))


if __name__ == "__main__":
    main()
