"""Clients' keys: made once, shown once, and kept as digests with their limits."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lemnos import leases, paths
from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.document import load, validated
from lemnos.spec.gateway import KeysFile
from lemnos.spec.targets import ClientKey

PREFIX = "lemnos-"
"""So that a key that is found somewhere is known for one (scanners of secrets look for such)."""
KEY_BYTES = 32
"""256 bits: as random as a digest is long, so that a quick hash protects it."""
HEAD = "# Written by 'lemnos keys'. Digests only: the keys themselves are nowhere.\n"


def digest(key: str) -> str:
    """How a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ClientKey, ...]:
    """The keys in ``path``; none where there is no file. LemnosError with the line otherwise."""
    if not path.exists():
        return ()
    return load(path, KeysFile).keys


def add_key(path: Path, name: str, **limits: Any) -> tuple[str, ClientKey]:
    """A new key in ``path``, which is made if need be: (the key, what is kept of it).

    ``limits`` are ClientKey's; None is no limit. Raises UsageError for a name that is taken.
    """
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    given = {limit: value for limit, value in limits.items() if value is not None}
    made = validated(ClientKey, {"name": name, "sha256": digest(secret), **given})
    with _alone(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise UsageError(
                f"there is a key '{name}' already",
                where=str(path),
                fix=f"choose another name, or 'lemnos keys rm {name}' first",
            )
        _write(path, (*keys, made))
    return secret, made


def remove_key(path: Path, name: str) -> tuple[ClientKey, ...]:
    """The keys that are left without ``name``. Raises UsageError where there is none."""
    with _alone(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            names = [key.name for key in keys]
            raise UsageError(
                f"no key '{name}'",
                where=str(path),
                fix=near(name, names) or f"there are: {', '.join(names) or 'none'}",
            )
        _write(path, left)
    return left


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two that change the file at once must not undo each other."""
    if not path.parent.is_dir():
        raise LemnosError(
            "is no directory", where=str(path.parent), fix="make it first"
        )
    with leases.lease(path.with_name(f".{path.name}.lease"), wait_s=30):
        yield


def _write(path: Path, keys: tuple[ClientKey, ...]) -> None:
    data = KeysFile(keys=keys).model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump({"version": 1, **data}, sort_keys=False, allow_unicode=True)
    paths.replace_file(path, (HEAD + text).encode(), mode=0o600)
