"""Requests whose shape is the attack: what a proxy and its target could read differently.

Each is followed by another request on the same connection, which must never reach an
engine unless it is a request of its own for the gateway too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.contract.gateway.hostile import (
    AUTH,
    CHAT,
    HUNG_UP,
    TE,
    Client,
    Served,
    asking,
    chunked,
    echoed,
    is_plain,
    post,
    serving,
)

SMUGGLED = post(asking("echo", marker="smuggled"))
MINE = asking("echo", marker="mine")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway"), {}) as served:
        yield served


def framed(body: bytes, *headers: str) -> bytes:
    """A request whose headers say how long it is, with another one after it."""
    return post(body, *headers, length=False) + SMUGGLED


REFUSED = (400, 413, 431, 501, HUNG_UP)
AMBIGUOUS: dict[str, bytes] = {
    "a length and chunks": framed(chunked(MINE), "Content-Length: 5", TE),
    "chunks and a length": framed(chunked(MINE), TE, "Content-Length: 5"),
    "two lengths": framed(MINE, "Content-Length: 4", f"Content-Length: {len(MINE)}"),
    "a list of lengths": framed(MINE, f"Content-Length: 4, {len(MINE)}"),
    "a length with a sign": framed(MINE, f"Content-Length: +{len(MINE)}"),
    "a negative length": framed(MINE, "Content-Length: -1"),
    "a hexadecimal length": framed(MINE, f"Content-Length: 0x{len(MINE):x}"),
    "a length with a space in it": framed(MINE, "Content-Length: 5 5"),
    "an empty length": framed(MINE, "Content-Length:"),
    "a length that wraps": framed(MINE, f"Content-Length: {2**64 + len(MINE)}"),
    "a length of 2^63": framed(MINE, f"Content-Length: {2**63}"),
    "a length in other digits": framed(MINE, "Content-Length: \xb2"),
    "an unknown encoding": framed(chunked(MINE), "Transfer-Encoding: xchunked"),
    "chunked, then something": framed(chunked(MINE), "Transfer-Encoding: chunked, identity"),
    "chunked twice": framed(chunked(MINE), TE, TE),
    "identity": framed(chunked(MINE), "Transfer-Encoding: identity"),
    "chunked with a tab before": framed(chunked(MINE), "Transfer-Encoding:\x0bchunked"),
    "a space before the colon": framed(chunked(MINE), "Transfer-Encoding : chunked"),
    "a folded header": framed(chunked(MINE), "Transfer-Encoding:\r\n chunked"),
    "a header without a name": framed(MINE, ": x", f"Content-Length: {len(MINE)}"),
    "a header without a colon": framed(MINE, "x", f"Content-Length: {len(MINE)}"),
    "a space in a name": framed(MINE, "X Y: 1", f"Content-Length: {len(MINE)}"),
    "a NUL in a value": framed(MINE, "X: \x00", f"Content-Length: {len(MINE)}"),
    "a bare CR in a value": framed(MINE, f"X: 1\rContent-Length: {len(MINE)}"),
    "a bare LF for an end": framed(MINE, "X: 1\nTransfer-Encoding: chunked"),
    "a chunk size that is none": framed(chunked(end=b"zz\r\n"), TE),
    "a chunk size with a sign": framed(chunked(end=b"-5\r\nhello\r\n0\r\n\r\n"), TE),
    "a chunk size with 0x": framed(chunked(end=b"0x5\r\nhello\r\n0\r\n\r\n"), TE),
    "a chunk size that wraps": framed(chunked(end=b"10000000000000005\r\nhello"), TE),
    "a chunk that is longer": framed(chunked(end=b"2\r\nhello\r\n0\r\n\r\n"), TE),
    "a chunk without its end": framed(chunked(end=b"5\r\nhello0\r\n\r\n"), TE),
    "an empty chunk size": framed(chunked(end=b"\r\n\r\n"), TE),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_no_request_is_smuggled_in_another(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(AMBIGUOUS[name])
        got = client.answer()
        status = got.status if got else HUNG_UP
        assert status in REFUSED, got
        if got and got.status >= 400:
            assert is_plain(got.message)
        assert client.answer() is None, "the connection went on after it"
    assert not gateway.engine_saw(b"smuggled")


def test_conflicts_that_are_none(gateway: Served) -> None:
    length = f"Content-Length: {len(MINE)}"
    same_twice = post(MINE, length, length, length=False)
    with_extension = b"5;a=b\r\n" + MINE[:5] + b"\r\n" + chunked(MINE[5:])
    trailers = chunked(MINE, end=b"0\r\nX-Trailer: 1\r\n\r\n")
    with gateway.unnoticed_by_others():
        got = gateway.ask(same_twice)
        assert got is None or got.status in (200, 400)
        for body in (
            chunked(MINE),
            with_extension,
            trailers,
            chunked(*[b"%c" % c for c in MINE]),
        ):
            got = gateway.ask(post(body, TE, length=False))
            assert got and json.loads(got.body) == echoed("mine"), body


FIRST_LINES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "HTTP/0.9": (b"GET /\r\n\r\n", (400, 401, HUNG_UP)),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 405, 505, HUNG_UP)),
    "HTTP/1.9": (b"GET /health HTTP/1.9\r\nHost: x\r\n\r\n", (200, 400, 505)),
    "HTTP/9.1": (b"GET /health HTTP/9.1\r\nHost: x\r\n\r\n", (400, 505)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 500, (400, HUNG_UP)),
    "random bytes": (bytes(range(256)) * 8, (400, HUNG_UP)),
    "an answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (400, HUNG_UP)),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", (400, HUNG_UP)),
    "an unknown method": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405, 501)),
    "a lowercase method": (b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405, 501)),
    "no path": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    "a path with a NUL": (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    "a path upwards": (f"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (400, 404)),
    "a path in bad UTF-8": (f"GET /v1/models/%ff%fe%00 HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (400, 404)),
    "CONNECT": (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 401, 404, 405, 501)),
    "TRACE": (f"TRACE /health HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (400, 405, 501)),
    "OPTIONS *": (f"OPTIONS * HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (200, 204, 400, 404, 405)),
    "OPTIONS": (f"OPTIONS {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (200, 204, 405)),
    "GET of what takes POST": (f"GET {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode(), (405,)),
    "an upgrade": (f"GET /health HTTP/1.1\r\nHost: x\r\n{AUTH}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode(), (200, 400, 426)),
    "another site's absolute form": (f"GET http://example.org/health HTTP/1.1\r\nHost: example.org\r\n{AUTH}\r\n\r\n".encode(), (200, 400, 403, 404, 421)),
    "many Hosts": (f"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n{AUTH}\r\n\r\n".encode(), (200, 400)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_LINES)
def test_first_lines(gateway: Served, name: str) -> None:
    request, allowed = FIRST_LINES[name]
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(request)
        got = client.answer(
            request.split(b" ")[0].decode("latin-1") if got_head(request) else "POST"
        )
        assert (got.status if got else HUNG_UP) in allowed, got
        if got and got.status >= 400:
            assert is_plain(got.message)
            assert b"root:" not in got.body


def got_head(request: bytes) -> bool:
    """Whether an answer is read differently for its method."""
    return request.startswith(b"HEAD ")


def test_head_and_absolute_form(gateway: Served) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(f"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode())
        got = client.answer("HEAD")
        assert got and (got.status, got.body) == (200, b"")
        target = f"http://127.0.0.1:{gateway.port}{CHAT}"
        client.send(post(MINE, path=target))
        got = client.answer()
        assert got and json.loads(got.body) == echoed("mine")


def test_clients_that_offer_http_2_are_served_as_they_asked(gateway: Served) -> None:
    """Java's own client offers it with every first request."""
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    )
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(MINE, *offer))
        assert got and got.status == 200 and json.loads(got.body) == echoed("mine")


