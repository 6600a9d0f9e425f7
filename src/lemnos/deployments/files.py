"""The files of one deployment, and reading logs that grow."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lemnos import paths
from lemnos.launchers import logs
from lemnos.transport.here import Here
from lemnos.wire.redact import redact

_ERROR = re.compile(
    r"\b(error|Error|ERROR|Exception|CRITICAL|FATAL|fatal|Traceback|OOM|out of memory|"
    r"Killed|killed|Segmentation fault|Aborted|GGML_ASSERT)\b|Error:"
)


@dataclass(frozen=True)
class Files:
    """Where a deployment keeps what; the directory is private to its owner."""

    directory: Path

    @classmethod
    def of(cls, name: str) -> Files:
        """The files of ``name``; the directory is made."""
        return cls(paths.writable(cls.named(name).directory, mode=0o700))

    @classmethod
    def named(cls, name: str) -> Files:
        """The files of ``name``, whether or not there are any: nothing is made."""
        return cls(paths.state_dir() / "deployments" / name)

    @property
    def targets(self) -> Path:
        return self.directory / "targets.json"

    @property
    def engine_key(self) -> Path:
        return self.directory / "engine.key"

    @property
    def own_key(self) -> Path:
        """With which lemnos itself asks an endpoint that has keys."""
        return self.directory / "own.key"

    @property
    def supervisor_lease(self) -> Path:
        return self.directory / "supervisor.lease"

    @property
    def up_lease(self) -> Path:
        return self.directory / "up.lease"

    def log(self, job: str) -> Path:
        """``engine-0``, ``gateway-0`` or ``supervisor``."""
        return self.directory / f"{job}.log"

    def make_key(self) -> None:
        """New keys: between the gateway and the engines, and lemnos's own for the endpoint;
        readable by their owner alone."""
        for path in (self.engine_key, self.own_key):
            # A word first: engines take it for a flag where it begins with '-', YAML for a number.
            key = f"lemnos-{secrets.token_urlsafe(32)}"
            paths.replace_file(path, key.encode(), mode=0o600)

    def keys(self) -> dict[Path, bytes]:
        """The keys that there are, by their files."""
        return {
            p: p.read_bytes() for p in (self.engine_key, self.own_key) if p.exists()
        }

    def restore(self, keys: Mapping[Path, bytes]) -> bool:
        """Write back keys that somebody removed; whether any was gone. What runs knows them still."""
        gone = [path for path in keys if not path.exists()]
        for path in gone:
            paths.writable(self.directory, mode=0o700)
            paths.replace_file(path, keys[path], mode=0o600)
        return bool(gone)

    def clear(self) -> None:
        """Remove all but the logs (``lemnos logs`` reads them after ``down``)."""
        for path in self.directory.iterdir():
            if path.suffix == ".log" or path == self.up_lease:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class Tail:
    """What a log gained since the last read: whole lines, as text, without keys.

    Engines write their logs themselves, into a directory that is their owner's alone; what
    leaves it (to a terminal, a record, an error) is read here.
    """

    def __init__(self, path: Path, *, from_end: bool = True) -> None:
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0

    @property
    def there(self) -> bool:
        """Whether this machine has the file."""
        return self._path.exists()

    def last(self, count: int) -> list[str]:
        """The last lines that there are, new or not."""
        return last_lines(self._path, count)

    def lines(self) -> list[str]:
        """The new whole lines; none while the file does not exist."""
        try:
            with self._path.open("rb") as handle:
                if self._path.stat().st_size < self._position:  # it was rotated
                    self._position = 0
                handle.seek(self._position)
                data = handle.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        return redact(whole.decode(errors="replace")).splitlines()


def rotate(path: Path, limit: int) -> bool:
    """Move a log's text to ``<name>.old.log`` once it is longer than ``limit`` bytes; whether it was.

    Copied and truncated, since its writer, which appends, keeps the file open: lines written
    in between are lost, as with logrotate's copytruncate.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        old = path.with_name(f"{path.stem}.old.log")
        shutil.copyfile(path, old)
        os.chmod(old, 0o600)
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def telling(lines: list[str], most: int = 20) -> list[str]:
    """Of a failed start's lines, those that matter: from its last error on, else the last ones."""
    said = [line for line in this_run(lines) if line.strip()]
    errors = [at for at, line in enumerate(said) if _ERROR.search(line)]
    if not errors:
        return said[-5:]
    first = next((at for at in errors if at >= errors[-1] - most), errors[-1])
    return said[first : first + most]


def last_lines(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a log of this machine, without keys; none if it is not there."""
    return logs.last_lines(Here(), str(path), count)


def this_run(lines: list[str]) -> list[str]:
    """Of a log's lines, those since the job was started last."""
    starts = [
        at for at, line in enumerate(lines) if line.startswith("--- lemnos starts ")
    ]
    return lines[starts[-1] + 1 :] if starts else lines
