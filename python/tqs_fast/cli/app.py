"""The command-line program: its subcommands, and what happens to errors and Ctrl-C."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tqs_fast._version import __version__
from tqs_fast.cli import allocate, demo, evaluate, growth, info, quantize, report, score, search
from tqs_fast.cli.output import print_line
from tqs_fast.errors import TqsError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention

app = typer.Typer(
    name="tqs-fast",
    help="Mixed-precision bits for autoregressive models, chosen by how weight errors travel along rollouts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("score")(score.score)
app.command("allocate")(allocate.allocate)
app.command("search")(search.search)
app.command("quantize")(quantize.quantize)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("growth")(growth.growth)
app.command("info")(info.info)


def _print_version(asked: bool) -> None:
    if asked:
        print_line(f"tqs-fast {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point: exit status 0, 1 for an error of ours (one line on stderr), 2 for wrong usage, 130 for Ctrl-C."""
    try:
        # Without standalone mode typer hands exit statuses back, and turns Ctrl-C into one.
        status = app(standalone_mode=False) or 0
    except TqsError as error:
        sys.stderr.write(f"error: {error}\n")
        status = EXIT_ERROR
    except typer.TyperException as error:
        message = error.format_message()  # empty where no arguments were given and the help has been shown
        sys.stderr.write(f"error: {message}\n" if message else "")
        status = error.exit_code
    if status == EXIT_INTERRUPTED:
        sys.stderr.write("interrupted; with --checkpoint, the same command resumes after the last finished chunk\n")
    sys.exit(status)
