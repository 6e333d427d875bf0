"""`tqs-fast allocate`: a bit budget spent according to a sensitivity table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqs_fast import allocation
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring import Sensitivity


def allocate(
    table: Annotated[Path, typer.Argument(help="Sensitivity table written by `tqs-fast score --out`.")],
    average_bits: Annotated[float | None, typer.Option(help="Effective bits per weight, scales counted.")] = None,
    size: Annotated[str | None, typer.Option("--bytes", help="Stored size, e.g. 30000 or 2MiB.")] = None,
    compression: Annotated[float | None, typer.Option(help="float32 size over stored size.")] = None,
    max_damage: Annotated[float | None, typer.Option(help="Smallest plan with at most this predicted damage.")] = None,
    method: Annotated[str, typer.Option(help="knapsack, greedy, lagrangian or uniform.")] = "knapsack",
    tie: Annotated[list[str] | None, typer.Option(help="Layers that must share bits, comma-separated; repeat.")] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="PATTERN (kept float) or PATTERN=BITS; repeat.")] = None,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Choose bits per layer under one budget."""
    plan = allocation.allocate(
        Sensitivity.load(table),
        average_bits=average_bits,
        bytes=None if size is None else options.parse_size(size),
        compression=compression,
        max_damage=max_damage,
        method=method,
        tie=[group.split(",") for group in tie] if tie else None,
        freeze=dict(map(_frozen, freeze)) if freeze else None,
    )
    if out is not None:
        plan.save(out)
    if json:
        print_json(plan.to_json())
        return
    print_table(plan.table(), f"{method} plan")
    if out is not None:
        print_line(f"written to {out}")


def _frozen(text: str) -> tuple[str, int | None]:
    pattern, separator, bits = text.partition("=")
    if separator and not bits.isdigit():
        raise ArgumentError(f"[--freeze] expected PATTERN or PATTERN=BITS, got {text!r}")
    return pattern, int(bits) if separator else None
