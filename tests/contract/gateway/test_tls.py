"""TLS for clients, and TLS to targets through a site's proxy: real certificates, a real proxy."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from lemnos.deployments.targets import write_table
from lemnos.spec.targets import Route, Target
from tests import processes
from tests.contract.gateway.gateways import table_of
from tests.contract.gateway.hostile import (
    AUTH,
    Served,
    asking,
    echoed,
    is_plain,
    post,
    serving,
)
from tests.contract.gateway.test_bad_engines import POISON as ANSWER
from tests.contract.gateway.test_bad_engines import listening, over_tls

CA = trustme.CA()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("tls")
    certificate = CA.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    flags = ["--tls-cert", str(directory / "cert.pem")]
    flags += ["--tls-key", str(directory / "key.pem"), "--head-timeout", "1"]
    with serving(directory, {}, flags=tuple(flags)) as served:
        yield served


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


@contextlib.contextmanager
def client(served: Served) -> Iterator[httpx2.Client]:
    base = f"https://127.0.0.1:{served.port}"
    headers = dict([AUTH.split(": ")])
    with httpx2.Client(
        base_url=base, verify=trusting(), trust_env=False, headers=headers
    ) as made:
        yield made


def test_requests_over_tls(secured: Served) -> None:
    chat = "/v1/chat/completions"
    with client(secured) as tls:
        got = tls.post(chat, content=asking("echo", marker="x"))
        assert got.json() == echoed("x") and got.http_version == "HTTP/1.1"
        large = asking("echo", marker="y" * 5_000_000)
        assert len(tls.post(chat, content=large).content) > 5_000_000
        with tls.stream("POST", chat, content=asking("echo", stream=True)) as stream:
            assert stream.read().endswith(b"[DONE]\n\n")
        assert tls.post(chat, content=b"{").status_code == 400
        assert tls.post(chat, headers={"Authorization": "no"}).status_code == 401


def test_old_protocols_are_refused(secured: Served) -> None:
    context = trusting()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=30) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "said",
    [b"", b"\x16\x03\x01", post(asking("echo")), b"\x00" * 3000],
    ids=["nothing", "half a hello", "plain HTTP", "nonsense"],
)
def test_what_is_no_handshake_is_ended_and_holds_nobody_up(
    secured: Served, said: bytes
) -> None:
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(20):
            made = socket.create_connection(("127.0.0.1", secured.port), timeout=30)
            sockets.append(stack.enter_context(made))
            made.sendall(said)
        with client(secured) as tls:
            assert tls.get("/health").status_code == 200
        for each in sockets:
            with contextlib.suppress(ConnectionError):
                while each.recv(4096):
                    pass  # an alert, maybe; then the end
    assert "Traceback" not in secured.log.read_text()


def test_clients_that_vanish_from_tls(secured: Served) -> None:
    request = post(asking("echo", marker="gone"))
    for cut in (1, len(request) // 2, len(request)):
        plain = socket.create_connection(("127.0.0.1", secured.port), timeout=30)
        made = trusting().wrap_socket(plain, server_hostname="127.0.0.1")
        made.sendall(request[:cut])
        made.close()  # without TLS' own end
    with client(secured) as tls:
        assert tls.get("/health").status_code == 200


def encrypted(certificate: trustme.LeafCert) -> bytes:
    """Its key, under a password."""
    key = serialization.load_pem_private_key(
        certificate.private_key_pem.bytes(), password=None
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_certificates_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    table = tmp_path / "targets.json"
    write_table(table, table_of())
    ours, others = CA.issue_cert("localhost"), CA.issue_cert("localhost")
    cert, key, other, locked, empty = (
        tmp_path / name for name in ("cert", "key", "other", "locked", "empty")
    )
    cert.write_bytes(ours.cert_chain_pems[0].bytes())
    key.write_bytes(ours.private_key_pem.bytes())
    other.write_bytes(others.private_key_pem.bytes())
    locked.write_bytes(encrypted(ours))
    empty.touch()
    missing = tmp_path / "missing"
    cases: list[tuple[str | Path, ...]] = [
        ("--tls-cert", missing, "--tls-key", key),
        ("--tls-cert", cert, "--tls-key", missing),
        ("--tls-cert", cert, "--tls-key", other),
        ("--tls-cert", cert, "--tls-key", locked),
        ("--tls-cert", empty, "--tls-key", key),
        ("--tls-cert", cert, "--tls-key", tmp_path),
        ("--tls-cert", cert),
        ("--tls-key", key),
    ]
    for case in cases:
        words = ("--targets", table, "--port", "0", *case)
        done = processes.run("lemnos.gateway", *map(str, words), env=dict(os.environ))
        said = done.stderr
        assert done.returncode == 1, case
        assert said.startswith("error: ") and "Traceback" not in said, said
        assert "tls" in said.lower() or "certificate" in said, said


# --- the way out


@dataclass
class Proxy:
    """A proxy for CONNECT."""

    wants: str = ""
    """The credentials that it demands."""
    asked: list[bytes] = field(default_factory=list)

    def __call__(self, client: socket.socket) -> None:
        client.settimeout(30)
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        self.asked.append(head)
        token = base64.b64encode(self.wants.encode())
        if self.wants and b"Basic " + token + b"\r\n" not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as target:
            client.sendall(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
            pump(client, target)


def pump(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until one of them ends."""
    way = {one: other, other: one}
    while True:
        for ready in select.select(way, [], [], 30)[0]:
            data = ready.recv(65536)
            if not data:
                return
            way[ready].sendall(data)


