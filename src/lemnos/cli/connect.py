"""``lemnos connect``: clients pointed at the endpoint, back again, and tried."""

from __future__ import annotations

import dataclasses
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lemnos.cli.output import Json, err, out, print_json, table
from lemnos.errors import UsageError

if TYPE_CHECKING:
    from lemnos.connect.access import Access
    from lemnos.connect.check import Answer, Ask
    from lemnos.connect.connecting import Connected


class App(StrEnum):
    """Who can be connected."""

    hephaestus = "hephaestus"
    claude_code = "claude-code"
    langchain = "langchain"
    openai = "openai"


def connect(
    app: Annotated[
        App | None, typer.Argument(help="The client; all, with --check or --undo.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="The endpoint; the gateway or deployment that runs here by default."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for.")] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", "--api-key-file", help="The file with the endpoint's key."
        ),
    ] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="The model for embeddings (openai, langchain).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="hephaestus: its hephaestus_config.yaml.")
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(help="claude-code: this project's settings, not the user's."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="openai, langchain: a .env file to write.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore what was there before.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Make a real call per model; show who answered."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Point a client at the endpoint. Standard output is for a shell: eval "$(lemnos connect APP)"."""
    _refuse_strangers(app, config=config, project=project, write=write)
    file = _file(app, config, project, write)
    if undo and check:
        raise UsageError("--undo and --check are two things", fix="ask for one of them")
    if undo:
        _undo(app, file, as_json)
        return
    if check and url is None and _check_connected(app, file, as_json):
        return
    to = _access(url, model, key_file, embedding_model)
    if check:
        from lemnos.connect.check import asks_for

        _show_checks(asks_for(to, [model] if model else _models(to)), as_json)
        return
    if app is None:
        raise UsageError("which client?", fix=f"lemnos connect {'|'.join(App)}")
    from lemnos.connect import connecting

    made = connecting.connect(
        app.value,
        _with_model(to),
        os.environ,
        config=config,
        project=project,
        write=write,
    )
    print_json(made) if as_json else _show(made)


_OPTIONS = {
    "config": (App.hephaestus,),
    "project": (App.claude_code,),
    "write": (App.openai, App.langchain),
}


def _refuse_strangers(app: App | None, **given: Path | None) -> None:
    for name, value in given.items():
        if value is not None and app not in _OPTIONS[name]:
            raise UsageError(
                f"--{name} is for {' and '.join(_OPTIONS[name])}",
                fix=f"lemnos connect {_OPTIONS[name][0]} --{name} {value}",
            )


def _file(
    app: App | None, config: Path | None, project: Path | None, write: Path | None
) -> Path | None:
    """The file that the options name; None where they name none."""
    if app is App.claude_code and project is not None:
        from lemnos.connect.claude_code import settings_file

        return settings_file(project, os.environ)
    return config or write


def _undo(app: App | None, file: Path | None, as_json: bool) -> None:
    from lemnos.connect import backup

    found = backup.entries(app.value if app else None, file)
    if not found:
        raise UsageError(
            f"nothing is connected{f': {app}' if app else ''}{f' at {file}' if file else ''}",
            fix="what only was printed needs no undoing; `unset` the variables in your shell",
        )
    taken = [backup.undo(entry) for entry in found]
    if as_json:
        print_json(taken)
        return
    for one in taken:
        what = "is gone, as before" if one.removed else "is as it was"
        if one.kept:
            what = f"is as it was, but for {', '.join(one.kept)}, changed since"
        out().print(f"{one.path} {what}", markup=False)


def _check_connected(app: App | None, file: Path | None, as_json: bool) -> bool:
    """Check what is connected; False where nothing is."""
    from lemnos.connect import backup
    from lemnos.connect.check import asks_of

    asks: list[Ask] = []
    for entry in backup.entries(app.value if app else None, file):
        text = backup.read_text(Path(entry.path)) or ""
        asks += asks_of(entry, text, os.environ)
    if asks:
        _show_checks(asks, as_json)
    return bool(asks)


def _show_checks(asks: list[Ask], as_json: bool) -> None:
    from lemnos.connect.check import make

    answers = [make(ask) for ask in asks]
    if as_json:
        print_json(answers)
    else:
        grid = table("client", "use", "API", "model", "answered by", "ms", "")
        for answer in answers:
            grid.add_row(*_row(answer))
        out().print(grid)
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


def _row(answer: Answer) -> list[str]:
    from rich.markup import escape

    target = answer.target or ("-" if answer.error else "(it does not say)")
    ms = "-" if answer.seconds is None else f"{answer.seconds * 1000:.0f}"
    words = [answer.app, answer.use, answer.api, answer.model, target, ms]
    return [escape(word) for word in (*words, answer.error or f"ok: {answer.said}")]


def _access(
    url: str | None,
    model: str | None,
    key_file: Path | None,
    embedding_model: str | None,
) -> Access:
    """The endpoint that the options name, or the one that runs here: a gateway before several
    deployments comes before a deployment."""
    import lemnos
    from lemnos.connect.access import access

    if url is not None:
        return access(url, model or "", key_file, embedding_model)
    keys: str | Path | None = key_file
    if gateway := _gateway():
        url, keyed = gateway
    else:
        running = lemnos.endpoint()
        endpoint = running.status.plan.spec.endpoint
        url, model = running.status.url, model or running.model
        keyed, keys = endpoint.has_keys, key_file or endpoint.api_key_file
    if keyed and not keys:
        raise UsageError(
            "asks for a key", where=url, fix="name the file of yours: --key-file FILE"
        )
    return access(url, model or "", keys, embedding_model)


def _gateway() -> tuple[str, bool] | None:
    """The URL of the only `lemnos gateway` that runs, and whether it asks for keys."""
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    running = [
        revision
        for files in revisions.gateways()
        if (revision := revisions.current(files)) and gateways.pid_of(files)
    ]
    if len(running) > 1:
        urls = ", ".join(revision.listen.url for revision in running)
        raise UsageError(f"several gateways run: {urls}", fix="choose one: --url URL")
    return (running[0].listen.url, bool(running[0].table.keys)) if running else None


def _with_model(access: Access) -> Access:
    """With the endpoint's own model, where none was named and it has one."""
    if access.model:
        return access
    names = _models(access)
    if len(names) > 1:
        raise UsageError(
            f"serves {', '.join(names)}",
            where=access.url,
            fix="choose one: --model NAME",
        )
    return dataclasses.replace(access, model=names[0])


def _models(access: Access) -> list[str]:
    import lemnos

    with lemnos.Client(access.url, api_key=access.key(), timeout_s=30.0) as client:
        return client.models()


def _show(made: Connected) -> None:
    console = err()
    if made.file:
        console.print(
            f"{made.file} is connected; `lemnos connect {made.app} --undo` takes it back",
            markup=False,
        )
    for line in made.changes:
        console.print(f"  {line}", markup=False)
    for note in made.notes:
        console.print(f"note: {note}", markup=False)
    for line in made.exports:
        typer.echo(line)
    if made.snippet:
        console.print(f"\n{made.snippet.rstrip()}", markup=False)
