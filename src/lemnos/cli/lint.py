"""``lemnos lint``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from lemnos.cli.output import Json
from lemnos.errors import LemnosError, UsageError

if TYPE_CHECKING:
    from lemnos.lint.findings import Finding, Report

MOST_BYTES = 20_000_000


class Words(TyperCommand):
    """Lint's own options wherever they stand; every other word is a file or the engine's.

    Read here because no word of an engine's command is an option of lint's, ``--help`` and
    ``-cc.mode=none`` among them; and because typer's way imports pydantic, a fifth of the time
    that linting a script takes.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set ``ctx.params``; nothing is left over. Raises UsageError."""
        if not args or args[0] == "--help":
            return super().parse_args(ctx, args or ["--help"])
        named: dict[str, Any] = {
            name: param
            for param in self.params
            for name in param.opts
            if name[0] == "-"
        }
        ctx.params = {str(param.name): param.default for param in named.values()}
        what: list[str] = []
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            param = named.get(name)
            if word == "--" and not what:
                what += words
            elif param is None:
                what.append(word)
            elif param.is_flag:
                ctx.params[param.name] = True
            else:
                ctx.params[param.name] = value if equals else next(words, None)
                if ctx.params[param.name] is None:
                    raise UsageError(f"{name} needs a value")
        if not what:
            raise UsageError("there is nothing to lint", fix="name a file or a command")
        ctx.params["what"] = what
        return []


def lint(
    what: Annotated[
        list[str],
        typer.Argument(help="A file (- is standard input), or an engine's command."),
    ],
    engine: Annotated[
        str | None,
        typer.Option(help="vllm, sglang, dynamo.frontend: of bare flags."),
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="The release that will run: 0.26.0.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="4xH200 or a cluster.yaml: whether it fits."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Rewrite the file, or print the command.")
    ] = False,
    as_json: Json = False,
    sarif: Annotated[
        bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code scanners.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Ask the installed engine itself too.")
    ] = False,
    engine_python: Annotated[
        str | None, typer.Option(help="Its Python, for --exact.")
    ] = None,
) -> None:
    """Check engines' commands before a GPU is held: a command, a script, a manifest, a document."""
    if as_json and sarif:
        raise UsageError("--json and --sarif are two documents", fix="give one of them")
    from lemnos.lint.linting import Asked

    asked = Asked(engine, engine_version, cluster)
    reports = []
    for text, name in _texts(what):
        report = _checked(text, name, asked, exact, engine_python)
        if fix:
            report = _fixed(report, asked, exact, engine_python, quiet=as_json or sarif)
        reports.append(report)
    _show(reports, as_json, sarif, to_error=fix)
    if any(report.errors for report in reports):
        raise typer.Exit(1)


def _texts(what: list[str]) -> list[tuple[str, str]]:
    """(text, name) of each document; a command has no name."""
    if what == ["-"]:
        return [(_decoded(sys.stdin.buffer.read(MOST_BYTES + 1), "-"), "-")]
    paths = [Path(word).expanduser() for word in what]
    if all(_is_file(path) for path in paths):
        return [(_read(path), word) for path, word in zip(paths, what, strict=True)]
    if len(what) > 1:
        import shlex

        return [(shlex.join(what), "")]
    word = what[0]
    looks_like_path = not any(space in word for space in " \t\n")
    if looks_like_path and ("/" in word or "." in word):
        raise UsageError(
            "is no file", where=word, fix="check the path, or give a whole command"
        )
    return [(word, "")]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a path; a zero byte
        return False


def _read(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return _decoded(handle.read(MOST_BYTES + 1), str(path))
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(path)
        ) from None


def _decoded(data: bytes, where: str) -> str:
    if len(data) > MOST_BYTES:
        raise UsageError(f"is larger than {MOST_BYTES // 10**6} MB", where=where)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=where) from None


def _checked(
    text: str, name: str, asked: object, exact: bool, python: str | None
) -> Report:
    from lemnos.lint.linting import Asked, lint

    assert isinstance(asked, Asked)
    report = lint(text, name, "command" if not name else None, asked)
    if exact:
        from lemnos.lint.exact import exact_findings

        report.findings += exact_findings(report, python)
    return report


def _fixed(
    report: Report, asked: object, exact: bool, python: str | None, quiet: bool
) -> Report:
    """Make the edits; the report of what is left."""
    from lemnos.lint.findings import fixed

    text, repaired = fixed(report.text, report.findings)
    if report.name in ("", "-"):
        if not quiet:
            sys.stdout.write(text + "\n" * (not text.endswith("\n")))
    elif text != report.text:
        from lemnos.paths import replace_file

        path = Path(report.name).expanduser().resolve()
        replace_file(path, text.encode(), mode=path.stat().st_mode & 0o7777)
    _say(report, repaired)
    return _checked(text, report.name, asked, exact, python)


def _say(report: Report, repaired: list[Finding]) -> None:
    from lemnos.lint.findings import Lines
    from lemnos.lint.printing import shown

    lines = Lines(report.text)
    name = shown(report.name) or "command"
    for finding in repaired:
        line, column = lines.at(finding.start)
        did = shown(finding.instead or finding.what)
        sys.stderr.write(f"{name}:{line}:{column}: fixed {finding.code}: {did}\n")


def _show(reports: list[Report], as_json: bool, sarif: bool, to_error: bool) -> None:
    from lemnos.lint import printing

    if as_json or sarif:
        import orjson

        import lemnos

        data = (
            printing.as_json(reports)
            if as_json
            else printing.as_sarif(reports, lemnos.__version__)
        )
        text = orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n"
        sys.stdout.write(text)
        return
    out = sys.stderr if to_error else sys.stdout
    for report in reports:
        out.write(printing.as_text(report, colour=out.isatty()))
    out.write(printing.summary(reports))


alone = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
"""Lint by itself: any option of the whole command line's would import pydantic."""
alone.command(cls=Words)(lint)
