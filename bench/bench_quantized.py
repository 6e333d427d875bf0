"""Question: how fast and how small are quantized models next to their float originals under torch, on one thread?

64 steps of each built-in system from 1, 8 and 64 initial conditions (fracast: 1 and 8). All contestants of a system and
batch take turns in one process on one processor:

    float torch    the float model, a plain loop over its steps
    float native   `tqs.rollout(..., engine="native")`
    int8 torch     every weight packed at 8 bits, the drop-in modules in the same loop; int4 likewise
    int8 native    the same module in the native engine, packed weights as they are; int4 likewise

Milliseconds per rollout (medians), and the ratio to the float model under torch with a 95 % bootstrap interval. Before
that every native rollout is compared with the same module under torch over the first steps, where rounding has not
grown yet.

Bytes of the weights that are quantized: in float32; stored (codes, scales and zero points); as the native kernels read
them, prepacked, once per program; and, apart, in float32 again where there is no packed product (embeddings and
convolutions with short rows are dequantized).

    python bench/bench_quantized.py
    python bench/bench_quantized.py --quick --systems lorenz-gru --out quick.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

import harness
import tqs_fast as tqs
from tqs_fast.engines.prepared import prepared
from tqs_fast.quantization.weights import find_weights
from tqs_fast.rewriting import PackedTensor
from tqs_fast.scoring import Layer
from tqs_fast.systems.system import input_at
from tqs_fast.systems.tree import Tree

BATCHES = {"lorenz-gru": (1, 8, 64), "silero-vad": (1, 8, 64), "fracast": (1, 8)}
BITS = (8, 4)
BASE = "float torch"
COMPARED = 4  # steps
SEED = 0


def uniform(module: torch.nn.Module, bits: int) -> tqs.Plan:
    """Every weight that can be quantized, at `bits`."""
    weights = find_weights(module)
    layers = tuple(Layer(weight.name, weight.kind, weight.shape, weight.parameters) for weight in weights)
    return tqs.Plan({weight.name: bits for weight in weights}, layers, tqs.Quantizer())


def models(system: tqs.System) -> dict[str, tqs.System]:
    """The system with its float module, and with every packed one."""
    found = {"float": system}
    for bits in BITS:
        packed = copy.copy(system)
        packed.module = tqs.quantize(system.module, uniform(system.module, bits)).eval()
        found[f"int{bits}"] = packed
    return found


def loop(system: tqs.System, state: Tree, inputs: Tree | None, steps: int) -> torch.Tensor:
    """Outputs `[T, N, C]` of a plain loop in torch."""
    blocks = []
    with torch.no_grad():
        for t in range(steps):
            driven = () if inputs is None else (input_at(inputs, t),)
            state, output = system.step(system.module, state, *driven)
            blocks.append(output if output.dim() == 3 else output.unsqueeze(1))
    return torch.cat(blocks, dim=1).transpose(0, 1)


def roll(system: tqs.System, state: Tree, inputs: Tree | None, steps: int) -> torch.Tensor:
    """The same in the native engine."""
    return tqs.rollout(system, state, inputs=inputs, horizon=steps * system.block, engine="native").outputs


def weight_bytes(system: tqs.System, found: dict[str, tqs.System], state: Tree, horizon: int) -> dict[str, Any]:
    """Of the weights that are quantized, in all forms."""
    count = sum(weight.parameters for weight in find_weights(system.module))
    rows: dict[str, Any] = {"float": {"stored": count * 4}}
    for name, of in found.items():
        if name in rows:
            continue
        packed = {id(part): part for part in of.module.modules() if isinstance(part, PackedTensor)}.values()
        native = prepared(of, state, horizon=horizon)
        multiplied = sum(prod(weight.shape) for weight in native.program.packed)
        rows[name] = {
            "stored": sum(part.nbytes for part in packed),
            "prepacked": native.packed_bytes,
            "dequantized": (count - multiplied) * 4,
        }
    return rows


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square of a - b over that of b about its mean."""
    return float((a - b).double().square().mean().sqrt() / b.double().std(unbiased=False))


def measure(name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    system = tqs.load_system(name)
    generator = torch.Generator().manual_seed(SEED)
    state = system.initial_state(batch, generator)
    inputs = None if system.inputs is None else system.inputs(batch, options.steps, generator)
    found = models(system)
    few = min(COMPARED, options.steps)
    apart = {kind: difference(roll(of, state, inputs, few), loop(of, state, inputs, few)) for kind, of in found.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for kind, of in found.items():
        for engine, function in (("torch", loop), ("native", roll)):
            calls[f"{kind} {engine}"] = partial(function, of, state, inputs, options.steps)
    rounds = options.rounds
    if rounds is None:
        for call in calls.values():
            call()
        rounds = harness.rounds_within(options.seconds, harness.one_call(calls), 5, 31)
    seconds = harness.paired(calls, rounds)
    return {
        "system": name,
        "batch": batch,
        "steps": options.steps,
        "rounds": rounds,
        "native_minus_torch": apart,
        "bytes": weight_bytes(system, found, state, options.steps * system.block),
        "milliseconds": {call: statistics.median(row) * 1e3 for call, row in seconds.items()},
        "ratio_to_float_torch": {call: harness.ratio(seconds, call, BASE) for call in calls if call != BASE},
        "seconds": seconds,
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['system']}, batch {result['batch']}, {result['steps']} steps, {result['rounds']} rounds")
    for call, milliseconds in result["milliseconds"].items():
        found = result["ratio_to_float_torch"].get(call)
        ratio = f"{found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""
        print(f"  {call:14} {milliseconds:10.2f} ms  {ratio}")
    for kind, row in result["bytes"].items():
        sizes = ", ".join(f"{size} {form}" for form, size in row.items())
        print(f"  {kind:14} bytes: {sizes}; native differs from torch by {result['native_minus_torch'][kind]:.1e}")
    print(flush=True)


def work(options: argparse.Namespace) -> None:
    """The process of one thread: results to `options.worker`."""
    torch.set_num_threads(1)
    results = []
    for name in options.systems:
        for batch in options.batches or BATCHES[name]:
            results.append(measure(name, batch, options))
            show(results[-1])
    Path(options.worker).write_text(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--batches", nargs="+", type=int, help="in place of those of the system")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="in place of what fits into --seconds")
    parser.add_argument("--seconds", type=float, default=120, help="of timing per system and batch")
    parser.add_argument("--quick", action="store_true", help="4 steps, 2 rounds: whether everything runs")
    parser.add_argument("--out", default="quantized", help="name of the result file, or a path that ends in .json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds = 4, 2
    if options.worker:
        work(options)
        return
    results = harness.run_on(1, [__file__, *sys.argv[1:]])
    print("written to", harness.write(options.out, {"bits": BITS, "results": results}))


if __name__ == "__main__":
    main()
