"""`tqs-fast evaluate`: the measured damage of a packed model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqs_fast import rewriting, scoring
from tqs_fast.allocation import Plan
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line
from tqs_fast.systems import load_system


def evaluate(
    system: options.SystemName,
    model: Annotated[Path, typer.Argument(help="Packed model (.safetensors), or a plan (.json) to apply first.")],
    horizon: options.Horizon = 64,
    initial: options.Initial = None,
    count: options.Count = 16,
    engine: Annotated[str, typer.Option(help="auto, native or torch.")] = "auto",
    seed: options.Seed = 1,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Roll the packed model out against the float model."""
    loaded = load_system(system)
    if model.suffix == ".json":
        module = rewriting.quantize(loaded.module, Plan.load(model))
    else:
        module = rewriting.load(loaded.module, model)
    result = scoring.evaluate(
        loaded,
        module,
        horizon=horizon,
        initial=options.parse_initial(initial, count, loaded),
        engine=engine,
        seed=seed,
    )
    if out is not None:
        result.save(out)
    if json:
        print_json(result.to_json())
    else:
        print_line(str(result))