def test_http_1_0(gateway: Served) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(MINE, version="HTTP/1.0"))
        assert got and json.loads(got.body) == echoed("mine")
        assert "transfer-encoding" not in got.headers
        streamed = asking("echo", marker="mine", stream=True)
        got = gateway.ask(post(streamed, version="HTTP/1.0"))
        assert got and got.body.count(b"mine") == 3
        assert got.body.endswith(b"data: [DONE]\n\n")
        assert "transfer-encoding" not in got.headers
        got = gateway.ask(post(chunked(MINE), TE, version="HTTP/1.0", length=False))
        assert got is None or got.status in (200, 400)


def test_expect(gateway: Served) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        request = post(MINE, "Expect: 100-continue")
        client.send(request[: -len(MINE)])
        assert client.socket.recv(9) == b"HTTP/1.1 ", "100 before the body is sent"
        assert client.socket.recv(4) == b"100 "
        client.send(MINE)
        with contextlib.suppress(TimeoutError):
            rest = b""
            while b"mine" not in rest:
                rest += client.socket.recv(4096)
        assert b"HTTP/1.1 200" in rest
    with Client(gateway.port) as client:
        head = post(
            b"", "Expect: 100-continue", f"Content-Length: {100 * 2**20}", length=False
        )
        client.send(head)
        got = client.answer()
        assert got and (got.status, got.informational) == (413, []), "no invitation"
    got = gateway.ask(post(MINE, "Expect: the unexpected"))
    assert got and got.status in (200, 417)


