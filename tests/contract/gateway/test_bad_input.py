"""Bad clients, over sockets: never a traceback, never a hang, never another client's data.

Every case runs while others are served, who must get all of theirs and nothing else, and
the gateway's log is looked through for tracebacks at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests import upstream
from tests.contract.gateway.hostile import (
    AUTH,
    CHAT,
    KEY,
    PATIENCE_S,
    TE,
    Client,
    Served,
    asking,
    chunked,
    echoed,
    event,
    is_plain,
    post,
    serving,
)

MINE = asking("echo", marker="mine")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--head-timeout", "1", "--body-timeout", "1")
    directory = tmp_path_factory.mktemp("gateway")
    with serving(directory, {"flood": flood}, flags=flags) as served:
        yield served


FLOOD = event("x" * 65536)
pressed = threading.Event()
"""The gateway took no more of a flood for a second: longer than its target may be silent."""


async def flood(writer: upstream.Writer) -> None:
    """A stream that is far longer than what buffers hold."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(400):
        writer.write(in_chunk(FLOOD))
        if pressed.is_set():
            await writer.drain()
            continue
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            pressed.set()
    writer.write(in_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await writer.drain()


def in_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "half an object": (b'{"model": "echo"', 400),
    "two objects": (MINE + MINE, 400),
    "a list": (b"[]", 400),
    "null": (b"null", 400),
    "a number too large": (b'{"model": "echo", "n": 1' + b"0" * 5000 + b"}", 400),
    "nested too deep": (b'{"model": "echo", "x": ' + b"[" * 100_000, 400),
    "nested, too deep and whole": (
        b'{"model": "echo", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
    "NaN": (b'{"model": "echo", "temperature": NaN}', 400),
    "invalid UTF-8": (b'{"model": "echo", "x": "\xff\xfe"}', 400),
    "an overlong NUL": (b'{"model": "echo", "x": "\xc0\x80"}', 400),
    "UTF-16": ('{"model": "echo"}'.encode("utf-16"), 400),
    "a lone surrogate": (b'{"model": "\\ud800"}', 400),
    "a control character": (b'{"model": "ec\x00ho"}', 400),
    "a form": (b"model=echo&messages=hi", 400),
    "multipart": (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\necho', 400),
    "model is a number": (b'{"model": 7}', 400),
    "model is a list": (b'{"model": ["echo"]}', 400),
    "model is empty": (b'{"model": ""}', 400),
    "no model": (b'{"messages": []}', 400),
    "model is huge": (asking("x" * 1_000_000), 404),
    "messages is a string": (b'{"model": "echo", "messages": "hi"}', 200),
    "messages is a number": (b'{"model": "echo", "messages": 7}', 200),
    "messages holds anything": (b'{"model": "echo", "messages": [null, 7, [], {}]}', 200),
    "stream is a string": (b'{"model": "echo", "stream": "no", "messages": {}}', 200),
    "stream_options is a list": (
        b'{"model": "echo", "stream": true, "stream_options": [1]}', 200),
    "model is binary": (asking("\x1b[31m\r\nX-Evil: 1\x00"), 404),
}  # fmt: skip


@pytest.mark.parametrize(
    "path", [CHAT, "/v1/messages", "/v1/responses", "/v1/completions"]
)
def test_bodies_that_make_no_sense(gateway: Served, path: str) -> None:
    with gateway.unnoticed_by_others():
        for name, (body, status) in BODIES.items():
            got = gateway.ask(post(body, path=path))
            assert got, name
            if status == 200 and got.status == 400:
                continue  # to refuse what is no request of that protocol is right as well
            assert got.status == status, (name, got)
            if status >= 400:
                assert is_plain(got.message), (name, got.message)
                kind = json.loads(got.body).get("type")
                assert (kind == "error") == (path == "/v1/messages"), name


LARGE = 400 * 1024 * 1024


def test_a_body_that_is_announced_too_large_is_not_read(gateway: Served) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(post(b"", f"Content-Length: {LARGE}", length=False))
        got = client.answer()
        assert got and got.status == 413 and is_plain(got.message)


@pytest.mark.parametrize("how", ["announced", "in chunks"])
def test_hundreds_of_megabytes_are_refused_before_all_were_read(
    gateway: Served, how: str
) -> None:
    piece = b"x" * 0x100000
    header = TE if how == "in chunks" else f"Content-Length: {LARGE}"
    sent = 0
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(post(b"", header, length=False))
        data = chunked(piece, end=b"") if how == "in chunks" else piece
        while sent < LARGE and not client.readable() and client.send(data):
            sent += len(piece)
        got = client.answer()
        assert got and got.status == 413 and is_plain(got.message)
        assert client.answer() is None
    assert sent < LARGE // 2  # 64 MiB, and what was under way


FLOODS: dict[str, bytes] = {
    "many headers": b"".join(b"X-%d: y\r\n" % n for n in range(20_000)),
    "a huge header": b"X: " + b"y" * 1_000_000 + b"\r\n",
    "a huge name": b"X" * 1_000_000 + b": y\r\n",
    "one header many times": b"Cookie: a=b\r\n" * 20_000,
    "many keys": b"Authorization: Bearer wrong\r\n" * 20_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_headers(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others():
        head = b"GET /health HTTP/1.1\r\nHost: x\r\n"
        got = gateway.ask(head + FLOODS[name] + b"\r\n")
        assert got is None or (got.status in (400, 431) and is_plain(got.message))
        # And one that never ends.
        with Client(gateway.port) as client:
            client.send(head)
            for _ in itertools.takewhile(lambda _: not client.readable(), range(200)):
                if not client.send(FLOODS[name].rstrip()):
                    break
            got = client.answer()
            assert got is None or got.status in (400, 431)


def test_a_huge_request_line(gateway: Served) -> None:
    with gateway.unnoticed_by_others():
        for path in (b"/" + b"a" * 1_000_000, b"/health?" + b"a=b&" * 250_000):
            got = gateway.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert got is None or got.status in (400, 414, 431)


def test_trailers_without_end(gateway: Served) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(post(chunked(MINE, end=b"0\r\n"), TE, length=False))
        flood = b"X: " + b"y" * 1000 + b"\r\n"
        for _ in itertools.takewhile(lambda _: not client.readable(), range(100_000)):
            if not client.send(flood):
                break
        got = client.answer()
        assert got is None or got.status in (400, 408, 413, 431)


SLOW: dict[str, tuple[bytes, bytes]] = {
    "head": (b"POST / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
    "one header": (b"POST / HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
    "request line": (b"POST /", b"y"),
    "body": (post(b"", "Content-Length: 5000", length=False), b" "),
    "chunks": (post(b"", TE, length=False), b"1\r\n \r\n"),
    "a chunk's extension": (post(b"1;", TE, length=False), b"x"),
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_clients_are_ended(gateway: Served, name: str) -> None:
    begin, drop = SLOW[name]
    with gateway.unnoticed_by_others(), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway.port)) for _ in range(30)]
        for client in clients:
            client.send(begin)
        open_yet, drops = clients, 0
        while open_yet:
            drops += 1
            assert drops < 2000, f"{len(open_yet)} still drip"
            open_yet[0].socket.settimeout(0.03)
            with contextlib.suppress(TimeoutError):
                open_yet[0].socket.recv(1, socket.MSG_PEEK)
            open_yet = [c for c in open_yet if not c.readable() and c.send(drop)]
        for client in clients:
            client.socket.settimeout(30)
            got = client.answer()
            assert got is None or got.status == 408


def test_a_client_that_does_not_read_is_waited_for_and_blamed_on_nobody(
    gateway: Served,
) -> None:
    pressed.clear()
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        # A fixed buffer: the kernel may let one grow to hold the whole flood, slowly.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.send(post(asking("flood", stream=True)))
        assert pressed.wait(PATIENCE_S), "all of it is held in memory"
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        got = client.answer()
        assert got and got.body == FLOOD * 400 + b"data: [DONE]\n\n"


def test_silent_clients_hold_up_nobody(gateway: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Client(gateway.port))
        with gateway.unnoticed_by_others():
            got = gateway.ask(post(MINE))
            assert got and json.loads(got.body) == echoed("mine")


def test_clients_that_vanish(gateway: Served) -> None:
    request = post(asking("echo", marker="gone", stream=True))
    with gateway.unnoticed_by_others():
        for cut in (*range(0, len(request), 7), len(request)):
            with Client(gateway.port) as client:
                # On close: a reset instead of an orderly end.
                client.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                client.send(request[:cut])
            with Client(gateway.port) as client:
                client.send(request[:cut])
                client.socket.shutdown(socket.SHUT_WR)


CONTENT: dict[str, tuple[str, ...]] = {
    "no type": (),
    "text": ("Content-Type: text/plain",),
    "a form": ("Content-Type: application/x-www-form-urlencoded",),
    "an unknown charset": ("Content-Type: application/json; charset=klingon",),
    "a broken type": ("Content-Type: \xff;;;=",),
    "two types": ("Content-Type: text/html", "Content-Type: application/json"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_types(gateway: Served, name: str) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(MINE, *CONTENT[name]))
        assert got and got.status in (200, 400, 415)
        assert got.status != 200 or json.loads(got.body) == echoed("mine")


def test_bodies_that_are_encoded_are_refused(gateway: Served) -> None:
    import gzip

    bomb = gzip.compress(b" " * 10_000_000)
    with gateway.unnoticed_by_others():
        for body in (bomb, gzip.compress(MINE)):
            for encoding in ("gzip", "gzip, gzip", "br", "klingon"):
                got = gateway.ask(post(body, f"Content-Encoding: {encoding}"))
                assert got and got.status in (400, 415) and is_plain(got.message)


def test_a_model_that_is_named_twice_is_one_model_for_everybody(
    gateway: Served,
) -> None:
    """What the gateway admits and prices is what the target reads."""
    bodies = [
        b'{"model": "secret", "model": "echo", "marker": "twice"}',
        b'{"mod\\u0065l": "secret", "model": "echo", "marker": "twice"}',
        b'{"model": "secret", "mod\\u0065l": "echo", "marker": "twice"}',
    ]
    with gateway.unnoticed_by_others():
        for body in bodies:
            got = gateway.ask(post(body))
            assert got and got.status in (200, 400)
    assert not gateway.engine_saw(b"secret")


def test_keys_that_are_none(gateway: Served) -> None:
    for credentials in (
        "", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}",
        "Bearer \xff\xfe", "Bearer " + "x" * 50_000, f"Bearer {KEY}, Bearer {KEY}",
    ):  # fmt: skip
        request = post(MINE).replace(
            AUTH.encode(), b"Authorization: " + credentials.encode("latin-1")
        )
        got = gateway.ask(request)
        assert got and got.status == 401, credentials
        assert KEY not in got.body.decode()
