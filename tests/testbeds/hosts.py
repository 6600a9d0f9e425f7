"""Hosts with sshds: a cluster's, or plain boxes. Namespaces of this machine, only as root.

Each has a name, processes, a network, cgroups and services of its own, on a switch that leads
nowhere else; they share the file system, as a cluster's hosts do. All of a host dies with its
first process, and that with the test's own, so that nothing is left behind.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.testbeds import cgroups
from tests.testbeds.cgroups import FREEZER
from tests.testbeds.ssh_files import client, service, write_keys_and_servers

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PYTHON = (sys.executable, "-I", "-S")  # quick to start: no site, no coverage
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ADA = 4711  # her user and group
NETWORK = "10.99.0"
NAMESPACES = ("--uts", "--mount", "--net", "--pid", "--cgroup")


@dataclass
class Hosts:
    """Hosts that are running, by name."""

    directory: Path
    addresses: dict[str, str]
    ssh: dict[str, str]
    cgroups: list[Path]
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def ssh_config(self) -> Path:
        """On hosts, with it ``ssh -F`` reaches every host by its name; it is also the user's
        own there, so that it need not be named."""
        return self.directory / "home/.ssh/config"

    @property
    def ssh_from_here(self) -> Path:
        """The same for the test itself, which is on none of the hosts' networks."""
        return self.directory / "etc/ssh_from_here"

    def at(self, host: str) -> list[str]:
        """The words before a command that is to run on ``host``; signals reach it, too."""
        return [*PYTHON, str(HERE / "enter.py"), self._first(host)]

    def start(
        self, host: str, *command: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The command on ``host``, with pipes; it ends at the latest when the host does."""
        return subprocess.Popen(
            [*self.at(host), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | dict(env or {}),
        )

    def run(
        self,
        host: str,
        *command: str,
        code: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What the command printed on ``host`` (and what it said, if it was to fail); it must
        leave with ``code``, within three minutes."""
        with self.start(host, *command, env=env) as process:
            try:
                printed, said = process.communicate(timeout=180)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == code, f"{command}: {process.returncode}: {said}"
        return printed if code == 0 else printed + said

    def processes(self, host: str) -> list[str]:
        """The command lines of all that runs on ``host``, beside its first process."""
        own = ("init.py", "ps -eo", "<defunct>")
        lines = self.run(host, "ps", "-eo", "args=").splitlines()
        return [line for line in lines if not any(word in line for word in own)]

    def hide(self, host: str, directory: Path, *, size: str = "50%") -> None:
        """From now on ``host`` has an empty directory of its own there, which is not shared;
        more than ``size`` (as 64k) does not fit."""
        self.run(host, "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))  # fmt: skip

    def kill(self, *hosts: str) -> None:
        """Cut their power: all their processes die at once, and their networks go."""
        dying = {host: self.running.pop(host) for host in hosts}
        for host, process in dying.items():
            for tree in self.cgroups:
                cgroups.thaw(tree / host)
            with suppress(ProcessLookupError, IndexError):  # it is dead already
                os.kill(int(first_of(process)), signal.SIGKILL)
        for host, process in dying.items():
            process.communicate(timeout=30)
            for tree in self.cgroups:
                cgroups.remove(tree / host)
        self._write_ssh_from_here()

    def boot(self, *hosts: str) -> None:
        """Start them, anew if they were killed, and their services."""
        for host in hosts:
            self.running[host] = self._first_process(host)
        for host in hosts:
            self._expect(host, "up")
            if host in self.addresses:
                self._cable(host)
        for host in hosts:
            pipe = self.running[host].stdin
            assert pipe
            pipe.write("cabled\n")
            pipe.flush()
        for host in hosts:
            self._expect(host, "ready")
        self._write_ssh_from_here()

    def _write_ssh_from_here(self) -> None:
        """Sessions with each host's sshd that reach it by its namespaces, not its network."""
        etc = self.directory / "etc"
        reach = dict.fromkeys(self.addresses, " HostName 127.0.0.1\n Port 9\n")
        for host, kind in self.ssh.items():
            if host in self.running and kind != "closed":
                words = [*self.at(host), "/usr/sbin/sshd", "-i", "-f", f"{etc}/sshd.{kind}"]  # fmt: skip
                reach[host] = f" ProxyCommand {shlex.join(words)}\n"
        self.ssh_from_here.write_text(client(etc, reach))

    def _first(self, host: str) -> str:
        assert host in self.running, f"{host} is switched off"
        return first_of(self.running[host])

    def _first_process(self, host: str) -> subprocess.Popen[str]:
        settings = str(self.directory / f"hosts/{host}.json")
        words = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--", *PYTHON, str(HERE / "init.py"), settings]  # fmt: skip
        for tree in self.cgroups:
            join = 'mkdir -p "$0" && echo $$ >"$0/cgroup.procs" && exec "$@"'
            words = ["sh", "-c", join, str(tree / host), *words]
        with (self.directory / f"hosts/{host}.log").open("a") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"PATH": SYSTEM, "LANG": "C.UTF-8"},
            )

    def _expect(self, host: str, word: str) -> None:
        pipe = self.running[host].stdout
        assert pipe
        log = self.directory / f"hosts/{host}.log"
        assert pipe.readline() == f"{word}\n", f"{host}: {log.read_text()}"

    def _cable(self, host: str) -> None:
        switch, there = self._first("switch"), self._first(host)
        # The same after every boot, as a network card's: its neighbours remember it.
        number = int(self.addresses[host].split(".")[-1])
        card = f"02:00:00:00:00:{number:02x}"
        ip("link", "add", f"to-{host}", "netns", switch, "type", "veth",
           "peer", "name", "eth0", "address", card, "netns", there)  # fmt: skip
        ip("link", "set", f"to-{host}", "master", "br0", "up", inside=switch)
        ip("address", "add", f"{self.addresses[host]}/24", "dev", "eth0", inside=there)
        for device in ("lo", "eth0"):
            ip("link", "set", device, "up", inside=there)


