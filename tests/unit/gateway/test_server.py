"""The server's connections over real sockets, at moments that only a test can choose."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from lemnos.gateway.exchange import MAX_HEAD, Exchange, origin_form
from lemnos.gateway.server import (
    BODY_RATE,
    DRAINED_IDLE_S,
    KEEP_ALIVE_S,
    STALLED_S,
    Connection,
    Handler,
    Server,
    Timeouts,
)

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
TEXT = (b"content-type", b"text/plain")
LARGE = b"x" * 20_000_000


class Line:
    """A client's end, and the server's connection at the other."""

    def __init__(self, server: Server, connection: Connection, end: Any) -> None:
        self.server = server
        self.connection = connection
        self.reader, self.writer = end

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, end: bytes) -> bytes:
        return bytes(await asyncio.wait_for(self.reader.readuntil(end), 20))

    async def rest(self) -> bytes:
        """What comes until the connection ends; a reset ends it too."""
        got = b""
        try:
            while data := await asyncio.wait_for(self.reader.read(2**20), 20):
                got += data
        except ConnectionError:
            pass
        return got


def refuse(exchange: Exchange, status: int, message: str) -> None:
    exchange.answer(status, [TEXT], message.encode())


def served(
    handler: Handler,
    scene: Callable[[Line], Awaitable[None]],
    turns_away: Callable[[Exchange], tuple[int, str] | None] = lambda _: None,
) -> None:
    """Play ``scene`` at a connection that ``handler`` serves."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        server = Server(handler, refuse, turns_away, Timeouts())
        ours, theirs = socket.socketpair()
        _, connection = await loop.connect_accepted_socket(
            lambda: Connection(server), ours
        )
        end = await asyncio.open_connection(sock=theirs, limit=2**25)
        line = Line(server, connection, end)
        try:
            await scene(line)
        finally:
            connection.abort()
            line.writer.close()

    uvloop.run(play())


async def hello(exchange: Exchange) -> None:
    exchange.answer(200, [TEXT], exchange.path.encode() + exchange.body + b".")


