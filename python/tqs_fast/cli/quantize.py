"""`tqs-fast quantize`: a packed model from a plan."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tqs_fast import rewriting
from tqs_fast._table import format_number
from tqs_fast.allocation import Plan
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.compensation import METHODS, Compensation
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting.rewrite import PLAN_ATTRIBUTE
from tqs_fast.systems import load_system

ACTIVATIONS = ("plan", "auto", "float", "int8")


def quantize(
    system: options.SystemName,
    plan: Annotated[Path, typer.Argument(help="Plan written by `tqs-fast allocate --out`.")],
    out: Annotated[Path, options.output("--out", "-o", help="Packed model to write (.safetensors).")],
    activations: Annotated[
        str,
        typer.Option(
            help="What the packed weights multiply: plan (as it says), float, int8 (each row rounded to 8 bits), or "
            "auto: int8 where rollouts of the plan, rounded to nearest, show the same damage. The options below are "
            "for auto; --initial also for --method."
        ),
    ] = "plan",
    tolerance: Annotated[float, typer.Option(help="How much more damage counts as the same.")] = 0.05,
    horizon: options.Horizon = 64,
    initial: options.Initial = None,
    count: options.Count = 64,
    engine: Annotated[str, typer.Option(help="auto, native or torch.")] = "auto",
    seed: options.Seed = 2,
    plan_out: Annotated[
        Path | None, options.output(help="Also write the plan, with the activations and the method, to this file.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How weights are rounded: rtn (to nearest), or obq, gptq or sensitivity, which let weights that are "
            "rounded later make up for the errors of those before, on inputs seen along rollouts."
        ),
    ] = "rtn",
    weighting: Annotated[
        str,
        typer.Option(help="For those: output (plain output error), or trajectory (weighted by what it does to it)."),
    ] = "output",
    json: options.Json = False,
) -> None:
    """Rewrite the model with packed layers and save it."""
    if activations not in ACTIVATIONS:
        raise ArgumentError(f"[--activations] expected one of {', '.join(ACTIVATIONS)}, got {activations!r}")
    loaded, chosen = load_system(system), Plan.load(plan)
    if activations == "auto":
        chosen = rewriting.choose_activations(
            loaded,
            chosen,
            tolerance=tolerance,
            horizon=horizon,
            initial=options.parse_initial(initial, count, loaded),
            engine=engine,
            seed=seed,
        )
    elif activations != "plan":
        chosen = replace(chosen, activations={name: activations for name, bits in chosen.bits.items() if bits})
    settings = method if method not in METHODS else Compensation(method, weighting=weighting)
    families = None if initial is None else options.parse_initial(initial, Compensation.count, loaded)
    small = rewriting.quantize(loaded.module, chosen, method=settings, system=loaded, initial=families)
    chosen = getattr(small, PLAN_ATTRIBUTE)
    rewriting.save(small, out)
    if plan_out is not None:
        chosen.save(plan_out)
    if json:
        print_json({"path": str(out), "file_bytes": out.stat().st_size, "plan": chosen.to_json()})
        return
    if activations == "auto":
        print_table(chosen.table(), "the plan, with activations chosen by rolling out")
        _print_evidence(chosen.provenance["activations"])
    print_line(f"written to {out}: {out.stat().st_size:,} bytes, planned layers {chosen.bytes:,} bytes")


def _print_evidence(found: dict[str, Any]) -> None:
    measured = {"int8 activations": found} if found["ratio"] is not None else {}
    measured |= {f"{name} kept float: with int8": verdict for name, verdict in found["refused"].items()}
    for what, verdict in measured.items():
        # As in files: NaN is None, infinity "inf".
        figures = [math.nan if value is None else float(value) for value in (verdict["ratio"], *verdict["interval"])]
        ratio, low, high = map(format_number, figures)
        print_line(f"{what}, damage over that without: {ratio} ({low} to {high})")
