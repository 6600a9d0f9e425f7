"""Is a model whole? Structure always; hashes unless they were checked before.

A stamp remembers that a file with this size, modification time and inode had a hash, so
that the next start does not read 100 GB again. ``lemnos models verify`` ignores stamps.
"""

from __future__ import annotations

import json
from pathlib import Path

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.models import gguf, safetensors
from lemnos.models.download import hash_of
from lemnos.spec.facts import ModelFormat


def check_structure(path: Path, kind: ModelFormat) -> None:
    """Headers, index and sizes agree. Raises LemnosError that says what is wrong."""
    if kind == "gguf":
        gguf.check_whole(path)
    else:
        safetensors.check_whole(path)


def check_sha256(path: Path, wanted: str, *, again: bool = False) -> None:
    """The file hashes to ``wanted``; with ``again``, whatever was remembered."""
    if not again and _remembered(path) == wanted:
        return
    found = hash_of(path, "sha256")
    if found != wanted:
        raise LemnosError(
            f"has the wrong content: its sha256 is {found}, not {wanted}",
            where=str(path),
            fix="remove it and pull it again",
        )
    remember(path, found)


def remember(path: Path, sha256: str) -> None:
    """Note that ``path``, as it is now, has this hash."""
    stamps = _stamps()
    stamps[str(path.resolve())] = [*_identity(path), sha256]
    paths.replace_file(_stamps_path(), json.dumps(stamps, indent=0).encode())


def _remembered(path: Path) -> str | None:
    stamp = _stamps().get(str(path.resolve()))
    if not stamp or stamp[:-1] != _identity(path):
        return None
    return str(stamp[-1])


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _stamps_path() -> Path:
    return paths.state_dir() / "verified.json"


def _stamps() -> dict[str, list[int | str]]:
    """Path -> [size, mtime_ns, inode, sha256]; lost or damaged, files are hashed again."""
    try:
        stamps = json.loads(_stamps_path().read_bytes())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}
