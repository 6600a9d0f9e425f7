"""Bad engines, over sockets: never a traceback, never a hang, never another request's answer.

Each engine is asked alone, where the client must get an error in its protocol's form, and
with a cloud behind it, which must answer the same request as long as nothing was sent.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from lemnos.spec.targets import Route, Target
from tests import upstream
from tests.contract.gateway.hostile import (
    Client,
    Served,
    asking,
    echoed,
    event,
    is_plain,
    marker_stream,
    post,
    raw,
    serving,
)

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
POISON = b'{"id": "poison"}'
WHOLE = OK + JSON + b"Content-Length: %d\r\n\r\n" % len(POISON) + POISON


async def forever(writer: upstream.Writer, head: bytes, more: bytes) -> None:
    """Writes without an end, until the gateway has had enough."""
    writer.write(head)
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(more)
            await writer.drain()


NO_ANSWER: dict[str, upstream.Script] = {
    "hangs up": raw(),
    "resets": raw(end="reset"),
    "is silent": raw(end="hang"),
    "garbage": raw(b"\x00\xff\xfe garbage\r\n\r\n" * 10),
    "ssh": raw(b"SSH-2.0-OpenSSH_9.9\r\n", end="hang"),
    "tls": raw(b"\x15\x03\x01\x00\x02\x02\x46"),
    "only a body": raw(b'{"error": "from HTTP/0.9"}'),
    "half a status line": raw(b"HTTP/1.1 2"),
    "half a head": raw(OK + b"Content-Le"),
    "half a head and silence": raw(OK + b"Content-Le", end="hang"),
    "half a head and a reset": raw(OK + b"Content-Le", end="reset"),
    "a status that is none": raw(b"HTTP/1.1 OK OK\r\nContent-Length: 0\r\n\r\n"),
    "a status of two digits": raw(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    "HTTP/3.0": raw(b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "a header without a colon": raw(OK + b"nonsense\r\nContent-Length: 2\r\n\r\n{}"),
    "a NUL in a header": raw(OK + b"X: \x00\r\nContent-Length: 2\r\n\r\n{}"),
    "a huge header": raw(OK + b"X: " + b"y" * 4_000_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "headers without end": lambda writer: forever(writer, OK, b"X: " + b"y" * 5000 + b"\r\n"),
    "two lengths": raw(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "a negative length": raw(OK + b"Content-Length: -2\r\n\r\n{}"),
    "a length that is none": raw(OK + b"Content-Length: two\r\n\r\n{}"),
    "a length that wraps": raw(OK + b"Content-Length: %d\r\n\r\n{}" % (2**64 + 2)),
    "a length that is too long": raw(OK + JSON + b"Content-Length: 99\r\n\r\n{}"),
    "too long, then a reset": raw(OK + JSON + b"Content-Length: 99\r\n\r\n{}", end="reset"),
    "too long, then silence": raw(OK + JSON + b"Content-Length: 99\r\n\r\n{}", end="hang"),
    "a chunk size that is none": raw(OK + JSON + IN_CHUNKS + b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk size that wraps": raw(OK + JSON + IN_CHUNKS + b"1" + b"0" * 16 + b"2\r\n{}"),
    "a chunk that is longer": raw(OK + JSON + IN_CHUNKS + b"1\r\n{}\r\n0\r\n\r\n"),
    "no last chunk": raw(OK + JSON + IN_CHUNKS + b"2\r\n{}\r\n"),
    "half a chunk and a reset": raw(OK + JSON + IN_CHUNKS + b"ff\r\n{", end="reset"),
    "half a chunk and silence": raw(OK + JSON + IN_CHUNKS + b"ff\r\n{", end="hang"),
    "switches protocols": raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", end="hang"),
    "only 100": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, end="hang"),
    "redirects": raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/v1\r\nContent-Length: 0\r\n\r\n"),
    "500": upstream.answer(b"<h1>Traceback</h1>", "500 Internal Server Error", "text/html"),
    "503": upstream.answer(b"{}", "503 Service Unavailable"),
}  # fmt: skip
"""Nothing that a client could use: 502 or 504 when alone, and the cloud answers for it."""

AN_ANSWER: dict[str, tuple[upstream.Script, bytes | None]] = {
    "100, then an answer": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE), POISON),
    "hints, then an answer": (raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + WHOLE), POISON),
    "HTTP/1.0 until it closes": (raw(b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n" + POISON), POISON),
    "until it closes": (raw(OK + JSON + b"\r\n" + POISON), POISON),
    "byte by byte": (raw(*[b"%c" % byte for byte in WHOLE]), POISON),
    "an error with 200": (upstream.answer(b'{"error": {"message": "no"}}'), None),
    "no JSON": (upstream.answer(b'{"id": '), None),
    "a list": (upstream.answer(b"[1]"), None),
    "usage that is none": (upstream.answer(b'{"usage": {"prompt_tokens": "x"}}'), None),
    "usage that is a list": (upstream.answer(b'{"usage": [1e999, null]}'), None),
    "negative usage": (upstream.answer(b'{"usage": {"prompt_tokens": -5, "completion_tokens": 1e30}}'), None),
    "invalid UTF-8": (upstream.answer(b'{"id": "\xff"}'), None),
    "a page": (upstream.answer(b"<html>proxy</html>", kind="text/html"), None),
    "nothing": (upstream.answer(b""), None),
    "a broken type": (upstream.answer(POISON, kind=";;\xff="), POISON),
    "nested deep": (upstream.answer(b"[" * 100_000), None),
    "an unknown status": (upstream.answer(POISON, "299 Odd"), POISON),
}  # fmt: skip
"""Odd, but an answer: with its body, or (None) as it is or as an error."""

EMPTY: dict[str, upstream.Script] = {
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n", end="keep"),
    "204 with a length": raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", end="keep"),
    "304": raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", end="keep"),
    "205": raw(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", end="keep"),
}  # fmt: skip

HALF = event("cut")[:30]


def in_chunks(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


BROKEN_STREAMS: dict[str, upstream.Script] = {
    "ends in an event": raw(SSE + b"\r\n" + event("a") + HALF),
    "ends without the last chunk": raw(SSE + IN_CHUNKS + in_chunks(event("a"), HALF)),
    "half a chunk, then a reset": upstream.stream(event("a"), HALF, end="cut"),
    "half a chunk, then the end": raw(SSE + IN_CHUNKS + in_chunks(event("a")) + b"ff\r\ndata: {"),
    "a chunk size that is none": raw(SSE + IN_CHUNKS + in_chunks(event("a"), HALF) + b"zz\r\n"),
    "silence": upstream.stream(event("a"), HALF, end="hang"),
    "a length that is too long": raw(SSE + b"Content-Length: 9999\r\n\r\n" + event("a") + HALF),
}  # fmt: skip

ODD_STREAMS: dict[str, upstream.Script] = {
    "no JSON": upstream.stream(event("a"), b"data: {\n\n", b"data: [DONE]\n\n"),
    "invalid UTF-8": upstream.stream(event("a"), b"data: \xff\xfe\n\n", b"data: [DONE]\n\n"),
    "an error first": upstream.stream(b'data: {"error": {"message": "a"}}\n\n'),
    "odd usage": upstream.stream(event("a"), b'data: {"choices": [], "usage": [1, "x"]}\n\n', b"data: [DONE]\n\n"),
    "no choices": upstream.stream(event("a"), b'data: {"choices": 7, "usage": 7}\n\n', b"data: [DONE]\n\n"),
    "only comments": upstream.stream(b": a\n\n" * 50, b"data: [DONE]\n\n"),
    "more after the end": upstream.stream(event("a"), b"data: [DONE]\n\n", event("later")),
    "CR alone": upstream.stream(event("a").replace(b"\n", b"\r"), b"data: [DONE]\r\r"),
    "a mark of order": upstream.stream(b"\xef\xbb\xbf" + event("a"), b"data: [DONE]\n\n"),
}  # fmt: skip

LATE = raw(OK + JSON + b"Content-Length: 2\r\n\r\n{}" + WHOLE, end="keep")
"""Two answers to one request: the second must not be taken for the next one's."""

