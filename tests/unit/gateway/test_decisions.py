"""Admission: who a client is, and what it is told of models."""

from __future__ import annotations

import socket
import struct

import pytest

from lemnos.gateway import auth
from lemnos.gateway.desk import model_list


def test_no_models_in_both_protocols() -> None:
    assert model_list((), "openai") == {"object": "list", "data": []}
    assert model_list((), "anthropic")["first_id"] is None


def in_proc(host: str) -> str:
    words = struct.unpack("=I", socket.inet_aton(host))
    return f"{words[0]:08X}"


TCP = f"""  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: {in_proc("127.0.0.1")}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: {in_proc("127.0.0.1")}:C350 {in_proc("127.0.0.1")}:1F90 01 00000000:00000000 00:00000000 00000000  1234        0 2 1 0 20 4 30 10 -1
   3: {in_proc("127.0.0.1")}:C352 {in_proc("127.0.0.1")}:1F90 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   2: {in_proc("127.0.0.1")}:1F90 {in_proc("127.0.0.1")}:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
"""


def test_the_users_of_sockets_are_found_in_the_kernels_table() -> None:
    client, server = ("127.0.0.1", 50000), ("127.0.0.1", 8080)
    assert auth.uid_in(TCP, client, server) == 1234
    assert auth.uid_in(TCP, server, client) == 0
    assert auth.uid_in(TCP, ("127.0.0.1", 50001), server) == -1
    closed = ("127.0.0.1", 50002)  # anyone's; shown as root's
    assert auth.uid_in(TCP, closed, server) == -1


def test_real_sockets_have_an_owner() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        try:
            server = socket.create_server((host, 0), family=family)
        except OSError:
            assert family == socket.AF_INET6, "no IPv4 on loopback"
            continue
        with server, socket.create_connection(server.getsockname()[:2]) as client:
            ends = client.getsockname()[:2], client.getpeername()[:2]
            assert auth.peer_uid(*ends) in (auth.own_uid(), None)


@pytest.mark.parametrize(
    ("name", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True),
     ("128.0.0.1", False), ("127.1", False), ("127.0.0.1 x", False), ("LocalHost", True), ("example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_names(name: str, loopback: bool) -> None:
    assert auth.is_loopback_name(name) == loopback


def test_another_user_is_refused_and_an_unknown_one_only_with_a_table() -> None:
    headers = {b"host": b"127.0.0.1"}
    assert auth.keyless_refusal(headers, 7, 7) is None
    assert auth.keyless_refusal(headers, None, 7) is None
    assert "only the user" in str(auth.keyless_refusal(headers, 8, 7))
    assert "only the user" in str(auth.keyless_refusal(headers, -1, 7))
    assert "named so" in str(auth.keyless_refusal({}, 7, 7))
