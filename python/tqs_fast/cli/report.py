"""`tqs-fast report`: one page about a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqs_fast.allocation import Plan
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line
from tqs_fast.errors import ArgumentError
from tqs_fast.reporting import Report
from tqs_fast.scoring import RolloutError, Sensitivity
from tqs_fast.search import SearchResult


def report(
    table: Annotated[Path, typer.Argument(help="Sensitivity table written by `tqs-fast score --out`.")],
    plan: Annotated[Path, typer.Argument(help="Plan written by `tqs-fast allocate --out` or `search --plan-out`.")],
    out: Annotated[Path, options.output("--out", "-o", help="Page to write (.html).")],
    search: Annotated[Path | None, typer.Option(help="What `tqs-fast search --out` wrote.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="What `tqs-fast evaluate --out` wrote about this plan, named after the file; repeat."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write one self-contained page: the plan, its rivals, and what was measured."""
    evaluations: dict[str, RolloutError] = {}
    for path in evaluation or []:
        if path.stem in evaluations:
            raise ArgumentError(f"[--evaluation] expected different file names, got {path.stem!r} twice; rename one")
        evaluations[path.stem] = RolloutError.load(path)
    page = Report(
        Sensitivity.load(table),
        Plan.load(plan),
        search=None if search is None else SearchResult.load(search),
        evaluation=evaluations,
    )
    page.save(out)
    size = out.stat().st_size
    if json:
        print_json({"path": str(out), "file_bytes": size, **page.summary()})
    else:
        print_line(f"written to {out}: {size:,} bytes")
