"""What the systemd launcher is tried in: hosts of a testbed with a real systemd, and their users."""

from __future__ import annotations

import os
import shlex
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError
from lemnos.launchers.site import Site
from lemnos.launchers.systemd.launcher import Systemd
from lemnos.transport.base import Done
from lemnos.transport.here import Here
from tests.contract.launchers.suite import Bed, swept
from tests.testbeds.hosts import ADA
from tests.testbeds.systemd import Systemd as Real

USERS = {"user": ("ada", ADA), "system": ("root", 0)}


@dataclass
class Inside:
    """A machine that is entered with words before a command; its files are its own."""

    words: Sequence[str]
    where: str = "bed"

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        return Here().run(*self.words, *argv, stdin=stdin, timeout_s=timeout_s)

    def _sh(self, script: str, stdin: bytes | None = None) -> Done:
        return self.run("/bin/sh", "-c", script, stdin=stdin)

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        name, parent = shlex.quote(path), shlex.quote(str(Path(path).parent))
        done = self._sh(
            f"umask 077; mkdir -p -- {parent} && cat > {name}.part && "
            f"chmod {mode:o} {name}.part && mv -f {name}.part {name}",
            data,
        )
        assert done.code == 0, done.said

    def read(self, path: str, *, last: int | None = None) -> bytes | None:
        name = shlex.quote(path)
        how = f"tail -c {last}" if last is not None else "cat"
        done = self._sh(f"[ ! -e {name} ] || {{ printf x; {how} < {name}; }}")
        return done.out[1:].encode() if done.out else None

    def remove(self, path: str) -> None:
        self._sh(f"rm -rf -- {shlex.quote(path)}")

    def home(self) -> str:
        return self._sh('printf %s "$HOME"').out

    def forward(self, host: str, port: int) -> str:
        return Here().forward(host, port)


class Off(Inside):
    """One that is switched off."""

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        raise LemnosError("the host is off", where=self.where)


@dataclass
class Machine(Bed):
    """A bed whose units are services of a real systemd: the system's (as root), or Ada's own."""

    transport: Inside = field(default_factory=lambda: Inside(()))
    owner: int = 0

    def site(self, name: str = "box", **spec_changes: Any) -> Site:
        """The deployment's directory is its user's."""
        made = super().site(name, **spec_changes)
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, self.owner, self.owner, follow_symlinks=False)
        return made

    def get(self, url: str) -> dict[str, Any]:
        return self.get_there(url)

    def systemctl(self, *words: str) -> Done:
        """By hand, as an administrator."""
        scope = self.keys["systemd"]["scope"]
        return self.transport.run("systemctl", f"--{scope}", *words)

    def services(self) -> list[str]:
        """The names of all of lemnos' services that there is a file of."""
        told = self.systemctl("list-unit-files", "--no-legend", "lemnos-*").out
        return [line.split()[0] for line in told.splitlines()]

    def at(self, *hosts: str, silent: str = "") -> Systemd:
        """A launcher whose hosts are all this one machine; ``silent`` does not answer."""

        def reach(host: str) -> Inside:
            kind = Off if host == silent else Inside
            return kind(self.transport.words, where=host)

        site = self.site(systemd=self.keys["systemd"] | {"hosts": hosts})
        launcher = Systemd(site, reach)
        if not silent:
            self.made.append(launcher)
        return launcher


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A directory that hosts share with this machine, which Ada may enter, too."""
    with tempfile.TemporaryDirectory(prefix="lemnos-systemd-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def machine(box: Real, shared: Path, scope: str, **systemd: Any) -> Iterator[Machine]:
    """The units of ``scope`` on the host; nothing of them is left in the end."""
    user, owner = USERS[scope]
    directory = shared / uuid.uuid4().hex[:8]
    directory.mkdir()
    made = Machine(
        directory,
        "systemd",
        transport=Inside(box.at(user)),
        keys={"systemd": {"scope": scope} | systemd, "restart": {"backoff_s": 0.1}},
        owner=owner,
    )
    try:
        yield made
    finally:
        swept(made)
    assert made.services() == []