def test_pipelined_requests_are_answered_in_their_order(gateway: Served) -> None:
    markers = [f"pipelined-{n}" for n in range(40)]
    requests = [
        post(asking("echo", marker=m, stream=n % 3 == 0)) for n, m in enumerate(markers)
    ]
    with gateway.unnoticed_by_others():
        for size in (None, 1000, 17):
            with Client(gateway.port) as client:
                data = b"".join(requests)
                for at in range(0, len(data), size or len(data)):
                    client.send(data[at : at + (size or len(data))])
                for number, marker in enumerate(markers):
                    got = client.answer()
                    assert got and marker.encode() in got.body, number
                    others = [m for m in markers if m != marker]
                    assert not any(f'"{m}"'.encode() in got.body for m in others)


def test_nonsense_after_a_request_does_not_spoil_its_answer(gateway: Served) -> None:
    with gateway.unnoticed_by_others():
        for rest in (b"\x00\xff nonsense\r\n\r\n", AMBIGUOUS["two lengths"]):
            with Client(gateway.port) as client:
                client.send(post(MINE))
                got = client.answer()
                assert got and json.loads(got.body) == echoed("mine")
                client.send(rest)
                got = client.answer()
                assert got is None or got.status == 400
    assert not gateway.engine_saw(b"smuggled")


ELSEWHERE = [
    "resp_1/%20HTTP/1.1%0d%0aX-Evil:%20yes%0d%0aY:", "resp_1%0d%0aX-Evil:%20yes",
    "resp_1/%0aX-Evil:%20yes", "resp_1/../../evil", "resp_1/%2e%2e/%2e%2e/evil",
    "resp_1/..%2f..%2fevil", "resp_1//evil", "resp_1/evil", "resp_1%20evil", "resp_1/\xe9evil",
    "resp_1/..;/evil", "resp_1%00evil", "resp_1/%25%32%65evil", "resp_1/cancel/evil",
    "http://127.0.0.1/evil", "resp_1#/evil",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_answers_path_leads_nowhere_else(gateway: Served, method: str) -> None:
    """The engine trusts the gateway with its key: a path must not write a request of its own,
    nor reach what the gateway does not serve."""

    def ask(path: str) -> int:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\nContent-Length: 0\r\n\r\n"
        got = gateway.ask(head.encode("latin-1"))
        return got.status if got else HUNG_UP

    with gateway.unnoticed_by_others():
        made = gateway.ask(post(asking("echo", marker="resp_1"), path="/v1/responses"))
        assert made and json.loads(made.body)["id"] == "resp_1"
        for path in ELSEWHERE:
            assert ask(f"/v1/responses/{path}") in (400, 404, 405, HUNG_UP), path
    assert not gateway.engine_saw(b"evil") and not gateway.engine_saw(b"X-Evil")
    works = "/v1/responses/resp_1" + ("/cancel" if method == "POST" else "")
    assert ask(works) == 200
