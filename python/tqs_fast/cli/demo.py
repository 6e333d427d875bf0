"""`tqs-fast demo`: the whole way on the embedded model, from trained weights to a verified packed model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tqs_fast import allocation, rewriting, scoring
from tqs_fast._table import Table, format_count, format_number
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.systems import Attractor, load_system

SYSTEM = "lorenz-gru"
HORIZON = 32  # values of 0.02 time units: somewhat more than half a Lyapunov time, before 3-bit errors saturate
SCORED = Attractor(count=64)
JUDGED = Attractor(count=256)


def demo(
    bits: Annotated[int, typer.Option(help="The uniform bit-width whose size the plan must keep.")] = 4,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Score, allocate, quantize and verify the embedded Lorenz-63 forecaster."""
    start = time.perf_counter()
    system = load_system(SYSTEM)
    table = scoring.score(system, horizon=HORIZON, initial=SCORED, seed=seed, progress=not json)
    size = sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers)
    plans = {
        "uniform": allocation.allocate(table, bytes=size, method="uniform"),
        "allocated": allocation.allocate(table, bytes=size),
    }
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, plan in plans.items():
            # Saved and loaded again, so that what is judged is what would be shipped.
            path = Path(folder) / f"{name}.safetensors"
            rewriting.save(rewriting.quantize(system.module, plan), path)
            small = rewriting.load(system.module, path)
            errors[name] = scoring.evaluate(system, small, horizon=HORIZON, initial=JUDGED, seed=seed + 1)
    ratio, low, high = errors["allocated"].ratio(errors["uniform"])
    seconds = time.perf_counter() - start
    if json:
        print_json(
            {
                "sensitivity": table.to_json(),
                "plans": {name: plan.to_json() for name, plan in plans.items()},
                "errors": {name: error.to_json() for name, error in errors.items()},
                "ratio": {"value": ratio, "interval": [low, high]},
                "seconds": seconds,
            }
        )
        return
    print_table(table.table(), f"{SYSTEM}: damage of rounding one layer at a time")
    print_line("")
    print_table(plans["allocated"].table(), f"plan at the size of uniform {bits} bits")
    print_line("")
    floating = sum(4 * layer.parameters for layer in table.layers)
    rows = [("float32", format_count(floating), "32", "0", "")]
    for name, plan in plans.items():
        low_damage, high_damage = errors[name].interval
        rows.append(
            (
                name,
                format_count(plan.bytes),
                f"{plan.average_bits:.2f}",
                format_number(errors[name].damage),
                f"{format_number(low_damage)} to {format_number(high_damage)}",
            )
        )
    columns = ("weights", "bytes", "average bits", "damage", "95 % interval")
    caption = (
        f"allocated / uniform: {ratio:.2f} ({low:.2f} to {high:.2f}), judged on {JUDGED.count} initial conditions that "
        f"scoring never saw; {seconds:.1f} s in all"
    )
    print_table(Table(columns, tuple(rows), (False, True, True, True, True), caption), "measured by rolling out")