@contextlib.contextmanager
def behind_a_proxy(
    directory: Path, proxy: Proxy, environment: dict[str, str]
) -> Iterator[Served]:
    """A gateway with targets over TLS, whose environment names ``proxy``."""
    CA.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate = CA.issue_cert("127.0.0.1")
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(listening(over_tls(certificate)))
        at = stack.enter_context(listening(proxy))
        bad = Target(name="far", base_url=f"https://127.0.0.1:{target}", connect_s=3.0)
        said = {name: value.format(at=at) for name, value in environment.items()}
        said["SSL_CERT_FILE"] = str(directory / "ca.pem")
        routes = (Route(model="far", targets=(bad,)),)
        yield stack.enter_context(
            serving(directory, {}, extra=routes, environment=said)
        )


def test_a_target_is_reached_through_the_sites_proxy(tmp_path: Path) -> None:
    proxy = Proxy(wants="me:p@ss")
    said = {"HTTPS_PROXY": "http://me:p%40ss@127.0.0.1:{at}"}
    with behind_a_proxy(tmp_path, proxy, said) as served:
        got = served.ask(post(asking("far")))
        assert got and got.body == ANSWER
        # Engines on plain HTTP are the site's own.
        assert (got := served.ask(post(asking("echo")))) and got.status == 200
    (head,) = proxy.asked
    assert head.startswith(b"CONNECT 127.0.0.1:")
    assert b"right-key" not in head and b"chat" not in head


def test_no_proxy_is_obeyed(tmp_path: Path) -> None:
    proxy = Proxy()
    said = {"HTTPS_PROXY": "http://127.0.0.1:{at}", "NO_PROXY": "localhost,127.0.0.1"}
    with behind_a_proxy(tmp_path, proxy, said) as served:
        got = served.ask(post(asking("far")))
        assert got and got.body == ANSWER
    assert not proxy.asked


REFUSALS = {
    "wrong credentials": ("http://me:wr0ng@127.0.0.1:{at}", "the proxy said 407"),
    "nobody there": ("http://127.0.0.1:1", "the proxy cannot be reached"),
    "its own TLS": ("https://127.0.0.1:{at}", "only http:// is known"),
    "a kind unknown": ("socks5://127.0.0.1:{at}", "only http:// is known"),
    "no port": ("http://me:wr0ng@127.0.0.1:99999999", "is none"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_proxy_that_refuses_is_said(tmp_path: Path, name: str) -> None:
    url, says = REFUSALS[name]
    with behind_a_proxy(tmp_path, Proxy(wants="me:right"), {"HTTPS_PROXY": url}) as far:
        got = far.ask(post(asking("far")))
        assert got and got.status == 502 and says in got.message, got
        assert is_plain(got.message) and "wr0ng" not in got.message
        assert "wr0ng" not in far.log.read_text()


def test_a_proxy_that_hangs_or_talks_nonsense(tmp_path: Path) -> None:
    stopped = threading.Event()
    answers = [
        lambda _: stopped.wait(60),
        lambda s: (s.recv(4096), s.sendall(b"\x00" * 70_000)),
        lambda s: (s.recv(4096), s.sendall(b"HTTP/1.1 200 OK\r\n\r\n\x00 no TLS")),
    ]
    for number, answer in enumerate(answers):
        directory = tmp_path / str(number)
        directory.mkdir()
        with (
            listening(answer) as at,
            behind_a_proxy(
                directory, Proxy(), {"HTTPS_PROXY": f"http://127.0.0.1:{at}"}
            ) as served,
            served.unnoticed_by_others(),
        ):
            got = served.ask(post(asking("far")))
            assert got and got.status == 502 and is_plain(got.message), got
            stopped.set()
