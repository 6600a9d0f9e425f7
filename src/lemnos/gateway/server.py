"""HTTP/1.1 for clients: httptools parses, a protocol on uvloop keeps the limits.

Written for this gateway because the frameworks cost a large part of its budget (a bare
pass-through measured 126 us of CPU a request on uvicorn and aiohttp, 31 us so), and because
what a public endpoint needs is here in one place: limits of size and time for heads and
bodies, the peer's user, and the moment in which a client goes away.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools

from lemnos.gateway import auth

MAX_HEAD = 64 * 1024
MAX_HEADERS = 128
MAX_BODY = 64 * 1024 * 1024
BODY_RATE = 64 * 1024
"""Bytes a second that a body must come with, once its time has begun to count."""
LINGER_S = 2.0
"""How long what a refused client still sends is read away, so that it sees the refusal."""
SWEEP_S = 0.25
KEEP_ALIVE_S = 75.0
STALLED_S = 120.0
"""A client that takes nothing of its answer for so long is gone."""

Headers = list[tuple[bytes, bytes]]

log = logging.getLogger("lemnos.gateway")

_UPGRADE = re.compile(rb"\A((?:[^\r\n]+\r\n)+)upgrade:", re.IGNORECASE)
"""The header with which Java's client offers HTTP/2 (RFC 9110, 7.8: it may be ignored)."""

_PHRASES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
}


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a client may take for a request's head and for its body."""

    head_s: float = 15.0
    body_s: float = 60.0


class Source(Protocol):
    """Where a streamed answer comes from: told when the client is slower."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read on."""


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_chunked", "_connection", "_keep", "body", "begun", "finished", "headers", "method",
        "path", "query", "raw_headers", "sent_bytes", "source", "status",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, method: str, url: bytes, headers: Headers
    ) -> None:
        self._connection = connection
        self.method = method
        path, _, query = url.partition(b"?")
        self.path = unquote(path.decode("latin-1"), errors="replace")
        self.query = query.decode("latin-1")
        self.raw_headers = headers
        self.headers = dict(headers)
        self.body = b""
        self.begun = time.monotonic()
        self.source: Source | None = None
        self.status = 0
        """What was answered; 0 until then."""
        self.finished = False
        self.sent_bytes = 0
        self._chunked = False
        self._keep = True

    def peer_uid(self) -> int | None:
        """The user at the other end; see ``auth.keyless_refusal``."""
        return self._connection.peer_uid()

    @property
    def stalled(self) -> bool:
        """Whether the client is slower than its answer just now."""
        return self._connection.stalled

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        self.status = status
        length = b"content-length: %d\r\n" % len(body)
        if status == 204 or status == 304:
            length, body = b"", b""
        if self.method == "HEAD":
            body = b""
        head = self._head(status, headers, length)
        self.sent_bytes = len(body)
        self.finished = True
        self._connection.send(head + body)
        self._connection.answered(self, self._keep)

    def start(self, status: int, headers: Headers) -> None:
        """The head of an answer whose length is not known."""
        self.status = status
        self._chunked = self._connection.version == "1.1"
        if not self._chunked:  # HTTP/1.0: the end of the connection is the end
            self._keep = False
        how = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._connection.send(self._head(status, headers, how))

    def write(self, data: bytes) -> None:
        """A part of a started answer."""
        self.sent_bytes += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._connection.send(data)

    def finish(self) -> None:
        """The end of a started answer."""
        self.finished = True
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
        self._connection.answered(self, self._keep)

    def close_after(self) -> None:
        """Let the connection end with this answer."""
        self._keep = False

    def _head(self, status: int, headers: Headers, more: bytes) -> bytes:
        first = _PHRASES.get(status) or b"HTTP/1.1 %d Status\r\n" % status
        if not self._keep or not self._connection.may_keep:
            self._keep = False
            more += b"connection: close\r\n"
        elif self._connection.version == "1.0":
            more += b"connection: keep-alive\r\n"
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return b"%b%b%b\r\n" % (first, lines, more)