SCRIPTS = {
    **NO_ANSWER,
    **EMPTY,
    **{f"stream: {name}": script for name, script in BROKEN_STREAMS.items()},
    **{f"odd: {name}": script for name, script in ODD_STREAMS.items()},
    **{f"answer: {name}": script for name, (script, _) in AN_ANSWER.items()},
    "two answers": LATE,
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway"), SCRIPTS) as served:
        yield served


@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_no_answer_is_an_error_or_anothers_answer(
    gateway: Served, name: str
) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(asking(name)))
        assert got and got.status in (500, 502, 503, 504), got
        if name not in ("500", "503"):
            assert is_plain(got.message)
        assert "location" not in got.headers
        other = post(asking(name), path="/v1/messages")
        got = gateway.ask(other)
        assert got and got.status >= 500
        if name not in ("500", "503"):
            assert json.loads(got.body)["type"] == "error"
        gateway.earn_retries()
        for stream in (False, True):
            body = asking(f"{name}+", marker="again", stream=stream)
            got = gateway.ask(post(body))
            assert got and got.status == 200, got
            whole = marker_stream("again") if stream else json.dumps(echoed("again"))
            assert got.body.decode() == whole


@pytest.mark.parametrize("name", AN_ANSWER)
def test_odd_answers_go_to_the_client(gateway: Served, name: str) -> None:
    _, body = AN_ANSWER[name]
    with gateway.unnoticed_by_others():
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings"):
            got = gateway.ask(post(asking(f"answer: {name}"), path=path))
            assert got, path
            if got.status >= 400:
                assert body is None and is_plain(got.message)
            elif body is not None:
                assert got.body == body


