"""Clients that are slower than their answers: what they do not take stays with the engine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import upstream
from tests.contract.gateway.hostile import (
    PATIENCE_S,
    Client,
    Served,
    asking,
    event,
    post,
    serving,
)
from tests.waiting import until

MIB = 2**20
EVENT = event("x" * 65_000)
EVENTS = 200 * MIB // len(EVENT)
LARGE = b'{"data": "' + b"x" * (50 * MIB) + b'"}'

pressed = threading.Event()
"""The engine could send no more."""


async def flood(writer: upstream.Writer) -> None:
    """A stream of 200 MiB; says when it is held up."""
    writer.transport.set_write_buffer_limits(high=MIB)
    length = EVENTS * len(EVENT) + len(b"data: [DONE]\n\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % length)
    for _ in range(EVENTS):
        writer.write(EVENT)
        sending = asyncio.ensure_future(writer.drain())
        if not (await asyncio.wait((sending,), timeout=0.5))[0]:
            pressed.set()
        await sending
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


async def enormous(writer: upstream.Writer) -> None:
    """A whole answer of 300 MiB."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % (300 * MIB))
    for _ in range(300):
        writer.write(b" " * MIB)
        await writer.drain()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    scripts = {"flood": flood, "enormous": enormous, "large": upstream.answer(LARGE)}
    directory = tmp_path_factory.mktemp("slow")
    with serving(directory, scripts) as served:
        yield served


def rss(gateway: Served) -> int:
    return psutil.Process(gateway.process.pid).memory_info().rss


def test_a_stream_waits_with_the_engine_and_comes_whole(gateway: Served) -> None:
    pressed.clear()
    before = rss(gateway)
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(post(asking("flood", stream=True)))
        assert pressed.wait(PATIENCE_S), "nobody held the engine up"
        # Once it is held up, nothing more can come: this is as much as there will be.
        assert rss(gateway) - before < 30 * MIB
        got = client.answer()
        assert got and len(got.body) == EVENTS * len(EVENT) + len(b"data: [DONE]\n\n")
        assert rss(gateway) - before < 40 * MIB


def test_an_answer_that_is_too_large_is_refused(gateway: Served) -> None:
    with gateway.unnoticed_by_others():
        got = gateway.ask(post(asking("enormous")))
    assert got and got.status == 502 and "bytes" in got.message


def test_a_large_answer_waits_for_its_client_and_holds_no_engine(
    gateway: Served, tmp_path: Path
) -> None:
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(post(asking("large")))
        until(client.readable)
        metrics = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right-key\r\n\r\n"

        def in_flight() -> bytes:
            with Client(gateway.port) as other:
                other.send(metrics)
                got = other.answer("GET")
            assert got
            lines = got.body.splitlines()
            wanted = b'lemnos_in_flight{target="bad-large"}'
            return next((line for line in lines if line.startswith(wanted)), b"")

        until(lambda: in_flight().endswith(b" 0.0"))
        got = client.answer()
        assert got and got.body == LARGE


def test_who_does_not_read_his_answers_is_asked_no_more(gateway: Served) -> None:
    """Without a key, too: else a few lines a second would fill the memory."""
    before = rss(gateway)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right-key\r\n\r\n"
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.socket.settimeout(1.0)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += client.socket.send(request * 1000)
        except TimeoutError:
            pass
        assert sent < 32 * MIB, "all was read"
        assert rss(gateway) - before < 30 * MIB
        client.socket.settimeout(PATIENCE_S)
        for _ in range(500):
            got = client.answer("GET")
            assert got and got.status == 200 and json.loads(got.body)["openapi"]


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_strangers_large_body_is_not_read(gateway: Served, how: str) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n"
    )
    if how == "length":
        head += b"Content-Length: 30000000\r\n\r\n"
        piece = b"x" * 65536
    else:
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with gateway.unnoticed_by_others(), Client(gateway.port) as client:
        client.send(head)
        sent = 0
        while sent < 30_000_000 and not client.readable() and client.send(piece):
            sent += len(piece)
        got = client.answer()
        assert got and got.status == 401 and sent < 20_000_000
    with Client(gateway.port) as client:  # a small one is, and the connection kept
        request = post(asking("echo")).replace(b"right-key", b"wrong-key")
        for _ in range(2):
            client.send(request)
            got = client.answer()
            assert got and got.status == 401
