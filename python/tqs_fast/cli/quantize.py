"""`tqs-fast quantize`: a packed model from a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqs_fast import rewriting
from tqs_fast.allocation import Plan
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line
from tqs_fast.systems import load_system


def quantize(
    system: options.SystemName,
    plan: Annotated[Path, typer.Argument(help="Plan written by `tqs-fast allocate --out`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Packed model to write (.safetensors).")],
    json: options.Json = False,
) -> None:
    """Rewrite the model with packed layers and save it."""
    chosen = Plan.load(plan)
    rewriting.save(rewriting.quantize(load_system(system).module, chosen), out)
    if json:
        print_json({"path": str(out), "file_bytes": out.stat().st_size, "plan": chosen.to_json()})
    else:
        print_line(f"written to {out}: {out.stat().st_size:,} bytes, planned layers {chosen.bytes:,} bytes")
