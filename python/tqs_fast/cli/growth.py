"""`tqs-fast growth`: how fast errors in the state of a system grow."""

from __future__ import annotations

from typing import Annotated

import typer

from tqs_fast import growth as rates
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.systems import load_system


def growth(
    system: options.SystemName,
    count: Annotated[int, typer.Option(help="Directions: leading exponents wanted.")] = 8,
    horizon: Annotated[int | None, typer.Option(help="Steps. [default: 2048 for qr, else 64]")] = None,
    method: Annotated[
        str, typer.Option(help="qr (Lyapunov exponents), krylov or power (finite-time singular values).")
    ] = "qr",
    initial: options.Initial = None,
    initial_count: Annotated[int, typer.Option(help="Initial conditions per family.")] = 8,
    transient: Annotated[
        int | None, typer.Option(help="Steps before, while directions align (qr). [default: horizon / 4]")
    ] = None,
    interval: Annotated[
        int | None, typer.Option(help="Steps between orthonormalisations (qr). [default: chosen]")
    ] = None,
    precision: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    engine: Annotated[str, typer.Option(help="auto, native or torch.")] = "auto",
    seed: options.Seed = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Growth rates of infinitesimal errors, natural log per step."""
    loaded = load_system(system)
    found = rates.growth_rates(
        loaded,
        count=count,
        horizon=horizon,
        method=method,
        initial=options.parse_initial(initial, initial_count, loaded),
        transient=transient,
        interval=interval,
        precision=precision,
        engine=engine,
        seed=seed,
        progress=True,
    )
    if out is not None:
        found.save(out)
    if json:
        print_json(found.to_json())
        return
    print_table(found.table(), f"{system}: growth rates")
    if out is not None:
        print_line(f"written to {out}")
