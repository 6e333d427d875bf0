"""`tqs-fast search`: a plan improved by rolling plans out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqs_fast.allocation import Plan
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.scoring import Sensitivity
from tqs_fast.search import search as search_plans
from tqs_fast.systems import load_system


def search(
    system: options.SystemName,
    table: Annotated[Path, typer.Argument(help="Sensitivity table written by `tqs-fast score --out`.")],
    plan: Annotated[Path, typer.Argument(help="Plan to start from, written by `tqs-fast allocate --out`.")],
    evaluations: Annotated[int, typer.Option(help="Plans to measure at most.")] = 200,
    horizon: Annotated[int | None, typer.Option(help="Output values per rollout. [default: the table's]")] = None,
    rival: Annotated[list[Path] | None, typer.Option(help="Another plan that is always a candidate; repeat.")] = None,
    initial: options.Initial = None,
    count: Annotated[int | None, typer.Option(help="Initial conditions per family. [default: the table's]")] = None,
    engine: Annotated[str, typer.Option(help="auto, native, torch or serial.")] = "auto",
    seed: options.Seed = 0,
    memory_limit: Annotated[str | None, typer.Option(help="Most memory for a chunk of lanes, e.g. 2GiB.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of measured plans; the same command resumes.")] = None,
    plan_out: Annotated[Path | None, options.output(help="Also write the plan that was kept to this file.")] = None,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Search for a plan of less measured damage and no more bytes; decided on other initial conditions."""
    loaded = load_system(system)
    given = None
    if initial is not None or count is not None:
        given = options.parse_initial(initial, 16 if count is None else count, loaded)
    result = search_plans(
        loaded,
        Sensitivity.load(table),
        Plan.load(plan),
        evaluations=evaluations,
        horizon=horizon,
        initial=given,
        rivals={str(path): Plan.load(path) for path in rival or []},
        engine=engine,
        seed=seed,
        memory_limit=None if memory_limit is None else options.parse_size(memory_limit),
        checkpoint=checkpoint,
        progress=True,
    )
    if out is not None:
        result.save(out)
    if plan_out is not None:
        result.plan.save(plan_out)
    if json:
        print_json(result.to_json())
        return
    print_table(result.table(), f"{system}: plans by measured damage")
    print_line("")
    print_table(result.plan.table(), "the plan that was kept")
    for path in (out, plan_out):
        if path is not None:
            print_line(f"written to {path}")
