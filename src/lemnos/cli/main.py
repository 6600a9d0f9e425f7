"""The command line: parse, call the Python API, print. Decisions live below.

Nothing heavy is imported here: ``lemnos --help`` should cost what typer and rich cost.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lemnos.cli import (
    connect,
    engines,
    gateway,
    importing,
    lint,
    live,
    measure,
    models,
    plan,
    probe,
    up,
)
from lemnos.errors import LemnosError

app = typer.Typer(
    name="lemnos",
    help="Serve a large language model yourself: one measured, supervised, OpenAI- and Anthropic-compatible endpoint.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its rich help costs 0.2 s, four times all other imports
    pretty_exceptions_enable=False,
)


app.command()(up.up)
app.command()(plan.plan)
app.command()(probe.probe)
app.command(cls=lint.Words)(lint.lint)
app.command("import")(importing.import_)
app.command()(live.ps)
app.command()(live.logs)
app.command()(live.chat)
app.command()(live.restart)
app.command()(live.history)
app.command()(live.rollback)
app.command()(live.scale)
app.command()(live.down)
app.command()(measure.bench)
app.command()(connect.connect)
app.add_typer(measure.records, name="records")
app.add_typer(models.app, name="models")
app.add_typer(engines.app, name="engines")
app.add_typer(gateway.app, name="gateway")
app.add_typer(gateway.keys_app, name="keys")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    if version:
        import lemnos

        sys.stdout.write(f"lemnos {lemnos.__version__}\n")
        raise typer.Exit


def main() -> None:
    """Run the command line; a LemnosError becomes one sentence and its exit code."""
    try:
        if sys.argv[1:2] == ["lint"]:  # without what the other verbs' options import
            lint.alone(sys.argv[2:], prog_name="lemnos lint")
        app()
    except LemnosError as error:
        _say(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (
        OSError
    ) as error:  # a file or a socket that said no, where nobody expected it
        why = error.strerror or type(error).__name__
        _say(LemnosError(f"the system said: {why}", where=str(error.filename or "")))
        sys.exit(1)


def _say(error: LemnosError) -> None:
    from lemnos.cli.output import err

    err().print("[bold red]error:[/] ", end="")
    err().print(str(error), markup=False)