class Gate:
    """A handler that answers when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self.begun.set()
        await self.open.wait()
        await hello(exchange)


# --- requests behind others


def test_a_body_that_is_not_read_yet_is_not_late() -> None:
    """The client cannot send it: reading is paused until the request before it is served."""
    gate = Gate()

    async def scene(line: Line) -> None:
        head = b"POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        line.send(GET % b"1" + GET % b"2" + head + b"ab")
        await gate.begun.wait()
        line.connection.sweep(time.monotonic() + 10_000)
        gate.open.set()
        await line.until(b"/1.")
        await line.until(b"/2.")
        line.send(b"cd")
        assert b"200" in await line.until(b"/3abcd.")

    served(gate, scene)


def test_the_body_behind_an_answer_has_its_own_time() -> None:
    gate = Gate()

    async def scene(line: Line) -> None:
        head = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        line.send(GET % b"1" + head)
        await gate.begun.wait()
        late = line.server.timeouts.body_s + 1
        line.connection.sweep(time.monotonic() + late)
        assert await line.rest() == b""  # nothing can be put into the answer under way

    served(gate, scene)


def test_no_invitation_stands_in_anothers_answer() -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def streams(exchange: Exchange) -> None:
        exchange.start(200, [TEXT])
        exchange.write(b"one")
        begun.set()
        await gate.wait()
        exchange.write(b"two")
        exchange.finish()

    async def scene(line: Line) -> None:
        line.send(GET % b"1")
        await begun.wait()
        line.send(
            b"POST /2 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        await line.until(b"one\r\n")
        gate.set()
        assert await line.until(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"
        line.send(b"x")
        assert b"HTTP/1.1 200" in await line.until(b"0\r\n\r\n")

    served(streams, scene)


def test_each_answer_is_in_the_version_of_its_request() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def streams(exchange: Exchange) -> None:
        begun.set()
        await gate.wait()
        exchange.start(200, [TEXT])
        exchange.write(exchange.version.encode())
        exchange.finish()

    async def scene(line: Line) -> None:
        line.send(GET % b"1")
        await begun.wait()
        line.send(b"GET /2 HTTP/1.0\r\n\r\n")
        await asyncio.sleep(0)
        gate.set()
        assert b"chunked" in await line.until(b"3\r\n1.1\r\n0\r\n\r\n")
        last = await line.rest()
        assert b"chunked" not in last and last.endswith(b"\r\n\r\n1.0")

    served(streams, scene)


# --- refusals


@pytest.mark.parametrize("behind", [b"gzip", b"br"])
def test_what_follows_a_refusal_is_not_answered(behind: bytes) -> None:
    bad = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: %b\r\nContent-Length: 1\r\n\r\nx"

    async def scene(line: Line) -> None:
        line.send(bad % b"gzip" + bad % behind + GET % b"later")
        got = await line.rest()
        assert got.count(b"HTTP/1.1 ") == 1 and b" 415 " in got

    served(hello, scene)


ENDLESS = {
    "trailers": (b"1\r\nx\r\n0\r\n", b"A: b\r\n"),
    "one trailer": (b"1\r\nx\r\n0\r\nA: ", b"b" * 100),
    "a chunk's extension": (b"1;", b"e" * 100),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_around_a_body_is_bounded(name: str) -> None:
    begin, more = ENDLESS[name]

    async def scene(line: Line) -> None:
        line.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.send(begin)
        line.send(more * (32 * MAX_HEAD // len(more)))
        got = await line.rest()
        assert b" 431 " in got or b" 400 " in got

    served(hello, scene)


def test_bodies_in_tiny_chunks_are_none_of_that() -> None:
    async def scene(line: Line) -> None:
        line.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.send(b"1\r\nx\r\n" * MAX_HEAD + b"0\r\n\r\n")
        assert b" 200 " in await line.until(b"xx.")

    served(hello, scene)


def test_trailers_are_no_headers() -> None:
    async def tells(exchange: Exchange) -> None:
        names = b",".join(name for name, _ in exchange.raw_headers)
        exchange.answer(200, [TEXT], names + b".")

    async def scene(line: Line) -> None:
        line.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.send(b"1\r\nx\r\n0\r\nX-Role: admin\r\n\r\n")
        got = await line.until(b"encoding.")
        assert b"x-role" not in got

    served(tells, scene)


def test_strangers_are_turned_away_before_they_are_invited() -> None:
    async def scene(line: Line) -> None:
        line.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
        )
        got = await line.rest()
        assert got.startswith(b"HTTP/1.1 401 ") and b"100 Continue" not in got

    served(hello, scene, lambda _: (401, "no"))


# --- handlers that fail


def test_a_handler_that_fails_is_a_500_or_an_end() -> None:
    async def fails(exchange: Exchange) -> None:
        if exchange.path == "/after":
            exchange.start(200, [TEXT])
            exchange.write(b"half")
        if exchange.path == "/done":
            await hello(exchange)
        raise RuntimeError("no")

    async def before(line: Line) -> None:
        line.send(GET % b"before")
        got = await line.rest()
        assert got.startswith(b"HTTP/1.1 500") and b"connection: close" in got

    async def after(line: Line) -> None:
        line.send(GET % b"after")
        assert not (await line.rest()).endswith(b"0\r\n\r\n")

    async def done(line: Line) -> None:
        """What fails after the answer is not the client's business, nor the next request's."""
        line.send(GET % b"done")
        await line.until(b"/done.")
        line.send(GET % b"done")
        assert b" 200 " in await line.until(b"/done.")

    for scene in (before, after, done):
        served(fails, scene)


def test_nothing_written_is_not_the_end() -> None:
    async def streams(exchange: Exchange) -> None:
        exchange.start(200, [TEXT])
        for data in (b"", b"a", b"", b"b", b""):
            exchange.write(data)
        exchange.finish()

    async def scene(line: Line) -> None:
        line.send(GET % b"1")
        got = await line.until(b"0\r\n\r\n")
        assert got.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")

    served(streams, scene)


# --- time


def test_a_slow_client_is_waited_for_and_one_that_stopped_is_not() -> None:
    async def large(exchange: Exchange) -> None:
        exchange.answer(200, [TEXT], LARGE)

    async def scene(line: Line) -> None:
        line.writer.transport.pause_reading()
        line.send(GET % b"1")
        while not line.connection.stalled:
            await asyncio.sleep(0)
        now = time.monotonic()
        line.connection.sweep(now + STALLED_S - 1)
        assert line.connection.stalled
        left = line.connection._left()
        line.writer.transport.resume_reading()
        await asyncio.wait_for(line.reader.readexactly(2_000_000), 20)
        assert line.connection._left() < left
        line.connection.sweep(now + STALLED_S + 1)
        assert line.connection._transport, "it took 2 MB, and was ended"
        line.connection.sweep(now + 3 * STALLED_S)
        line.connection.sweep(now + 5 * STALLED_S)
        assert len(await line.rest()) < len(LARGE)

    served(large, scene)


def test_idle_connections_are_ended_and_sooner_while_draining() -> None:
    async def kept(line: Line) -> None:
        line.send(GET % b"1")
        await line.until(b"/1.")
        now = time.monotonic()
        line.connection.sweep(now + DRAINED_IDLE_S + 1)
        line.send(GET % b"2")
        await line.until(b"/2.")
        line.connection.sweep(time.monotonic() + KEEP_ALIVE_S + 1)
        assert await line.rest() == b""

    async def drained(line: Line) -> None:
        line.server.draining = True
        line.connection.sweep(time.monotonic() + DRAINED_IDLE_S + 1)
        assert await line.rest() == b""

    for scene in (kept, drained):
        served(hello, scene)


def test_a_large_body_may_take_its_time() -> None:
    async def scene(line: Line) -> None:
        line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        line.send(b"x" * 900_000)
        while line.connection._size < 900_000:
            await asyncio.sleep(0)
        now, body_s = time.monotonic(), line.server.timeouts.body_s
        line.connection.sweep(now + body_s + 900_000 / BODY_RATE - 1)
        line.send(b"x" * 100_000)
        assert b" 200 " in await line.until(b"x.")

    served(hello, scene)


def test_absolute_and_odd_targets() -> None:
    assert origin_form(b"/a?b") == b"/a?b"
    assert origin_form(b"http://host/a?b") == b"/a?b"
    assert origin_form(b"http://host") == b"/"
    assert origin_form(b"*") == b"*"