Handler = Callable[[Exchange], Coroutine[Any, Any, None]]
Refuse = Callable[[Exchange, int, str], None]
"""Answers a request that cannot be served, in the protocol that its path speaks."""


class Connection(asyncio.Protocol):
    """A client's connection: one request after the other."""

    def __init__(
        self,
        handler: Handler,
        refuse: Refuse,
        timeouts: Timeouts,
        all_: set[Connection],
    ) -> None:
        self._handler = handler
        self._refuse = refuse
        self._timeouts = timeouts
        self._all = all_
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: Headers = []
        self._head_size = 0
        self._head_refused: tuple[int, str] | None = None
        self._reading: Exchange | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._now: Exchange | None = None
        self._waiting: list[Exchange] = []
        self._since = time.monotonic()
        self._in_head = False
        self._lingers = False
        self._deaf = False
        self._stalled_since = 0.0
        self.version = "1.1"
        self.may_keep = True
        self.peer_uid: Callable[[], int | None] = lambda: -1

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name.
        self._transport = cast(asyncio.Transport, transport)
        self._all.add(self)
        self.peer_uid = functools.cache(functools.partial(_peer_uid, self._transport))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: so is the work for it."""
        self._all.discard(self)
        self._transport = None
        self._waiting.clear()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()
        if self._now and self._now.source:
            self._now.source.pause()

    def resume_writing(self) -> None:
        self._stalled_since = 0.0
        if self._now and self._now.source:
            self._now.source.resume()

    @property
    def busy(self) -> bool:
        """Whether a request is being served."""
        return self._now is not None

    @property
    def stalled(self) -> bool:
        """Whether the client is slower than its answer just now."""
        return self._stalled_since > 0

    def send(self, data: bytes) -> None:
        """Bytes to the client, if it is still there."""
        if self._transport:
            self._transport.write(data)

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        if self._stalled_since and now - self._stalled_since > STALLED_S:
            self._abort()
        elif self._lingers:
            if now - self._since > LINGER_S:
                self._abort()
        elif self._reading:
            allowed = self._timeouts.body_s + self._size / BODY_RATE
            if now - self._since > allowed:
                self._refuse_now(self._reading, 408, "the body took too long")
        elif self._now:
            return
        elif self._in_head:
            if now - self._since > self._timeouts.head_s:
                self._refuse_now(self._blank(), 408, "the request's head took too long")
        elif now - self._since > KEEP_ALIVE_S or not self.may_keep:
            self.close()

    def drain(self) -> None:
        """Take no further request once the present ones are answered."""
        self.may_keep = False

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self._lingers or self._deaf:
            return
        if not self._in_head and self._reading is None:
            self._in_head = True
            self._head_size = 0
            if self._now is None:
                self._since = time.monotonic()
            if (
                b"pgrade" in data
            ):  # httptools would take the body for another protocol's
                data = _UPGRADE.sub(b"\\1x-declined:", data, count=1)
        self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if it had not asked to (RFC 9110, 7.8); what follows is no HTTP.
            self._deaf = True
            for exchange in (self._now, *self._waiting):
                if exchange:
                    exchange.close_after()
            return
        except httptools.HttpParserError:
            self._refuse_now(self._blank(), 400, "this is no valid HTTP/1.1 request")
            return
        if self._in_head and self._head_size > MAX_HEAD:
            self._refuse_now(self._blank(), 431, "the request's head is too large")

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.version = self._parser.get_http_version()
        method = self._parser.get_method().decode("latin-1")
        exchange = Exchange(self, method, _origin_form(self._url), self._headers)
        self._reading, self._parts, self._size = exchange, [], 0
        self._since = exchange.begun
        if not self._parser.should_keep_alive():
            exchange.close_after()
        if refused := _head_refusal(exchange.headers, self._headers, len(self._url)):
            self._refuse_now(exchange, *refused)
        elif exchange.headers.get(b"expect", b"").lower() == b"100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._lingers:
            return
        self._parts.append(body)
        self._size += len(body)
        if self._size > MAX_BODY and self._reading:
            self._refuse_now(self._reading, 413, f"the body is over {MAX_BODY} bytes")

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        if self._lingers or exchange is None:
            return
        exchange.body = (
            self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        )
        self._parts = []
        if self._now is None:
            self._serve(exchange)
            return
        # Pipelined: it waits its turn, and nothing more is read before it.
        self._waiting.append(exchange)
        if self._transport:
            self._transport.pause_reading()

    # --- what goes out

    def _serve(self, exchange: Exchange) -> None:
        self._now = exchange
        self._task = asyncio.get_running_loop().create_task(self._handled(exchange))

    async def _handled(self, exchange: Exchange) -> None:
        """Whatever goes wrong, the client gets an end."""
        try:
            await self._handler(exchange)
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            if exchange.status:
                self._abort()
            else:
                exchange.close_after()
                self._refuse(exchange, 500, "the gateway failed; its log says why")

    def answered(self, exchange: Exchange, keep: bool) -> None:
        """An answer is complete: serve the next request, or end the connection."""
        if exchange is not self._now:  # refused before it was served
            return
        self._now = self._task = None
        self._since = time.monotonic()
        if not keep:
            self.close()
        elif self._waiting:
            self._serve(self._waiting.pop(0))
            if not self._waiting and self._transport:
                self._transport.resume_reading()

    def _refuse_now(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer instead of reading on, and end the connection after it."""
        self._reading, self._parts = None, []
        self._in_head = False
        if self._now:  # an answer is under way: nothing can be put into it
            self._abort()
            return
        exchange.close_after()
        self._refuse(exchange, status, message)
        self._lingers = True
        self._since = time.monotonic()
        if self._transport and self._transport.can_write_eof():
            self._transport.write_eof()

    def _blank(self) -> Exchange:
        """What is known of a request that did not come whole."""
        return Exchange(self, "", _origin_form(self._url), self._headers)

    def close(self) -> None:
        """End the connection once all is sent."""
        if self._transport:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport:
            self._transport.abort()


