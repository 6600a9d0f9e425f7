"""SIGTERM: what is under way is finished, nothing new is taken, and the ledger has it all."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from lemnos.gateway.ledger import sqlite_url
from tests import upstream
from tests.contract.gateway.gateways import BODY, CHAT, Behind, Gateway, sse
from tests.waiting import until

DONE = b"data: [DONE]\n\n"
STREAMED = {**BODY, "stream": True}


class Paused:
    """A stream that goes on only when the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    async def __call__(self, writer: upstream.Writer) -> None:
        pieces = [*sse("a", "b"), DONE]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        length = sum(map(len, pieces))
        writer.write(head + b"Content-Length: %d\r\n\r\n" % length + pieces[0])
        await writer.drain()
        await asyncio.to_thread(self.go_on.wait, 60)
        writer.write(b"".join(pieces[1:]))
        await writer.drain()


@contextmanager
def streaming(gateway: Gateway) -> Iterator[Iterator[bytes]]:
    """A stream whose first event has come."""
    with (
        httpx2.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", gateway.url + CHAT, json=STREAMED) as response,
    ):
        chunks = response.iter_raw()
        assert next(chunks) == sse("a")[0]
        yield chunks


def is_draining(gateway: Gateway) -> bool:
    return gateway.get("/health").status_code == 503


def rows(database: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "select status, outcome from lemnos_ledger"
        ).fetchall()


def test_open_streams_finish_and_new_requests_are_refused(
    behind: Behind, tmp_path: Path
) -> None:
    paused = Paused()
    ledger = ("--ledger", sqlite_url(tmp_path / "ledger.db"))
    gateway, _ = behind(paused, words=ledger)
    with streaming(gateway) as chunks:
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(gateway))
        health = gateway.get("/health")
        assert health.json()["status"] == "draining"
        assert health.headers["connection"] == "close"
        got = gateway.post()
        assert got.status_code == 503 and got.headers["retry-after"]
        assert "going away" in got.json()["error"]["message"]
        assert gateway.process.poll() is None, "an open stream was cut"
        paused.go_on.set()
        assert b"".join(chunks) == sse("b")[0] + DONE
    assert gateway.process.wait(20) == 0
    assert rows(tmp_path / "ledger.db") == [(200, "ok")]


def test_a_connection_that_was_kept_is_told_to_go(behind: Behind) -> None:
    paused = Paused()
    gateway, _ = behind(paused)
    with streaming(gateway), httpx2.Client(trust_env=False, timeout=30) as kept:
        assert "connection" not in kept.get(gateway.url + "/health").headers
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(gateway))
        answer = kept.post(gateway.url + CHAT, json=BODY)
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        paused.go_on.set()
    assert gateway.process.wait(20) == 0


def test_a_stream_that_outlasts_the_drain_ends_with_an_error_event(
    behind: Behind, tmp_path: Path
) -> None:
    words = ("--drain-timeout", "0.3", "--ledger", sqlite_url(tmp_path / "ledger.db"))
    gateway, engine = behind(upstream.stream(*sse("a"), end="hang"), words=words)
    with streaming(gateway) as chunks:
        gateway.process.send_signal(signal.SIGTERM)
        error = json.loads(b"".join(chunks).removeprefix(b"data: "))["error"]
        assert "going away" in error["message"]
    assert gateway.process.wait(20) == 0
    assert engine.hung_up.wait(10)
    assert rows(tmp_path / "ledger.db") == [(200, "broke-off")]


def test_a_second_signal_ends_what_is_under_way(behind: Behind, tmp_path: Path) -> None:
    ledger = ("--ledger", sqlite_url(tmp_path / "ledger.db"))
    gateway, engine = behind(upstream.hang, words=ledger)
    got: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: got.append(gateway.post()))
    asking.start()
    until(lambda: engine.asked)
    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: is_draining(gateway))
    assert asking.is_alive()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    asking.join()
    assert got[0].status_code == 503
    assert "going away" in got[0].json()["error"]["message"]
    assert len(rows(tmp_path / "ledger.db")) == 1


def test_a_large_answer_is_sent_to_its_end(behind: Behind) -> None:
    """It was handed to the kernel only in part when the signal came."""
    large = b'{"data": "' + b"x" * 20_000_000 + b'"}'
    gateway, _ = behind(upstream.answer(large))
    with (
        httpx2.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", gateway.url + CHAT, json=BODY) as response,
    ):
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(gateway))
        assert response.read() == large
    assert gateway.process.wait(20) == 0
