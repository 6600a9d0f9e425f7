"""Editing a person's files so that it can be undone.

Each file that lemnos edits has a directory below the state directory, ``connect/NAME``:
``entry.json``, and two files that are named by their SHA-256, the bytes before and the bytes that
lemnos wrote. The entry is replaced as a whole, before the file is, so that whatever is broken off
can be undone. All of it is for the owner alone: such files hold keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lemnos import paths
from lemnos.connect.documents import Kind, Undone, changes, undone
from lemnos.errors import LemnosError

FRESH_MODE = 0o600


@dataclass(frozen=True)
class Entry:
    """A file that is connected."""

    app: str
    path: str
    """Whole, symbolic links followed."""
    kind: Kind
    existed: bool
    mode: int
    """Of the file before, or of the one that is made."""
    made: tuple[str, ...]
    """Directories that were made for it, the innermost first."""
    before_sha256: str
    after_sha256: str
    url: str
    """This and what follows: what its client uses, for ``--check``."""
    key_file: str | None
    model: str
    embedding_model: str | None = None


@dataclass(frozen=True)
class Taken:
    """What an undo did to a file."""

    path: str
    removed: bool = False
    """It was not there before."""
    kept: tuple[str, ...] = ()
    """Keys that were changed after ``connect``, and stay as they are now."""


def read_text(path: Path) -> str | None:
    """The file's text, line ends and all; None where there is none. Raises LemnosError."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise LemnosError("is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(path)
        ) from None


def apply(
    app: str,
    path: Path,
    kind: Kind,
    edit: Callable[[str], str],
    *,
    private: bool = False,
    **details: Any,
) -> list[str]:
    """Edit the file with ``edit``, keep what was there, and give a line for each key changed.

    Connecting again starts from the file as it would be without us. ``private`` takes it away
    from other users' eyes. ``details`` are Entry's ``url``, ``key_file``, ``model`` and
    ``embedding_model``.
    """
    path = Path(os.path.realpath(path.expanduser()))
    home = _home(app, path)
    now = read_text(path)
    existed, made, mode = now is not None, _missing(path.parent), _mode(path)
    before = now or ""
    if known := _load(home):
        before = _without_us(known, home, now).text
        existed, made, mode = (
            known.existed or not _empty(before),
            known.made,
            known.mode,
        )
    after = edit(before)
    entry = Entry(
        app=app,
        path=str(path),
        kind=kind,
        existed=existed,
        mode=mode,
        made=made,
        before_sha256=_sha256(before),
        after_sha256=_sha256(after),
        **details,
    )
    _save(home, entry, before, after)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.replace_file(path, after.encode(), mode=mode & 0o700 if private else mode)
    return changes(kind, before, after, str(path))


def undo(entry: Entry) -> Taken:
    """Put the file back: byte for byte if it is as lemnos wrote it, else key by key.

    Raises LemnosError, with nothing changed, if the copy is damaged or the file has become one
    that cannot be read.
    """
    path = Path(entry.path)
    home = _home(entry.app, path)
    back = _without_us(entry, home, read_text(path))
    removed = not entry.existed and _empty(back.text)
    if removed:
        path.unlink(missing_ok=True)
        _remove_empty(entry.made)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.replace_file(path, back.text.encode(), mode=entry.mode)
    shutil.rmtree(home)
    return Taken(entry.path, removed, tuple(".".join(key) for key in back.kept))


def entries(app: str | None = None, path: Path | None = None) -> list[Entry]:
    """The files that are connected: all, an app's, or the one at ``path``."""
    found = [_load(home) for home in sorted(_root().glob("*/"))]
    wanted = os.path.realpath(path.expanduser()) if path else None
    return [
        entry
        for entry in found
        if entry and app in (None, entry.app) and wanted in (None, entry.path)
    ]


def _root() -> Path:
    return paths.writable(paths.state_dir() / "connect", mode=0o700)


def _home(app: str, path: Path) -> Path:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return _root() / f"{app}-{digest}"


def _load(home: Path) -> Entry | None:
    """The entry of a directory; None where there is none (or the writing of one broke off)."""
    try:
        data = json.loads((home / "entry.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise LemnosError(
            "is damaged", where=str(home / "entry.json"), fix="delete its directory"
        ) from None
    return Entry(**data | {"made": tuple(data["made"])})


def _save(home: Path, entry: Entry, before: str, after: str) -> None:
    paths.writable(home, mode=0o700)
    for text in (before, after):
        paths.replace_file(home / _sha256(text), text.encode(), mode=0o600)
    data = json.dumps(asdict(entry), indent=1).encode()
    paths.replace_file(home / "entry.json", data, mode=0o600)
    needed = {"entry.json", entry.before_sha256, entry.after_sha256}
    for stale in home.iterdir():
        if stale.name not in needed:
            stale.unlink()


def _without_us(entry: Entry, home: Path, now: str | None) -> Undone:
    """The file as it would be without lemnos; one that is gone comes back as it was."""
    before, after = _copy(home, entry.before_sha256), _copy(home, entry.after_sha256)
    if now is None:
        return Undone(before)
    try:
        return undone(entry.kind, before, after, now, entry.path)
    except LemnosError as error:
        raise LemnosError(
            f"was changed since `lemnos connect`, and {error.what}",
            where=error.where,
            fix=f"repair it; as it was before, it is kept at {home / entry.before_sha256}",
        ) from None


def _copy(home: Path, digest: str) -> str:
    try:
        text = (home / digest).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None or _sha256(text) != digest:
        raise LemnosError(
            "the copy of what was there is gone or damaged, so nothing was changed",
            where=str(home / digest),
            fix="take lemnos's keys out of the file by hand, then delete this directory",
        )
    return text


def _empty(text: str) -> bool:
    return not text.strip("{} \t\r\n")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return FRESH_MODE


def _missing(directory: Path) -> tuple[str, ...]:
    """The directories that must be made for ``directory``, the innermost first."""
    chain = (directory, *directory.parents)
    return tuple(str(one) for one in chain if not one.exists())


def _remove_empty(directories: tuple[str, ...]) -> None:
    for directory in directories:
        try:
            Path(directory).rmdir()
        except OSError:  # someone put something there, or took it away
            return


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
