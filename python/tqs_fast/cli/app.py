"""The command-line program: its subcommands, and what happens to errors and Ctrl-C."""

from __future__ import annotations

import sys

import typer

from tqs_fast.cli import allocate, demo, evaluate, info, quantize, score
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
app.command("quantize")(quantize.quantize)
app.command("evaluate")(evaluate.evaluate)
app.command("info")(info.info)


def main() -> None:
    """Entry point: exit status 0, 1 for an error of ours (one line on stderr), 2 for wrong usage, 130 for Ctrl-C."""
    try:
        app(standalone_mode=False)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except TqsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted; with --checkpoint, the same command resumes after the last finished chunk\n")
        sys.exit(EXIT_INTERRUPTED)
    except typer.TyperException as error:
        sys.stderr.write(f"error: {error.format_message()}\n")
        sys.exit(error.exit_code)
