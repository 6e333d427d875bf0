"""`tqs-fast info`: what this installation is made of."""

from __future__ import annotations

import json as json_module

import torch

from tqs_fast import kernels
from tqs_fast._table import Table
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table


def info(json: options.Json = False) -> None:
    """List backends, instruction sets, kernels and versions."""
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
