"""The command line: parse, call the Python API, print. Decisions live below.

Nothing heavy is imported here: ``lemnos --help`` should cost what typer and rich cost.
"""

from __future__ import annotations

import sys

import typer

from lemnos.errors import LemnosError

app = typer.Typer(
    name="lemnos",
    help="Serve a large language model yourself: one measured, supervised, OpenAI- and Anthropic-compatible endpoint.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; a LemnosError becomes one sentence and its exit code."""
    try:
        app()
    except LemnosError as error:
        from lemnos.cli.output import err

        err().print(f"[bold red]error:[/] ", end="")
        err().print(str(error), markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
