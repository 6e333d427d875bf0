"""A table of text: the same rows are printed plainly by `str` and drawn by rich in the CLI."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        columns: the headings.
        rows: cells, as many a row as there are columns.
        right: for each column, whether it is set flush right (numbers are).
        caption: lines under the table, e.g. a summary.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]
    caption: str = ""

    def __str__(self) -> str:
        """Plain text: every column as wide as its widest cell, two spaces between."""
        cells = (self.columns, *self.rows)
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        rule = "  ".join("-" * width for width in widths)
        heading, *body = [self._line(row, widths) for row in cells]
        return "\n".join([heading, rule, *body, *([self.caption] if self.caption else [])])

    def _line(self, row: tuple[str, ...], widths: list[int]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, self.right, strict=True)
        )
        return "  ".join(padded).rstrip()


def format_number(value: float, digits: int = 3) -> str:
    """`value` to that many significant digits; "-" when it is not known (NaN)."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def format_count(value: int) -> str:
    """A whole number with thousands set apart."""
    return f"{value:,}"