def _head_refusal(
    headers: dict[bytes, bytes], pairs: Headers, url_size: int
) -> tuple[int, str] | None:
    """Pure: why a request with this head is refused before its body is read."""
    size = url_size + sum(len(name) + len(value) for name, value in pairs)
    if size > MAX_HEAD or len(pairs) > MAX_HEADERS:
        return 431, "the request's head is too large"
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > MAX_BODY:
        return 413, f"the body is over {MAX_BODY} bytes"
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return 415, "send the body without a content-encoding"
    return None


def _origin_form(url: bytes) -> bytes:
    """``/path?query``, of ``http://host/path?query`` too."""
    if url.startswith(b"/"):
        return url
    _, scheme, rest = url.partition(b"://")
    if not scheme:
        return url
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"


def _peer_uid(transport: asyncio.Transport) -> int | None:
    client = transport.get_extra_info("peername")
    server = transport.get_extra_info("sockname")
    if not client or not auth.is_loopback_name(client[0]):
        return -1
    return auth.peer_uid(client[:2], server[:2])


class Server:
    """All connections of one listener."""

    def __init__(self, handler: Handler, refuse: Refuse, timeouts: Timeouts) -> None:
        self.connections: set[Connection] = set()
        self._make = functools.partial(
            Connection, handler, refuse, timeouts, self.connections
        )

    async def serve(self, **listener: Any) -> asyncio.Server:
        """Listen; ``listener`` as for ``loop.create_server``."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep())
        return await loop.create_server(self._make, **listener)

    def drain(self) -> None:
        """Let connections end with their present request."""
        for connection in self.connections:
            connection.drain()

    def close(self) -> None:
        """End all connections."""
        self._sweeper.cancel()
        for connection in list(self.connections):
            connection.close()

    async def until_idle(self, at_most_s: float) -> None:
        """Until no request is being served."""
        until = time.monotonic() + at_most_s
        while any(connection.busy for connection in self.connections):
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.02)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.sweep(now)
