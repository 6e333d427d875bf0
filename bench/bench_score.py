"""Question: how much faster do lanes score a model than a serial loop over its variants, on one thread?

Three ways to get the same damages of `lorenz-gru` (28 variants: 7 layers at 4 bit-widths), in turn in the same run:

    lanes    all variants folded into the batch (engine "torch")
    serial   one variant at a time through the engine's own serial path (engine "serial")
    copies   the plainest loop: a deep copy of the module per variant, its weight replaced, rolled out by torch alone

and what a perfect machine would need: the multiply-adds of all lanes at the float32 rate that a large matrix product
reaches here in the same run.

    python bench/bench_score.py
"""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch

import harness
import tqs_fast as tqs
from tqs_fast.engines import Lane, Reference, fold, roll_outputs, roll_reference, run_lanes, run_serial
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.systems import States, draw

HORIZON = 64
BITS = (2, 3, 4, 8)


def roll_copies(
    system: tqs.System, states: States, reference: Reference, names: list[str], lanes: list[Lane]
) -> torch.Tensor:
    """Damages [lanes, N] by copying the module for every lane."""
    damages = []
    for lane in lanes:
        module = copy.deepcopy(system.module)
        for index, tensor in lane.changes.items():
            module.get_parameter(names[index]).data.copy_(tensor)
        outputs = roll_outputs(system, states, len(reference.outputs), module=module)
        error = (outputs.double() - reference.outputs.double()) / reference.scale
        damages.append(error.square().mean(dim=(0, 2)))
    return torch.stack(damages)


def peak_flops(size: int = 1024, rounds: int = 9) -> float:
    """Float32 multiply-adds per second, times two, of a square product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = harness.paired({"product": lambda: a @ b}, rounds)["product"]
    return float(2 * size**3 / statistics.median(seconds))


def measure(count: int) -> dict[str, Any]:
    system = tqs.load_system("lorenz-gru")
    weights = find_weights(system.module)
    parameters = [parameter_of(system.module, weight) for weight in weights]
    states = draw(tqs.Attractor(count=count), system, horizon=HORIZON, seed=0)
    reference = roll_reference(system, states, HORIZON)
    folding = fold(system, states, parameters)
    quantizer = tqs.Quantizer()
    lanes = [Lane({i: quantizer.dequantized(p.detach(), b)}) for i, p in enumerate(parameters) for b in BITS]
    names = [weight.name for weight in weights]
    ways = {
        "lanes": lambda: run_lanes(system, states, reference, parameters, lanes, folding).samples,
        "serial": lambda: run_serial(system, states, reference, parameters, lanes).samples,
        "copies": lambda: roll_copies(system, states, reference, names, lanes),
    }
    for way in ("serial", "copies"):
        torch.testing.assert_close(ways[way](), ways["lanes"](), rtol=1e-2, atol=1e-9)
    seconds = harness.paired(ways)
    flops = 2 * sum(p.numel() for p in parameters) * count * len(lanes) * HORIZON
    limit = flops / peak_flops()
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "initial_conditions": count,
        "lanes": len(lanes),
        "horizon": HORIZON,
        "seconds": medians,
        "serial / lanes": harness.ratio(seconds, "serial", "lanes"),
        "copies / lanes": harness.ratio(seconds, "copies", "lanes"),
        "limit_seconds": limit,
        "limit / lanes": limit / medians["lanes"],
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(count) for count in (1, 4, 16, 64)]
    for row in rows:
        copies = row["copies / lanes"]
        print(
            f"N = {row['initial_conditions']:3}: lanes {row['seconds']['lanes'] * 1e3:7.1f} ms, "
            f"serial path {row['serial / lanes']['median']:5.2f}x, "
            f"module copies {copies['median']:5.2f}x ({copies['min']:.2f} to {copies['max']:.2f}), "
            f"{100 * row['limit / lanes']:.0f} % of the machine's float32 rate"
        )
    print("written to", harness.write("score", {"rows": rows}))


if __name__ == "__main__":
    main()
