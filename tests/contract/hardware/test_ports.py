"""Ports, with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.ports import free_port, port_holder, port_is_free


def test_a_free_port_is_free() -> None:
    port = free_port("127.0.0.1")
    assert port_is_free("127.0.0.1", port)
    assert port_holder("127.0.0.1", port) is None


def test_a_taken_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        holder = port_holder("127.0.0.1", port)
        assert holder and f"process {os.getpid()} (" in holder
        assert psutil.Process().username() in holder


def test_a_holder_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with socket.create_server(("127.0.0.1", 0)) as server:
        holder = port_holder("127.0.0.1", server.getsockname()[1])
    assert holder == "a process of another user"


def test_a_holder_on_every_address_is_found() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        holder = port_holder("127.0.0.1", server.getsockname()[1])
    assert holder and f"process {os.getpid()} (" in holder


def test_the_holder_of_another_address_is_not_blamed() -> None:
    listen = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.2', 0))\n"
        "print(server.getsockname()[1], flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", listen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        assert port_holder("127.0.0.1", port) is None
        with socket.create_server(("127.0.0.1", port)):
            mine = port_holder("127.0.0.1", port)
            theirs = port_holder("127.0.0.2", port)
        other.communicate("")
    assert mine and f"process {os.getpid()} (" in mine
    assert theirs and f"process {other.pid} (" in theirs


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid"])
def test_an_address_that_is_not_here_is_a_sentence(host: str) -> None:
    with pytest.raises(UsageError, match="no address of this machine"):
        port_is_free(host, 5366)
    with pytest.raises(UsageError, match="no address of this machine"):
        free_port(host)


def test_a_privileged_port_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)  # the tests may run as root
    with pytest.raises(LemnosError, match="port 80 needs privileges"):
        port_is_free("127.0.0.1", 80)
