"""`tqs-fast info`: what this installation is made of, and what a system's step becomes in the native engine."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import torch
import typer

from tqs_fast import kernels
from tqs_fast._table import Table
from tqs_fast.capture import describe, sizes
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.engines.prepared import prepared
from tqs_fast.systems import load_system

SAMPLES, STEPS = 3, 2  # that the program is compared with torch over


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
    system = load_system(name)
    state = system.initial_state(SAMPLES, torch.Generator().manual_seed(0))
    native = prepared(system, state, horizon=STEPS * system.block)
    counts = sizes(native.program)
    parts = {"program": describe(native.program)}
    if native.first is not native.program:
        parts = {"first step": describe(native.first), "later steps": parts["program"]}
    if json:
        print_json({"system": name, **counts, **{part: text.splitlines() for part, text in parts.items()}})
        return
    for part, text in parts.items():
        print_line(text if len(parts) == 1 else f"{part}:\n{text}")
    for key, value in counts.items():
        print_line(f"{key}: {value if isinstance(value, int) else json_module.dumps(value)}")
