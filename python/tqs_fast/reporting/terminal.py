"""A table for a terminal, drawn by rich from the rows that `str` prints plainly."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from tqs_fast._table import Table


def rich_table(table: Table, title: str | None = None) -> RichTable:
    """The rows of `table`; names fold rather than being cut, and brackets in them are not taken for markup."""
    drawn = RichTable(title=title, caption=Text(table.caption) if table.caption else None, caption_justify="left")
    for name, right in zip(table.columns, table.right, strict=True):
        drawn.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn
