"""A real sshd on loopback that lets the test's own user in, with keys made for the test."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@dataclass
class Server:
    """A running sshd and the client's configuration that reaches it as ``box``."""

    config: Path
    process: subprocess.Popen[bytes]
    directory: Path


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """An sshd while the body runs. Skip the test if ``SSHD`` is None."""
    assert SSHD
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        command = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            str(directory / name),
        ]
        subprocess.run(command, check=True)
    shutil.copy(directory / "user.pub", directory / "authorized")
    server_config = directory / "sshd_config"
    server_config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\n"
        f"AuthorizedKeysFile {directory}/authorized\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv LEMNOS_MODELS={directory}/remote/models\n"
    )
    known = (directory / "host.pub").read_text().split()
    (directory / "known").write_text(f"[127.0.0.1]:{port} {known[0]} {known[1]}\n")
    config = directory / "ssh_config"
    config.write_text(
        f"Host box\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n"
        f" IdentityFile {directory}/user\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {directory}/known\n StrictHostKeyChecking yes\n"
        "Host nowhere\n HostName 127.0.0.1\n Port 9\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, when it runs as root
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(server_config)], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(port))
        yield Server(config, process, directory)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
