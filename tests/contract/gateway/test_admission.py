"""Who may use the endpoint: keys, the owner of a keyless one, and no web pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import upstream
from tests.contract.gateway.gateways import Behind, Start


def test_keys(behind: Behind) -> None:
    gateway, engine = behind(upstream.answer(b"{}"), keys=("right-key", "other-key"))
    assert gateway.post().status_code == 401
    assert gateway.get("/v1/models").status_code == 401
    for headers in (
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic right-key"},
        {"x-api-key": "right-ke"},
    ):
        got = gateway.post(headers=headers)
        assert got.status_code == 401
        assert got.json()["error"]["code"] == "invalid_api_key"
    for headers in (
        {"Authorization": "Bearer right-key"},
        {"Authorization": "bearer other-key"},
        {"x-api-key": "other-key"},
        {"Authorization": "Bearer wrong", "x-api-key": "right-key"},
    ):
        assert gateway.post(headers=headers).status_code == 200
    assert "right-key" not in str([asked.headers for asked in engine.asked])
    got = gateway.post(path="/v1/messages")
    assert got.json()["error"]["type"] == "authentication_error"


HEADERS: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    ({"Host": "localhost:1"}, 200),
    ({"Host": "[::1]:1"}, 200),
    ({"Host": "evil.example:5366"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Origin": "http://localhost:3000"}, 200),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://[broken"}, 403),
]


def test_web_pages_may_not_use_a_keyless_endpoint(start: Start) -> None:
    gateway = start()
    for headers, status in HEADERS:
        assert gateway.get("/v1/models", headers=headers).status_code == status, headers


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_keyless_endpoint_serves_only_its_owner(start: Start) -> None:
    gateway = start()
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket()\n"
        "s.connect(('127.0.0.1', int(sys.argv[1])))\n"
        "s.sendall(b'GET /v1/models HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "print(s.recv(12).decode('ascii'))"
    )
    port = gateway.url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, port],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "HTTP/1.1 403\n"
    assert gateway.get("/v1/models").status_code == 200
