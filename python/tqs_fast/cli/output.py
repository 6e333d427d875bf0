"""Results on standard output: tables drawn by rich, or JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from tqs_fast._table import Table
from tqs_fast.reporting import rich_table


def print_json(document: dict[str, Any]) -> None:
    """One JSON document, indented, on standard output."""
    json.dump(document, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def print_table(table: Table, title: str | None = None) -> None:
    """Draw a table; plain text, never cut, where standard output is no terminal."""
    if sys.stdout.isatty():
        if title:
            print_line(title)
        Console().print(rich_table(table))
    else:
        sys.stdout.write((f"{title}\n" if title else "") + f"{table}\n")


def print_line(text: str) -> None:
    """One line of text on standard output."""
    sys.stdout.write(text + "\n")
