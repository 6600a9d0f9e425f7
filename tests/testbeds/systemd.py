"""Hosts whose first process is a real systemd, over this machine's own files.

What they change stays in the bed and outlives a ``kill`` and ``boot``, as on a disk. ``ada``
(without a password, her home shared with the test) may linger: her user manager runs from the
boot on. Limits of memory are kept only where the machine's cgroups are of version 2 alone.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.testbeds.cgroups import version_2
from tests.testbeds.hosts import ADA, HERE, SYSTEM, Hosts, hosts
from tests.testbeds.hosts import why_not as no_hosts
from tests.waiting import until


@dataclass
class Systemd:
    """A running host, or several (``hosts``)."""

    hosts: Hosts
    name: str

    @property
    def home(self) -> Path:
        """Ada's home, as the test sees it."""
        return self.hosts.directory / "ada"

    def at(self, user: str = "root", host: str | None = None) -> list[str]:
        """The words before a command that is to run there, as root or ada."""
        words = self.hosts.at(host or self.name)
        return words if user == "root" else [*words, *as_ada()]

    def run(
        self, *command: str, user: str = "root", code: int = 0, host: str | None = None
    ) -> str:
        """What the command printed; it must leave with ``code``."""
        words = () if user == "root" else as_ada()
        return self.hosts.run(host or self.name, *words, *command, code=code)

    def reboot(self) -> None:
        """Cut the power, and start it again."""
        self.hosts.kill(self.name)
        self.hosts.boot(self.name)
        wait_for_boot(self.hosts, self.name)


@contextmanager
def systemd(
    directory: Path,
    *names: str,
    ssh: Mapping[str, str] | None = None,
    shared: Sequence[Path] = (),
) -> Iterator[Systemd]:
    """Hosts of these names (``box``) while the body runs, or the test is skipped.

    They share the bed's directory, the repository and ``shared`` with this machine; ``ssh`` as
    for ``hosts``."""
    if reason := why_not():
        pytest.skip(reason)
    names = names or ("box",)
    (directory / "ada").mkdir(parents=True)
    directory.chmod(0o755)
    shutil.chown(directory / "ada", ADA, ADA)
    private = [str(path) for path in Path(sys.base_prefix).parents if not path.stat().st_mode & 1]  # fmt: skip
    first_boot = ["sh", str(HERE / "first_boot.sh"), *private]
    with hosts(
        directory, *names, ssh=ssh, root=Path("/"), shared=shared, systemd=True,
        services={name: [first_boot] for name in names},
        files={f"{directory}/ada": "/home/ada"},
    ) as there:  # fmt: skip
        wait_for_boot(there, *names)
        yield Systemd(there, names[0])


def as_ada() -> tuple[str, ...]:
    """The words before a command that is to run as ada, with the environment of a login."""
    own = (
        f"XDG_RUNTIME_DIR=/run/user/{ADA}",
        "HOME=/home/ada",
        "USER=ada",
        "LANG=C.UTF-8",
    )
    return ("runuser", "-u", "ada", "--", "env", "-i", *own, f"PATH={SYSTEM}")


def wait_for_boot(there: Hosts, *names: str) -> None:
    """Until everything that starts with the hosts has started, ada's manager too."""
    for name in names:
        at = there.at(name)
        for systemctl in (["systemctl"], [*as_ada(), "systemctl", "--user"]):
            until(functools.partial(_booted, *at, *systemctl))


def _booted(*systemctl: str) -> bool:
    ask = [*systemctl, "is-system-running"]
    asked = subprocess.run(ask, capture_output=True, text=True, check=False)
    return asked.stdout.strip() in ("running", "degraded")


def why_not() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    parts = ("/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/systemctl")
    if missing := [part for part in parts if not Path(part).exists()]:
        return f"needs {', '.join(missing)} (Debian: systemd, systemd-sysv, dbus-user-session, libpam-systemd)"  # fmt: skip
    if not version_2():
        return "this machine has no cgroups of version 2"
    return no_hosts()
