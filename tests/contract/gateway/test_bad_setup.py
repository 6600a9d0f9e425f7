"""What whoever runs the gateway got wrong, or has too little of: a sentence, and no secret."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lemnos.deployments.targets import write_table
from lemnos.gateway.keys import digest
from lemnos.spec.targets import ClientKey, Route, Target
from tests import upstream
from tests.contract.gateway.gateways import BODY, Start, table_of
from tests.contract.gateway.hostile import is_plain
from tests.waiting import until

KEYS = {
    "two lines": b"secret-one\nX-Evil: secret-two",
    "letters": "secret-\u20ac".encode(),
    "no text": b"secret-\xff\xfe",
    "a control character": b"secret-\x07",
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_no_header_can_hold(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEYS[name])
    with upstream.serving(upstream.answer(b'{"choices": []}')) as engine:
        gateway = start(engine.url, key_file=str(key))
        got = gateway.post()
        assert got.status_code == 502
        message = got.json()["error"]["message"]
        assert is_plain(message) and "key" in message and "secret" not in got.text
        assert not engine.asked
        key.write_text("well")
        until(lambda: gateway.post().status_code == 200)
    said = capfd.readouterr().err
    assert "secret" not in said and "Traceback" not in said


def test_a_header_or_a_name_that_is_none(start: Start) -> None:
    with upstream.serving(upstream.answer(b'{"choices": []}')) as engine:
        bad = Target(name="bad", base_url=engine.url, headers={"X": "a\r\nX-Evil: 1"})
        odd = Target(name="odd\r\nX-Evil: 1", base_url=engine.url)
        table = table_of().model_copy(
            update={"routes": (Route(model="m", targets=(odd,), cloud=()),)}
        )
        gateway = start(table=table)
        got = gateway.post()
        assert got.status_code == 200 and "x-evil" not in got.headers
        routes = (Route(model="m", targets=(bad,)),)
        newer = table.model_copy(update={"routes": routes, "revision": 2})
        write_table(gateway.table, newer)
        until(lambda: gateway.post().status_code == 502)
        assert not any("x-evil" in asked.headers for asked in engine.asked)


def test_a_model_that_a_key_may_not_use_is_not_shown_to_it(start: Start) -> None:
    key = ClientKey(name="k", sha256=digest("k"), models=("m",))
    nowhere = Target(name="e", base_url="http://127.0.0.1:1")
    routes = (Route(model="m"), Route(model="secret", targets=(nowhere,)))
    table = table_of().model_copy(update={"keys": (key,), "routes": routes})
    gateway = start(table=table)
    auth = {"Authorization": "Bearer k"}
    assert gateway.get("/v1/models/m", headers=auth).status_code == 200
    hidden = gateway.get("/v1/models/secret", headers=auth)
    unknown = gateway.get("/v1/models/secrex", headers=auth)
    assert hidden.status_code == unknown.status_code == 404
    assert hidden.text == unknown.text.replace("secrex", "secret")
    got = gateway.post({**BODY, "model": "secret"}, headers=auth)
    assert got.status_code == 403


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain; version=x", "application/openmetrics-text; version=9.9.9",
     "application/openmetrics-text;;=;version=", "a" * 5000, "\xff;q=x, text/html;q=NaN"],
)  # fmt: skip
def test_metrics_for_whatever_is_accepted(start: Start, accept: str) -> None:
    got = start().get("/metrics", headers={"Accept": accept.encode("latin-1")})
    assert got.status_code == 200


FEW = 128


def test_more_clients_than_files_may_be_open(tmp_path: Path) -> None:
    """Who is let in is served; when others have gone, all are."""
    write_table(tmp_path / "targets.json", table_of())
    command = [sys.executable, "-m", "lemnos.gateway", "--port", "0"]
    command += ["--targets", str(tmp_path / "targets.json")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)),
    ) as process:
        assert process.stdout and process.stderr
        port = int(process.stdout.readline().decode().rpartition(":")[2])

        def health() -> bool:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                return client.recv(4096).startswith(b"HTTP/1.1 200")

        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(2 * FEW)
            ]
            clients[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            clients[0].settimeout(30)
            assert clients[0].recv(4096).startswith(b"HTTP/1.1 200")

        def well() -> bool:
            with contextlib.suppress(OSError):
                return health()
            return False

        until(well)
        process.terminate()
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 0 and len(said) < 100_000, said[:2000]
