"""Reporting: tables as text or for a terminal. The rows come from the results themselves (`table.table()`)."""

from tqs_fast._table import Table
from tqs_fast.reporting.terminal import rich_table

__all__ = ["Table", "rich_table"]