@contextmanager
def hosts(
    directory: Path,
    *names: str,
    ssh: Mapping[str, str] | None = None,
    services: Mapping[str, Sequence[Sequence[str]]] | None = None,
    files: Mapping[str, str] | None = None,
    root: Path | None = None,
    shared: Sequence[Path] = (),
    systemd: bool = False,
) -> Iterator[Hosts]:
    """Hosts of these names while the body runs; the test is skipped where there can be none.

    ``ssh``: the kind of a host's sshd, if it is not ``open``: ``closed`` (none), ``denied``
    (lets nobody in), ``changed`` (its key is not the known one). ``services``: by host,
    commands that return when they serve. ``files``: what to put over which path of each host.
    ``root``: the directory of a system, which the hosts run with changes of their own,
    instead of this machine's as it is; of this machine they then see the repository, the
    bed's directory and ``shared``. ``systemd``: it is the hosts' first process."""
    if reason := why_not():
        pytest.skip(reason)
    etc = directory / "etc"
    for name in ("home/.ssh", "hosts", "etc"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    bed = Hosts(
        directory,
        {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)},
        {name: (ssh or {}).get(name, "open") for name in names},
        cgroups.new(),
    )
    write_keys_and_servers(etc, pam=systemd)
    reach = {n: f" HostName {address}\n" for n, address in bed.addresses.items()}
    bed.ssh_config.write_text(client(etc, reach))
    _write_names_and_users(bed, root or Path("/"))
    for name in ("switch", *names):
        serves = [*service(etc, bed.ssh.get(name, "closed")), *(services or {}).get(name, [])]  # fmt: skip
        _write_settings(
            bed, name, root=root and str(root), shared=[*map(str, shared)], files=files or {},
            services=serves, systemd=systemd and name != "switch",
        )  # fmt: skip
    try:
        bed.boot("switch")
        ip("link", "add", "br0", "type", "bridge", inside=bed._first("switch"))
        ip("link", "set", "br0", "up", inside=bed._first("switch"))
        bed.boot(*names)
        yield bed
    finally:
        bed.kill(*bed.running)
        for tree in bed.cgroups:
            cgroups.remove(tree)


@functools.cache
def why_not() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if os.getuid() != 0:
        return "only root can make hosts of namespaces"
    tools = ("unshare", "setpriv", "ip", "ssh", "sshd", "ps")
    if missing := [tool for tool in tools if not shutil.which(tool, path=SYSTEM)]:
        return f"needs {', '.join(missing)} (Debian: util-linux, iproute2, openssh-client, openssh-server, procps)"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        return f"this kernel lets us make no hosts: {tried.stderr.strip()}"
    return None


def environment() -> dict[str, str]:
    """What commands on hosts have: the test's own, and the system's directories on PATH."""
    path = [*os.environ.get("PATH", "").split(":"), *SYSTEM.split(":")]
    return os.environ | {"PATH": ":".join(dict.fromkeys(path))}


def ip(*words: str, inside: str | None = None) -> None:
    """Run ``ip`` here, or in the network of the process ``inside``."""
    there = ["nsenter", "--target", inside, "--net"] if inside else []
    subprocess.run([*there, "ip", *words], check=True)


def first_of(unshare: subprocess.Popen[str]) -> str:
    """The PID, seen from here, of a host's first process: the one child of its ``unshare``."""
    return Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0]  # fmt: skip


def _write_names_and_users(bed: Hosts, root: Path) -> None:
    """The hosts' names, and a system's users with ``ada``, who is nobody special."""
    etc = bed.directory / "etc"
    names = "".join(f"{address} {name}\n" for name, address in bed.addresses.items())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    # What SSH sessions find as their home is the bed's, not the one of this machine's root.
    users = (root / "etc/passwd").read_text().splitlines(keepends=True)
    others = [user for user in users if not user.startswith("root:")]
    mine = f"root:x:0:0:root:{bed.directory}/home:/bin/bash\nada:*:{ADA}:{ADA}:Ada:/home/ada:/bin/bash\n"  # fmt: skip
    (etc / "passwd").write_text("".join([mine, *others]))
    groups = (root / "etc/group").read_text()
    (etc / "group").write_text(f"{groups}ada:x:{ADA}:\n")


def _write_settings(bed: Hosts, name: str, **settings: Any) -> None:
    """What init.py reads, and the directories that it needs."""
    over, etc = bed.directory / "over" / name, bed.directory / "etc"
    over.mkdir(parents=True)
    settings["shared"] = [str(bed.directory), str(REPOSITORY), *settings["shared"]]
    settings["files"] = {f"{etc}/{name}": f"/etc/{name}" for name in ("hosts", "passwd", "group")} | settings["files"]  # fmt: skip
    settings |= {"name": name, "over": str(over), "freezer": FREEZER.is_dir()}
    (bed.directory / f"hosts/{name}.json").write_text(json.dumps(settings))
