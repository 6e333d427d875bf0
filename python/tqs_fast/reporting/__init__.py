"""Reporting: tables as text or for a terminal, pages to read in a browser, figures for papers."""

from tqs_fast._table import Table
from tqs_fast.reporting.report import Report
from tqs_fast.reporting.terminal import rich_table

__all__ = ["Report", "Table", "rich_table"]
