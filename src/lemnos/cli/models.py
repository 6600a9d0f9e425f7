"""``lemnos models``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemnos.cli import options
from lemnos.cli.output import DownloadBars, Json, err, out, print_json, size, table

app = typer.Typer(
    help="The models that are here: pull, verify, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name, a path, or a source.")
]
Hosts = Annotated[
    str | None,
    typer.Option(help="Copy it to these hosts too, over SSH (commas between them)."),
]


@app.command("ls")
def ls(
    known: Annotated[
        bool,
        typer.Option(
            "--known", help="The checkpoints that plans know without a download."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models that are here, and those that the catalogue knows."""
    if known:
        _ls_known(as_json)
        return
    from lemnos.models.catalogue import catalogue
    from lemnos.models.store import list_models

    here = list_models()
    if as_json:
        print_json({"here": here, "catalogue": catalogue()})
        return
    grid = table("name", "format", "size", "source", "where")
    for model in here:
        grid.add_row(
            model.name, model.format, size(model.bytes), model.source, model.path
        )
    sources = {model.source for model in here}
    for entry in catalogue():
        if entry.source not in sources:
            grid.add_row(
                entry.name,
                str(entry.facts["format"]),
                size(entry.bytes),
                entry.source,
                "not here yet",
            )
    out().print(grid)


@app.command("show")
def show(model: Source, as_json: Json = False) -> None:
    """Show what is known of a model, from its own header or from the catalogue."""
    from lemnos.models.catalogue import entry_of_source
    from lemnos.models.facts import model_facts
    from lemnos.models.pull import at_hand, resolve
    from lemnos.models.store import find
    from lemnos.spec.deployment import ModelSpec

    spec = ModelSpec(source=model)
    source = resolve(spec)
    here = at_hand(spec, source)
    entry = entry_of_source(str(source))
    if here is None and entry is None:
        here = find(model)
    facts = model_facts(here) if here else entry.model_facts() if entry else None
    if as_json:
        print_json({"model": here, "facts": facts, "catalogue": entry})
        return
    console = out()
    for title, value in (("catalogue", entry), ("here", here), ("facts", facts)):
        if value is None:
            continue
        grid = table(title, "")
        for key, item in value.model_dump(exclude={"facts"}).items():
            if item not in (None, ()):
                grid.add_row(key, str(item))
        console.print(grid)


@app.command("pull")
def pull(
    model: Source,
    revision: options.Revision = None,
    file: options.File = None,
    hosts: Hosts = None,
    as_json: Json = False,
) -> None:
    """Download and verify a model; goes on where an interrupted pull stopped."""
    from lemnos.models.pull import pull as pull_model
    from lemnos.spec.deployment import ModelSpec

    spec = ModelSpec(source=model, revision=revision, file=file)
    with DownloadBars() as bars:
        got = pull_model(spec, bars)
        copied = _copy(got, hosts, bars) if hosts else []
    if as_json:
        print_json({"model": got, "hosts": copied})
        return
    out().print(f"{got.name}: {size(got.bytes)}, whole, in {got.path}", markup=False)
    for host in copied:
        out().print(f"  and on {host}", markup=False)


@app.command("verify")
def verify(model: Source, as_json: Json = False) -> None:
    """Read every byte of a model again, and compare with what it must be."""
    from pathlib import Path

    from lemnos.models.store import check, find
    from lemnos.models.verify import check_structure

    path = Path(model).expanduser()
    if path.exists():
        check_structure(path, "gguf" if path.is_file() else "safetensors")
        files, where = 1, str(path)
    else:
        found = find(_name_of(model))
        files, where = check(found), found.path
    if as_json:
        print_json({"path": where, "files": files, "whole": True})
        return
    out().print(f"whole: {files} file{'s' * (files > 1)}, {where}", markup=False)


@app.command("rm")
def rm(model: Source, as_json: Json = False) -> None:
    """Remove a pulled model."""
    from lemnos.models.store import find, remove

    found = find(_name_of(model))
    users = [name for name, path in _in_use().items() if path == found.path]
    if users:
        from lemnos.errors import LemnosError

        raise LemnosError(
            f"{found.name} serves {', '.join(users)}", fix=f"lemnos down {users[0]}"
        )
    remove(found)
    if as_json:
        print_json({"removed": [found.name], "freed_bytes": found.bytes})
        return
    out().print(f"removed {found.name} ({size(found.bytes)})", markup=False)


@app.command("prune")
def prune(
    all_: Annotated[
        bool, typer.Option("--all", help="Models that nothing serves, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove interrupted downloads; with --all, also models that nothing serves."""
    from lemnos.models.store import prune as prune_store

    removed, freed = prune_store(set(_in_use().values()), models=all_)
    if as_json:
        print_json({"removed": removed, "freed_bytes": freed})
        return
    for name in removed:
        out().print(f"removed {name}", markup=False)
    err().print(f"{size(freed)} freed", markup=False)


def _ls_known(as_json: bool) -> None:
    """The checkpoints whose architectures lemnos carries."""
    from lemnos.models.known import known_figures

    figures = known_figures()
    if as_json:
        print_json({"known": figures})
        return
    grid = table("name", "parameters", "active", "stored", "size", "context", "source")
    for each in figures:
        grid.add_row(
            each.name,
            f"{each.parameters / 1e9:.1f} B",
            f"{each.active_parameters / 1e9:.1f} B",
            each.stored,
            f"{each.size_gib:,.1f} GiB",
            f"{each.context:,}",
            each.source,
        )
    out().print(grid)


def _in_use() -> dict[str, str]:
    """Deployment -> the path of the model that it serves."""
    import lemnos

    return {s.name: s.plan.model.path for s in lemnos.status()}


def _name_of(model: str) -> str:
    """The catalogue's own name of an alias; anything else as it is."""
    from lemnos.models.catalogue import entry_named

    entry = entry_named(model)
    return entry.name if entry else model


def _copy(model: object, hosts: str, bars: DownloadBars) -> list[str]:
    from lemnos.models.hosts import copy_to_host
    from lemnos.models.store import home_path
    from lemnos.spec.facts import LocalModel
    from lemnos.transport.ssh import Ssh

    assert isinstance(model, LocalModel)
    home = home_path(model)
    return [
        copy_to_host(home, Ssh(host.strip()), bars)
        for host in hosts.split(",")
        if host.strip()
    ]
