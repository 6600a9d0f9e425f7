"""The connections to targets over real sockets: kept, not kept, and what is no answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from lemnos.gateway import upstream
from lemnos.gateway.origin import Origin, UpstreamError, origin_of
from lemnos.gateway.upstream import Patience, Upstream

PATIENCE = Patience(10, 10, 10)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"

ENDED = -1

Answers = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
Scene = Callable[[Upstream, Origin, list[int]], Awaitable[None]]


@contextlib.asynccontextmanager
async def target(answers: Answers) -> AsyncIterator[tuple[Origin, list[int]]]:
    """A target, and how many requests came over each of its connections; ENDED after it."""
    requests: list[int] = []
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(requests)
        requests.append(0)
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                requests[number] += 1
                await answers(sum(requests), writer)
        requests[number] = ENDED
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Origin("127.0.0.1", server.sockets[0].getsockname()[1], False), requests
    finally:
        server.close()
        for writer in writers:
            writer.close()


def play(answers: Answers, scene: Scene) -> None:
    async def main() -> None:
        client = Upstream()
        async with target(answers) as (origin, requests):
            await asyncio.wait_for(scene(client, origin, requests), 30)
        client.close()

    uvloop.run(main())


async def ask(client: Upstream, origin: Origin) -> bytes:
    return await (await client.send(origin, REQUEST, PATIENCE)).whole()


def says(*parts: bytes) -> Answers:
    """The same to every request."""

    async def answers(_: int, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answers


def test_a_connection_is_kept_that_was_in_use_when_others_were_pruned() -> None:
    gate = asyncio.Event()

    async def answers(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 2:
            await gate.wait()
        writer.write(WHOLE)

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        await ask(client, origin)
        long = asyncio.create_task(ask(client, origin))
        while sum(requests) < 2:
            await asyncio.sleep(0)
        client.prune()
        gate.set()
        await long
        client.prune()
        assert await ask(client, origin) == b"ok"
        assert requests == [3]

    play(answers, scene)


def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        await ask(client, origin)
        monkeypatch.setattr(upstream, "KEEP_ALIVE_S", -1.0)
        client.prune()
        assert not client._idle
        await ask(client, origin)
        await ask(client, origin)  # found too old when it is looked for
        assert len(requests) == 3

    play(says(WHOLE), scene)


@pytest.mark.parametrize(
    "more", [WHOLE, WHOLE[:9], b"\r\nHTTP/1.1 200", b"garbage"], ids=repr
)
def test_a_connection_with_more_than_the_answer_is_used_no_more(more: bytes) -> None:
    """Half of a second answer would be the beginning of the next client's."""

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        assert await ask(client, origin) == b"ok"
        assert await ask(client, origin) == b"ok"
        assert len(requests) == 2

    play(says(WHOLE + more), scene)


NONE = {
    "status 0": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    "an encoding": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
    "an upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000,
    "endless interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 30_000,
    "two lengths": HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_answer(name: str) -> None:
    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        with pytest.raises(UpstreamError):
            await ask(client, origin)
        assert not client._idle

    play(says(NONE[name]), scene)


def test_answers_without_a_length_end_with_the_connection() -> None:
    async def answers(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil")
        await writer.drain()
        writer.write(b" the end")
        writer.close()

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        assert await ask(client, origin) == b"until the end"
        assert await ask(client, origin) == b"until the end"

    play(answers, scene)


def test_what_breaks_between_its_head_and_its_reader_is_told() -> None:
    async def answers(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"ha")
        await writer.drain()
        writer.transport.abort()

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        answer = await client.send(origin, REQUEST, PATIENCE)
        while not answer.complete:
            await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="broke off"):
            await answer.whole()

    play(answers, scene)


def test_what_a_reader_raises_ends_the_answer() -> None:
    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        def refuses(data: bytes) -> None:
            raise ValueError(data)

        answer = await client.send(origin, REQUEST, PATIENCE)
        with pytest.raises(ValueError):
            await answer.push(refuses)
        answer.abort()
        assert not client._idle

    play(says(HEAD, b"ha"), scene)


def test_what_nobody_reads_yet_waits_with_the_target() -> None:
    size = 64 * 2**20
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size

    async def answers(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _number in range(64):
            writer.write(b"x" * 2**20)
            await writer.drain()

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        answer = await client.send(origin, REQUEST, PATIENCE)
        while not answer._connection.paused:
            await asyncio.sleep(0)
        assert answer._size < 2 * 2**20
        assert len(await answer.whole()) == size

    play(answers, scene)


def test_a_failure_from_outside_reaches_the_reader() -> None:
    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        answer = await client.send(origin, REQUEST, PATIENCE)
        reading = asyncio.create_task(answer.whole())
        await asyncio.sleep(0)
        answer.fail("enough")
        answer.fail("again")
        with pytest.raises(UpstreamError, match="enough"):
            await reading

    play(says(HEAD), scene)


@pytest.mark.parametrize(
    "patience", [Patience(10, 0.05, 10), Patience(10, 10, 0.05)], ids=str
)
def test_silence_has_an_end(patience: Patience) -> None:
    part = b"" if patience.first_byte_s < 1 else HEAD

    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        with pytest.raises(UpstreamError, match="within|nothing came"):
            await (await client.send(origin, REQUEST, patience)).whole()

    play(says(part), scene)


def test_a_cancelled_request_closes_its_connection() -> None:
    async def scene(client: Upstream, origin: Origin, requests: list[int]) -> None:
        asking = asyncio.create_task(ask(client, origin))
        while not sum(requests):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while requests != [ENDED]:
            await asyncio.sleep(0)

    play(says(), scene)


def test_addresses() -> None:
    assert origin_of("http://h:8000/a/") == (Origin("h", 8000, False), "/a")
    assert origin_of("https://h")[0].authority == "h"
    assert origin_of("http://[::1]:80")[0].authority == "[::1]"
    assert origin_of("https://[::1]:80")[0].authority == "[::1]:80"
    for wrong in ("http://h:99999", "http://h/a b", "http://[::1"):
        with pytest.raises(UpstreamError, match="cannot be used"):
            origin_of(wrong)
