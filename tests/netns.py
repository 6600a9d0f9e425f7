"""Hosts with networks and sshds of their own, made of network namespaces: only as root, on
kernels that let us. Nothing touches the machine's own network."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sshd import SSHD
from tests.waiting import until


@dataclass
class Net:
    """Hosts ``n1``, ``n2`` ... and ``desk``, from which ``config`` reaches them by SSH."""

    config: Path
    prefix: str

    def at(self, host: str) -> list[str]:
        """The words before a command that is to run in ``host``'s network."""
        return ["ip", "netns", "exec", f"{self.prefix}-{host}"]

    def run(self, host: str, *command: str) -> str:
        """Run it there to its end."""
        return _run(*self.at(host), *command)


@functools.cache
def why_not() -> str | None:
    """Why no such hosts can be made here; None if they can."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    if SSHD is None or not shutil.which("ip"):
        return "needs sshd and ip (Debian: openssh-server, iproute2)"
    name = f"lemnos-{os.getpid()}-try"
    try:
        _run("ip", "netns", "add", name)
        _run(
            "ip",
            "-n",
            name,
            "link",
            "add",
            "name",
            "v0",
            "type",
            "veth",
            "peer",
            "name",
            "v1",
        )
    except subprocess.CalledProcessError:
        return "this kernel lets us make no network namespaces"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return None


@contextmanager
def hosts(directory: Path, count: int) -> Iterator[Net]:
    """``count`` hosts and a desk, each one cable from the same switch, while the body runs."""
    prefix = f"lemnos-{os.getpid()}"
    names = ["desk", *(f"n{number}" for number in range(1, count + 1))]
    net = Net(directory / "ssh_config", prefix)
    _keys_and_config(directory, names)
    servers = []
    with contextlib.ExitStack() as stack:
        for name in ["switch", *names]:
            _run("ip", "netns", "add", f"{prefix}-{name}")
            stack.callback(_run, "ip", "netns", "del", f"{prefix}-{name}")
        _run("ip", "-n", f"{prefix}-switch", "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", f"{prefix}-switch", "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            _cable(prefix, name, f"10.99.0.{number}/24")
            if name == "desk":
                continue
            server = subprocess.Popen(
                [*net.at(name), str(SSHD), "-D", "-e", "-f", str(directory / "sshd")],
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_end, server)
            servers.append(server)
            until(lambda name=name: ":22 " in net.run(name, "ss", "-ltn"))  # type: ignore[misc]
        yield net


def _cable(prefix: str, host: str, address: str) -> None:
    switch, there = f"{prefix}-switch", f"{prefix}-{host}"
    _run("ip", "link", "add", f"to-{host}", "netns", switch, "type", "veth",
         "peer", "name", "eth0", "netns", there)  # fmt: skip
    _run("ip", "-n", switch, "link", "set", f"to-{host}", "master", "br0", "up")
    _run("ip", "-n", there, "addr", "add", address, "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", there, "link", "set", device, "up")


def _keys_and_config(directory: Path, names: list[str]) -> None:
    for key in ("host", "user"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key))
    (directory / "sshd").write_text(
        f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
    )
    kind, key = (directory / "host.pub").read_text().split()[:2]
    (directory / "known").write_text(f"10.99.0.* {kind} {key}\n")
    hosts = [f"Host {n}\n HostName 10.99.0.{i}\n" for i, n in enumerate(names, 1)]
    (directory / "ssh_config").write_text(
        "".join(hosts) + f"Host *\n User root\n IdentityFile {directory}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {directory}/known\n"
        " StrictHostKeyChecking yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(10)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout
