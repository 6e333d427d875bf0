"""Results on standard output: tables drawn by rich, or JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import rich.table
from rich.console import Console

from tqs_fast._table import Table


def print_json(document: dict[str, Any]) -> None:
    """One JSON document, indented, on standard output."""
    json.dump(document, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def print_table(table: Table, title: str | None = None) -> None:
    """Draw a table; plain text, never cut, where standard output is no terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write((f"{title}\n" if title else "") + f"{table}\n")
        return
    drawn = rich.table.Table(title=title, caption=table.caption or None, title_justify="left", caption_justify="left")
    for column, right in zip(table.columns, table.right, strict=True):
        drawn.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    Console().print(drawn)


def print_line(text: str) -> None:
    """One line of text on standard output."""
    sys.stdout.write(text + "\n")