@pytest.mark.parametrize("name", EMPTY)
def test_answers_without_a_body(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        for _ in range(2):
            client.send(post(asking(name)))
            got = client.answer()
            assert got and (got.body == b"" or got.status >= 500), got
            if got.headers.get("connection") == "close":
                break


@pytest.mark.parametrize("name", BROKEN_STREAMS)
def test_streams_that_break_end_with_an_error_event(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(asking(f"stream: {name}", stream=True)))
        assert got and got.status == 200
        first, last, empty = got.body.split(b"\n\n")
        assert first + b"\n\n" == event("a") and empty == b"", got.body
        message = json.loads(last.removeprefix(b"data: "))["error"]["message"]
        assert is_plain(message)
        got = gateway.ask(post(asking(f"stream: {name}+", stream=True)))
        assert got and b"cut" not in got.body, "half an event went out"
        assert got.body.count(event("a")) == 1, (
            "it was asked elsewhere after the first byte"
        )


@pytest.mark.parametrize("name", ODD_STREAMS)
def test_odd_streams_are_relayed_to_their_end(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(asking(f"odd: {name}", stream=True)))
        assert got and got.status in (200, 502), got
        assert b"Traceback" not in got.body
        assert b"DONE" in got.body or b"error" in got.body or got.body == b""


def test_a_second_answer_is_nobodys(gateway: Served) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        for _ in range(10):
            client.send(post(asking("two answers")))
            got = client.answer()
            assert got and (got.body == b"{}" or got.status >= 500), got
            client.send(post(asking("echo", marker="mine")))
            got = client.answer()
            assert got and json.loads(got.body) == echoed("mine")


def test_an_engine_that_refuses_a_body_before_it_was_read(
    gateway: Served, tmp_path: Path
) -> None:
    """Its answer counts, not that it closed the connection while more was written."""
    answer = b'{"error": {"message": "too long"}}'
    head = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n" % len(answer)

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(head + answer)

    with listening(refuse) as port:
        with serving(
            tmp_path, {}, extra=(route("early", f"http://127.0.0.1:{port}"),)
        ) as gateway:
            with gateway.unnoticed_by_others():
                got = gateway.ask(post(asking("early", text="x" * 10_000_000)))
                assert got and got.status in (413, 502)


def route(model: str, base_url: str, connect_s: float = 1.0) -> Route:
    """A route to one target, which has a second to be connected and to answer."""
    target = Target(
        name=model, base_url=base_url, connect_s=connect_s, first_byte_s=1, idle_s=1
    )
    return Route(model=model, targets=(target,))


@contextlib.contextmanager
def listening(serve: object) -> Iterator[int]:
    """A port on which each connection is handed to ``serve``, and closed after it."""
    assert callable(serve)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_targets_that_cannot_be_reached(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        closed = socket.create_server(("127.0.0.1", 0))
        closed_port = closed.getsockname()[1]
        closed.close()
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # its queue is full: nobody is let in, nobody refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        routes = (
            route("closed", f"http://127.0.0.1:{closed_port}"),
            route("full", f"http://127.0.0.1:{full.getsockname()[1]}"),
            route("unknown", "http://there-is-no-such-host.invalid:8000"),
            route("name too long", f"http://{'x' * 300}.invalid:8000"),
            route("no host", "http://:8000"),
            route("a port too far", "http://127.0.0.1:70000"),
        )
        served = stack.enter_context(serving(tmp_path, {}, extra=routes))
        with served.unnoticed_by_others():
            for wrong in routes:
                for _ in range(2):
                    got = served.ask(post(asking(wrong.model)))
                    assert got and got.status in (502, 503, 504), (wrong.model, got)
                    assert is_plain(got.message), got.message


def test_certificates(tmp_path: Path) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = {
        "good": ours.issue_cert("127.0.0.1"),
        "expired": ours.issue_cert("127.0.0.1", not_after=past),
        "another's": ours.issue_cert("example.org"),
        "unknown": theirs.issue_cert("127.0.0.1"),
    }
    with contextlib.ExitStack() as stack:
        routes = []
        for name, certificate in issued.items():
            port = stack.enter_context(listening(over_tls(certificate)))
            routes.append(route(name, f"https://127.0.0.1:{port}", connect_s=10))
        port = stack.enter_context(listening(plain))
        routes.append(route("plain", f"https://127.0.0.1:{port}"))
        stopped = threading.Event()
        port = stack.enter_context(listening(lambda _: stopped.wait(60)))
        routes.append(route("silent", f"https://127.0.0.1:{port}"))
        stack.callback(stopped.set)
        trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        served = stack.enter_context(
            serving(tmp_path, {}, extra=tuple(routes), environment=trusted)
        )
        with served.unnoticed_by_others():
            got = served.ask(post(asking("good")))
            assert got and got.body == POISON, got
            for name in ("expired", "another's", "unknown", "plain", "silent"):
                got = served.ask(post(asking(name)))
                assert got and got.status in (502, 503, 504), (name, got)
                assert is_plain(got.message), got.message
                if name == "expired":
                    assert "expired" in got.message


def over_tls(certificate: trustme.LeafCert) -> object:
    """Answers every request that comes over TLS with ``certificate``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            plain(secured)

    return serve


def plain(connection: socket.socket) -> None:
    """Answers a request that comes in one piece."""
    connection.settimeout(30)
    if connection.recv(65536):
        connection.sendall(WHOLE)
