"""The `tqs-fast` command: one file per subcommand."""

from tqs_fast.cli.app import main

__all__ = ["main"]
