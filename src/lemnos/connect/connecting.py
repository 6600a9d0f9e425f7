"""``lemnos connect``: from an endpoint and a client's name to settings, variables and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lemnos.connect import backup, claude_code, documents, hephaestus, sdks
from lemnos.connect.access import Access, Variables, exports, plain
from lemnos.errors import LemnosError

App = Literal["hephaestus", "claude-code", "langchain", "openai"]


@dataclass(frozen=True)
class Connected:
    """What was done, and what is left to a person."""

    app: App
    file: str | None = None
    """The file that was edited, or made."""
    changes: tuple[str, ...] = ()
    """A line for each key of it that changed."""
    exports: tuple[str, ...] = ()
    """Lines for a shell. No secret is in them: keys are read from their file."""
    snippet: str = ""
    notes: tuple[str, ...] = ()


def connect(
    app: App,
    access: Access,
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    project: Path | None = None,
    write: Path | None = None,
) -> Connected:
    """Point ``app`` at an endpoint.

    ``config`` is Hephaestus's file (hephaestus_config.yaml here by default), ``project`` a
    directory whose Claude Code settings are meant instead of the user's, and ``write`` a .env
    file for an SDK's variables. Raises LemnosError, with nothing changed.
    """
    if app == "hephaestus":
        return _hephaestus(access, environ, config or hephaestus_file(environ))
    if app == "claude-code":
        return _claude_code(access, environ, project)
    wanted = sdks.variables(app, access)
    made = Connected(
        app, exports=tuple(exports(wanted)), snippet=sdks.snippet(app, access)
    )
    return made if write is None else _written(app, access, wanted, write, made.snippet)


def hephaestus_file(environ: Mapping[str, str]) -> Path:
    """Where Hephaestus looks."""
    return Path(environ.get("HEPHAESTUS_CONFIG") or hephaestus.FILE)


def _hephaestus(access: Access, environ: Mapping[str, str], path: Path) -> Connected:
    text = backup.read_text(path.expanduser())
    if text is None:
        raise LemnosError(
            "is not there",
            where=str(path),
            fix=f"go to Hephaestus's directory, or name the file: --config PATH/{hephaestus.FILE}",
        )
    data = documents.read("yaml", text, str(path))

    def edit(before: str) -> str:
        now = documents.read("yaml", before, str(path))
        wanted = hephaestus.edits(now, access, str(path))
        return documents.edited("yaml", before, wanted, str(path))

    changes = backup.apply("hephaestus", path, "yaml", edit, **_details(access))
    notes = hephaestus.notes(data, environ)
    if path.name != hephaestus.FILE:
        notes.append(
            f"Half of Hephaestus reads ./{hephaestus.FILE} only, whatever $HEPHAESTUS_CONFIG says."
        )
    return Connected(
        "hephaestus",
        str(path),
        tuple(changes),
        exports=tuple(exports(hephaestus.variables(data, access))),
        notes=tuple(notes),
    )


def _claude_code(
    access: Access, environ: Mapping[str, str], project: Path | None
) -> Connected:
    path = claude_code.settings_file(project, environ)

    def edit(before: str) -> str:
        now = documents.read("json", before, str(path))
        return documents.edited(
            "json", before, claude_code.edits(now, access), str(path)
        )

    changes = backup.apply("claude-code", path, "json", edit, **_details(access))
    notes = claude_code.notes(environ, access)
    if project is not None and access.key_file:
        notes.append(
            "Claude Code runs a project's apiKeyHelper only once you trust the project."
        )
    return Connected("claude-code", str(path), tuple(changes), notes=tuple(notes))


def _written(
    app: App, access: Access, wanted: Variables, path: Path, snippet: str
) -> Connected:
    values = plain(wanted)

    def edit(before: str) -> str:
        return documents.edited("env", before, sdks.edits(values), str(path))

    changes = backup.apply(
        app, path, "env", edit, private=bool(access.key_file), **_details(access)
    )
    notes = (
        ("The key is in this file: keep it out of your repository.",)
        if access.key_file
        else ()
    )
    return Connected(app, str(path), tuple(changes), snippet=snippet, notes=notes)


def _details(access: Access) -> dict[str, Any]:
    return {
        "url": access.url,
        "model": access.model,
        "key_file": str(access.key_file) if access.key_file else None,
        "embedding_model": access.embedding_model,
    }
