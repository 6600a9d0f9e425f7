"""A real PostgreSQL from Debian: a cluster of the test's own in a temporary directory.

PostgreSQL refuses to run as root; there it runs as the user that Debian's package makes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import until

USER = "postgres"


def _directory() -> Path | None:
    """The directory of its programs, the newest version's."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found_ones = sorted(versions, key=lambda path: float(path.parent.parent.name))
    return found_ones[-1].parent if found_ones else None


PROGRAMS = _directory()


def _as_user() -> dict[str, Any]:
    """Options of a process that may be PostgreSQL's."""
    if os.getuid() != 0:
        return {}
    return {"user": USER, "group": USER, "extra_groups": []}


@dataclass
class Server:
    """A cluster; ``url`` has its superuser's password."""

    home: Path
    port: int
    password: str = field(repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        return f"postgresql://{USER}:{self.password}@/postgres?host={self.home}&port={self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert PROGRAMS
        command: list[str | Path] = [
            PROGRAMS / "postgres",
            "-D",
            self.home / "data",
            "-k",
            self.home,
        ]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-c", "fsync=off"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.home, **_as_user()
            )
        ready: list[str | Path] = [
            PROGRAMS / "pg_isready",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        until(lambda: subprocess.run(ready, check=False).returncode == 0)

    def stop(self) -> None:
        """End it at once, as when its machine fails: connections break."""
        if self.process:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()


@contextmanager
def serving() -> Iterator[Server]:
    """A cluster while the body runs. Skip the test if ``PROGRAMS`` is None."""
    assert PROGRAMS
    # Not pytest's directory: only its own user can get into that.
    home = Path(tempfile.mkdtemp(prefix="lemnos-postgres-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        server = Server(home, probe.getsockname()[1], secrets.token_hex(12))
    try:
        (home / "password").write_text(server.password)
        if _as_user():
            for path in (home, home / "password"):
                shutil.chown(path, USER, USER)
        command: list[str | Path] = [
            PROGRAMS / "initdb",
            "-D",
            home / "data",
            "-U",
            USER,
            "--no-sync",
        ]
        command += ["--auth=scram-sha-256", "--pwfile", home / "password"]
        command += ["--encoding=UTF8", "--locale=C"]
        subprocess.run(
            command, check=True, cwd=home, stdout=subprocess.DEVNULL, **_as_user()
        )
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home)
