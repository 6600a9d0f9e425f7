"""Ports, with real sockets."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

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
