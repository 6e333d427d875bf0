"""`tqs-fast info`: what this installation is made of, and what a system's step becomes in the native engine."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import torch
import typer

from tqs_fast import capture as capturing
from tqs_fast import kernels
from tqs_fast._table import Table
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.systems import load_system


def info(
    capture: Annotated[
        str | None,
        typer.Option(
            metavar="SYSTEM", help="Print the native program of a step: a built-in name or pkg.module:factory."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List backends, instruction sets, kernels and versions; or print a captured program."""
    if capture is not None:
        _print_program(capture, json)
        return
    facts = {**kernels.info(), "torch": torch.__version__}
    if json:
        print_json(facts)
        return
    listed = facts.pop("kernels")
    for key, value in facts.items():
        print_line(f"{key}: {value if isinstance(value, str) else json_module.dumps(value)}")
    columns = tuple(listed[0])
    rows = tuple(tuple(str(row[column]) for column in columns) for row in listed)
    print_table(Table(columns, rows, (False,) * len(columns)), "kernels")


def _print_program(name: str, json: bool) -> None:
    program = capturing.capture(load_system(name))
    counts = capturing.sizes(program)
    if json:
        print_json({"system": name, **counts, "program": capturing.describe(program).splitlines()})
        return
    print_line(capturing.describe(program))
    for key, value in counts.items():
        print_line(f"{key}: {value if isinstance(value, int) else json_module.dumps(value)}")
