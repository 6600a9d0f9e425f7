"""``lemnos import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lemnos.cli.output import Json, err, out, print_json, table

if TYPE_CHECKING:
    from lemnos.importing.importing import Imported, ImportedModel
    from lemnos.importing.notes import Note

SAID = {
    "gone": "no longer",
    "unknown": "[red]unknown[/]",
    "wrong": "[red]wrong[/]",
    "changed": "[yellow]changed[/]",
    "told": "note",
}


def import_(
    config: Annotated[
        Path, typer.Argument(help="A config.yaml of vLLM scripts for Slurm.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Where the specs are written; not at all by default."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="4x4xH100 or a cluster.yaml: the nodes that there are."),
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="The vLLM that will run: 0.15.0.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files.")] = False,
    as_json: Json = False,
) -> None:
    """Turn an old configuration into specs, a model each; say what changes, and why."""
    from lemnos.importing import import_config, write

    found = import_config(config, cluster, engine_version=engine_version)
    if output:
        write(found.files, output, force=force)
    if as_json:
        print_json(found)
    else:
        _show(found, output)
    if any(model.refused for model in found.models):
        raise typer.Exit(1)


def _show(found: Imported, output: Path | None) -> None:
    console = out()
    grid = table("", "spec", "model", "layout", "GPUs", "context")
    for model in found.models:
        if model.file:
            grid.add_row(
                ">" if model.name == found.default else "",
                model.file,
                model.source.removeprefix("hf://"),
                model.layout,
                f"{model.gpus} {model.gpu}"
                + (f" on {model.nodes} nodes" if model.nodes > 1 else ""),
                f"{model.context:,}",
            )
    if found.files:
        console.print(grid)
    for model in found.models:
        _show_model(model, found.config)
    console.print("all of it", style="bold")
    _show_notes(found.notes, found.config)
    _show_alike([n for model in found.models for n in model.notes], found.config)
    if output:
        err().print(f"wrote {len(found.files)} files to {output}", markup=False)
    elif found.files:
        err().print("nothing is written: --output DIR does it", markup=False)


def _show_model(model: ImportedModel, path: str) -> None:
    own = [note for note in model.notes if note.kind != "gone"]
    if model.refused:
        from lemnos.errors import LemnosError

        out().print(f"{model.key}: ", markup=False, style="bold", end="")
        out().print("[red]not written[/]")
        out().print(f"  {LemnosError(**model.refused)}", markup=False)
    elif own:
        out().print(model.name, style="bold", markup=False)
        _show_notes(own, path, strip=f"models.{model.key}.")


def _show_notes(notes: Sequence[Note], path: str, strip: str = "") -> None:
    for each in notes:
        key = each.key.removeprefix(strip)
        text = f"{key}: {each.text}" if key else each.text
        _print(f"{path}:{each.line}", SAID[each.kind], text)


def _show_alike(notes: Sequence[Note], path: str) -> None:
    """What has no meaning any more in several models alike: each sentence once."""
    lines: dict[tuple[str, str], list[int]] = {}
    for each in notes:
        if each.kind == "gone":
            key = each.key.rpartition(".")[2]
            lines.setdefault((key, each.text), []).append(each.line)
    for (key, text), places in lines.items():
        where = f"{path}:{','.join(map(str, places))}"
        _print(where, SAID["gone"], f"models.*.{key}: {text}")


def _print(where: str, said: str, text: str) -> None:
    out().print(f"  {where}: ", markup=False, end="")
    out().print(f"{said}: ", end="")
    out().print(text, markup=False)
