"""The targets table as the gateway sees it: read again whenever it is replaced."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from pydantic import ValidationError

from lemnos.errors import LemnosError
from lemnos.spec.targets import TARGETS_VERSION, TargetTable

POLL_S = 0.25
"""Between looks at the file; a stat works on network file systems, where inotify does not."""

log = logging.getLogger("lemnos.gateway")


def read_table(path: Path) -> TargetTable:
    """The table at ``path``. Raises LemnosError when it cannot be used."""
    try:
        table = TargetTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LemnosError(
            f"the targets cannot be read ({error.strerror})", where=str(path)
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise LemnosError(
            f"the targets are not valid: {problem['msg']}", where=str(path)
        ) from None
    if table.version > TARGETS_VERSION:
        raise LemnosError("the targets are of a newer lemnos", where=str(path))
    return table


class WatchedTable:
    """The newest valid table of a file. A broken file leaves the old one in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self.now = read_table(path)

    async def watch(self) -> None:
        """Look for changes for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            self.refresh()

    def refresh(self) -> None:
        """Read the table again if the file is another one than before."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.now = read_table(self._path)
        except LemnosError as error:
            log.warning("%s; revision %d stays", error.what, self.now.revision)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


class TargetKeys:
    """The bearer keys of targets, read from the files that the table names."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[int, str]] = {}

    def of(self, key_file: str | None) -> str | None:
        """The key in ``key_file``, read again when the file was replaced."""
        if key_file is None:
            return None
        path = Path(key_file)
        written = path.stat().st_mtime_ns
        known = self._keys.get(key_file)
        if known is None or known[0] != written:
            known = (written, path.read_text().strip())
            self._keys[key_file] = known
        return known[1]
