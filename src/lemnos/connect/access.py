"""How a client reaches the endpoint, and the variables that tell it so."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lemnos.errors import LemnosError

NO_KEY = "lemnos"
"""Stands where a client insists on a key and the endpoint has none. Not a secret."""


@dataclass(frozen=True)
class Access:
    """An endpoint, and what to ask it for."""

    url: str
    """Without ``/v1``, which Anthropic's clients add themselves."""
    model: str
    key_file: Path | None = None
    """The key is its first word; None: the endpoint is keyless."""
    embedding_model: str | None = None

    @property
    def base_url(self) -> str:
        """What OpenAI's clients want: with ``/v1``."""
        return f"{self.url}/v1"

    def key(self) -> str:
        """The key, or NO_KEY. Raises LemnosError if its file cannot be read or is empty."""
        return first_key(self.key_file) if self.key_file else NO_KEY


@dataclass(frozen=True)
class KeyIn:
    """The value of a variable that is a secret, and in a file."""

    path: Path


Variables = Mapping[str, str | KeyIn]


def access(
    url: str,
    model: str,
    key_file: str | Path | None = None,
    embedding_model: str | None = None,
) -> Access:
    """An Access from what a person wrote: ``url`` with or without ``/v1``. Reads the key once, so
    that a file without one is an error now. Raises LemnosError."""
    if not url.startswith(("http://", "https://")):
        raise LemnosError(
            "is not a URL", where=url, fix="write it like http://127.0.0.1:5366"
        )
    file = Path(os.path.abspath(Path(key_file).expanduser())) if key_file else None
    made = Access(
        url.rstrip("/").removesuffix("/v1"), model, file, embedding_model or None
    )
    made.key()
    return made


def first_key(path: Path) -> str:
    """The first word in ``path``: of its lines, the first key. Raises LemnosError."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError:
        raise LemnosError("is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise LemnosError(
            f"the API key cannot be read ({error.strerror})", where=str(path)
        ) from None
    if not words:
        raise LemnosError(
            "has no API key", where=str(path), fix="write the key on its first line"
        )
    return words[0]


def key_command(path: Path) -> str:
    """The shell command that prints the key in ``path``, so that it is nowhere else."""
    return f"awk 'NF {{ print $1; exit }}' {shlex.quote(str(path))}"


def key_value(access: Access) -> str | KeyIn:
    """What a key variable is set to."""
    return KeyIn(access.key_file) if access.key_file else NO_KEY


def exports(variables: Variables) -> list[str]:
    """Lines for a POSIX shell. A key stays in its file: the shell reads it from there."""
    return [
        f'export {name}="$({key_command(value.path)})"'
        if isinstance(value, KeyIn)
        else f"export {name}={shlex.quote(value)}"
        for name, value in variables.items()
    ]


def plain(variables: Variables) -> dict[str, str]:
    """The variables with the keys themselves, for a file that no shell reads."""
    return {
        name: first_key(value.path) if isinstance(value, KeyIn) else value
        for name, value in variables.items()
    }
