"""Changes to a model's JSON files in a directory beside it: the user's own files are never touched.

The directory holds a link to each of the model's files, and the changed ones written anew. Its
name is the overlays' names and the hash of what they change, so that another version of either
is another directory, and the same one is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemnos import leases
from lemnos.errors import LemnosError
from lemnos.paths import writable
from lemnos.spec.quirks import Overlay

NOTE = "lemnos-overlay.json"
"""What was changed, and why; written last, so that a directory that has it is whole."""
JSON_LIMIT = 16 * 1024**2
"""Bytes; generation_config.json has some hundred."""


@dataclass(frozen=True)
class Change:
    """A file as it will be."""

    file: str
    before: str
    """SHA-256 of the file as it is; empty: it is missing."""
    content: bytes
    set: Mapping[str, Any]
    """The keys that it lacked."""
    overlays: tuple[str, ...]
    """The names of those that set them."""
    why: tuple[str, ...]


def overlay_of(
    files: Mapping[str, bytes | None], overlays: Sequence[Overlay]
) -> tuple[Change, ...]:
    """What ``overlays`` change in ``files`` (content by name; None: there is none). Pure.

    A key that a file has is left as it is, whatever its value. Raises LemnosError for a file
    that is no JSON object.
    """
    made = []
    for file in dict.fromkeys(overlay.file for overlay in overlays):
        own = [overlay for overlay in overlays if overlay.file == file]
        change = _change(file, files.get(file), own)
        if change:
            made.append(change)
    return tuple(made)


def _change(
    file: str, before: bytes | None, overlays: Sequence[Overlay]
) -> Change | None:
    data = {} if before is None else _object(before, file)
    missing: dict[str, Any] = {}
    used = []
    for overlay in overlays:
        new = {
            key: value
            for key, value in overlay.missing.items()
            if key not in data and key not in missing
        }
        missing |= new
        used += [overlay] if new else []
    if not missing:
        return None
    text = json.dumps({**data, **missing}, indent=2, ensure_ascii=False) + "\n"
    return Change(
        file=file,
        before="" if before is None else hashlib.sha256(before).hexdigest(),
        content=text.encode(),
        set=missing,
        overlays=tuple(overlay.name for overlay in used),
        why=tuple(overlay.why for overlay in used),
    )


def _object(content: bytes, file: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise LemnosError(
            "is no JSON object",
            where=file,
            fix="verify the model: lemnos models verify",
        )
    return data


def directory_name(model: Path, changes: Sequence[Change]) -> str:
    """``GLM-4.7-NVFP4--glm-4.7-bos-token-1--0f3a...``: where ``changes`` are kept. Pure.

    Models of the same name at other paths have directories of their own.
    """
    names = "+".join(dict.fromkeys(name for each in changes for name in each.overlays))
    told = [str(model), *([each.file, each.before] for each in changes)]
    made = [each.content.decode() for each in changes]
    digest = hashlib.sha256(json.dumps([told, made]).encode()).hexdigest()
    return f"{model.name[:100]}--{names[:100]}--{digest[:12]}"


def describe_overlays(changes: Sequence[Change], into: Path | str) -> tuple[str, ...]:
    """What ``--dry-run`` says of them, a sentence a change. Pure."""
    return tuple(
        f"{each.file} gets {_keys(each.set)} in a copy below {into} ({', '.join(each.overlays)}): "
        f"{'; '.join(each.why)}"
        for each in changes
    )


def _keys(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in keys.items())


def planned_changes(model: Path, overlays: Sequence[Overlay]) -> tuple[Change, ...]:
    """``overlay_of`` the files in the directory ``model``. Raises LemnosError for what cannot be read."""
    return overlay_of(
        {overlay.file: _content(model / overlay.file) for overlay in overlays}, overlays
    )


def _content(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise LemnosError("is too large to be changed", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(path)
        ) from None


def make_overlay(model: Path, overlays: Sequence[Overlay], into: Path) -> Path:
    """The directory to give an engine: ``model`` itself where nothing has to be changed.

    Else a directory in ``into``, made if it is not there and whole; one that is broken (a
    link to a file that is gone, a changed file that was changed again) is made anew.
    """
    model = model.absolute()
    changes = planned_changes(model, overlays)
    if not changes:
        return model
    home = writable(into) / directory_name(model, changes)
    try:
        links = _links(model, {each.file for each in changes})
        if _whole(home, links, changes):
            return home
        lock = home.with_name(home.name + ".lease")
        with leases.lease(lock, what=f"making {home.name}", wait_s=60):
            # Another process may have made it meanwhile.
            if not _whole(home, links, changes):
                _make(home, model, links, changes)
    except OSError as error:
        raise LemnosError(
            f"cannot be made ({error.strerror or error})",
            where=str(home),
            fix="make room or make it writable, or set LEMNOS_HOME to a directory of yours",
        ) from None
    return home


def _links(model: Path, changed: set[str]) -> dict[str, Path]:
    """The model's entries that stay as they are, by name: files, and directories as a whole."""
    return {
        entry.name: entry
        for entry in sorted(model.iterdir())
        if entry.name not in changed and entry.name != NOTE
    }


def _whole(home: Path, links: Mapping[str, Path], changes: Sequence[Change]) -> bool:
    """Whether ``home`` is as ``make_overlay`` leaves it."""
    try:
        names = {entry.name for entry in home.iterdir()}
        wanted = {*links, *(each.file for each in changes), NOTE}
        return (
            names == wanted
            and all(os.readlink(home / name) == str(at) for name, at in links.items())
            and all((home / name).exists() for name in links)
            and all((home / each.file).read_bytes() == each.content for each in changes)
        )
    except OSError:
        return False


def _make(
    home: Path, model: Path, links: Mapping[str, Path], changes: Sequence[Change]
) -> None:
    """Whole at once: filled beside ``home``, which it becomes; what was there goes."""
    scratch = Path(tempfile.mkdtemp(prefix=".overlay.", dir=home.parent))
    try:
        made = scratch / "new"
        made.mkdir()
        _fill(made, model, links, changes)
        if home.exists() or home.is_symlink():
            home.rename(scratch / "old")
        made.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(
    home: Path, model: Path, links: Mapping[str, Path], changes: Sequence[Change]
) -> None:
    for name, target in links.items():
        (home / name).symlink_to(target)
    for each in changes:
        (home / each.file).write_bytes(each.content)
    note = {
        "model": str(model),
        "changes": [
            {
                "file": each.file,
                "before": each.before,
                "set": dict(each.set),
                "overlays": each.overlays,
                "why": each.why,
            }
            for each in changes
        ],
    }
    (home / NOTE).write_text(json.dumps(note, indent=2) + "\n")
