"""Routing and admission: the gateway's decisions."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway import auth
from lemnos.gateway.app import model_list
from lemnos.gateway.routing import order, route_for
from lemnos.spec.targets import Route, Target, TargetTable

TARGETS = tuple(
    Target(name=f"e{n}", base_url=f"http://127.0.0.1:{n}") for n in range(4)
)
ROUTE = Route(model="m", targets=TARGETS)


def test_routes_by_name() -> None:
    table = TargetTable(revision=1, routes=(ROUTE,))
    assert route_for(table, "m") == ROUTE
    assert route_for(table, "M") is None


@given(st.dictionaries(st.sampled_from([t.name for t in TARGETS]), st.integers(0, 9)))
def test_the_least_loaded_first_and_every_target_once(load: dict[str, int]) -> None:
    ordered = order(ROUTE, load)
    assert sorted(t.name for t in ordered) == [t.name for t in TARGETS]
    loads = [load.get(t.name, 0) for t in ordered]
    assert loads == sorted(loads)


def test_equals_stay_in_the_tables_order() -> None:
    assert tuple(order(ROUTE, {})) == TARGETS


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
