"""Forwards over a real sshd: they come back on the same port, and end with their owner."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lemnos.errors import LemnosError
from lemnos.transport.ssh import Ssh
from tests import sshd
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        sshd.SSHD is None,
        reason="sshd is not installed (Debian: apt-get install openssh-server)",
    ),
]


class Greets(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"hello\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sshd.Server]:
    with sshd.serving(tmp_path) as made:
        yield made


@pytest.fixture
def ssh(server: sshd.Server) -> Iterator[Ssh]:
    made = Ssh("box", server.config)
    yield made
    made.close()


@contextmanager
def greeter() -> Iterator[int]:
    """A port that greets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greets) as listening:
        threading.Thread(target=listening.serve_forever).start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()


def greeting(url: str) -> bytes:
    """What is said there; nothing while nobody listens."""
    port = int(url.rpartition(":")[2])
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            return client.recv(100)
    except OSError:
        return b""


def forwarding(url: str) -> list[psutil.Process]:
    """The ssh that holds the port."""
    word = f"127.0.0.1:{url.rpartition(':')[2]}:"
    found = []
    for process in psutil.process_iter():
        try:
            if any(part.startswith(word) for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_forward_leads_there_and_comes_back_on_its_port(
    server: sshd.Server, ssh: Ssh
) -> None:
    with greeter() as port:
        url = ssh.forward("127.0.0.1", port)
        assert greeting(url) == b"hello\n"
        assert ssh.forward("127.0.0.1", port) == url
        (child,) = forwarding(url)
        child.kill()
        until(lambda: greeting(url) == b"hello\n")
        for session in psutil.Process(server.process.pid).children():
            session.kill()  # as when the login node is started anew
        until(lambda: greeting(url) == b"hello\n")
        other = ssh.forward("localhost", port)
        assert other != url and greeting(other) == b"hello\n"
        ssh.drop("127.0.0.1", port)
        assert greeting(url) == b"" and not forwarding(url)
        assert greeting(other) == b"hello\n"
        ssh.close()
        assert not forwarding(other)


def test_what_does_not_listen_yet_can_be_forwarded(ssh: Ssh) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = ssh.forward("127.0.0.1", port)
    assert greeting(url) == b""
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Greets) as listening:
        threading.Thread(target=listening.serve_forever).start()
        until(lambda: greeting(url) == b"hello\n")
        listening.shutdown()


def test_a_forward_that_cannot_be_made_is_a_sentence(
    server: sshd.Server, ssh: Ssh
) -> None:
    before = threading.active_count()
    (server.directory / "authorized").write_text("")
    with pytest.raises(LemnosError, match="does not let you in"):
        ssh.forward("127.0.0.1", 1)
    with pytest.raises(LemnosError, match="nothing listens for SSH there"):
        Ssh("nowhere", server.config).forward("127.0.0.1", 1)
    assert threading.active_count() == before, "no thread stays behind"


def test_a_forward_ends_with_its_owner_however_that_ends(server: sshd.Server) -> None:
    code = (
        "import sys, signal, pathlib; from lemnos.transport.ssh import Ssh;"
        "print(Ssh('box', pathlib.Path(sys.argv[1])).forward('127.0.0.1', 9), flush=True);"
        "signal.pause()"
    )
    for how in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(server.config)], stdout=subprocess.PIPE
        ) as owner:
            assert owner.stdout
            url = owner.stdout.readline().decode().strip()
            assert forwarding(url)
            os.kill(owner.pid, how)
        until(lambda url=url: not forwarding(url))  # type: ignore[misc]
