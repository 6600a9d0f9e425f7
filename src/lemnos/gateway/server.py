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
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import httptools

from lemnos.gateway import auth
from lemnos.gateway.exchange import (
    MAX_BODY,
    MAX_HEAD,
    Exchange,
    Headers,
    announced,
    head_refusal,
    origin_form,
)

STRANGERS_BODY = 256 * 1024
"""A larger body is read only of who may use the endpoint: the others' would fill the memory."""
BODY_RATE = 64 * 1024
"""Bytes a second that a body must come with, once its time has begun to count."""
LINGER_S = 2.0
"""How long what a refused client still sends is read away, so that it sees the refusal."""
SWEEP_S = 0.25
KEEP_ALIVE_S = 75.0
DRAINED_IDLE_S = 1.0
"""As KEEP_ALIVE_S while draining: a request that is on its way already gets its 503."""
STALLED_S = 120.0
STALLED_BYTES = 64 * 1024
"""A client that takes less of its answer in STALLED_S is gone."""
FLUSH_S = 2.0
"""For the last bytes of answers that are ended because the gateway ends."""
GOING = "the endpoint is going away"

log = logging.getLogger("lemnos.gateway")

_UPGRADE = re.compile(rb"\A((?:[^\r\n]+\r\n)+)upgrade:", re.IGNORECASE)
"""The header with which Java's client offers HTTP/2 (RFC 9110, 7.8: it may be ignored)."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a client may take for a request's head (and TLS' handshake), and its body."""

    head_s: float = 15.0
    body_s: float = 60.0


Handler = Callable[[Exchange], Coroutine[Any, Any, None]]
Refuse = Callable[[Exchange, int, str], None]
"""Answers a request that cannot be served, in the protocol that its path speaks."""
TurnsAway = Callable[[Exchange], tuple[int, str] | None]
"""The status and the sentence for who may not use the endpoint at all, known from the head."""


class Connection(asyncio.Protocol):
    """A client's connection: one request after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: Headers = []
        self._barren = (
            0  # bytes since the last that were a body's: heads, trailers, framing
        )
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
        self._unsent = 0
        self.peer_uid: Callable[[], int | None] = lambda: -1

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self.peer_uid = functools.cache(functools.partial(_peer_uid, self._transport))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: so is the work for it."""
        self._server.connections.discard(self)
        self._transport = None
        self._waiting.clear()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()
        self._unsent = self._left()
        if self._now and self._now.source:
            self._now.source.pause()

    def resume_writing(self) -> None:
        self._stalled_since = 0.0
        if self._now and self._now.source:
            self._now.source.resume()
        self._serve_next()

    @property
    def busy(self) -> bool:
        """Whether a request is being served, or its answer still being sent."""
        if self._now or self._left():
            return True
        return self._transport is not None and self._transport.is_closing()

    @property
    def stalled(self) -> bool:
        """Whether the client is slower than its answer just now."""
        return self._stalled_since > 0

    @property
    def may_keep(self) -> bool:
        """Whether another request may come."""
        return not self._server.draining

    def send(self, data: bytes) -> None:
        """Bytes to the client, if it is still there."""
        if self._transport:
            self._transport.write(data)

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        if self._stalled_since:
            self._sweep_stalled(now)
        elif self._lingers:
            if now - self._since > LINGER_S:
                self.abort()
        elif self._waiting:  # nothing is read before their turn
            return
        elif self._reading:
            allowed = self._server.timeouts.body_s + self._size / BODY_RATE
            if now - self._since > allowed:
                self._refuse_now(self._reading, 408, "the body took too long")
        elif self._now:
            return
        elif self._in_head:
            if now - self._since > self._server.timeouts.head_s:
                self._refuse_now(self._blank(), 408, "the request's head took too long")
        elif now - self._since > (KEEP_ALIVE_S if self.may_keep else DRAINED_IDLE_S):
            self.close()

    def _sweep_stalled(self, now: float) -> None:
        left = self._left()
        if left <= self._unsent - STALLED_BYTES:
            self._stalled_since, self._unsent = now, left
        elif now - self._stalled_since > STALLED_S:
            self.abort()

    def _left(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self._lingers or self._deaf:
            return
        if not self._in_head and self._reading is None:
            self._in_head = True
            self._barren = 0
            if self._now is None:
                self._since = time.monotonic()
            # httptools would take the body for another protocol's.
            if b"pgrade" in data:
                data = _UPGRADE.sub(b"\\1x-declined:", data, count=1)
        self._barren += len(data)
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
        if self._barren > MAX_HEAD and (self._in_head or self._reading):
            exchange = self._reading or self._blank()
            self._refuse_now(exchange, 431, "the request's head is too large")

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is None:  # a trailer is no header (RFC 9110, 6.5.1)
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._lingers:
            return
        self._in_head = False
        method = self._parser.get_method().decode("latin-1")
        exchange = Exchange(
            self,
            method,
            origin_form(self._url),
            self._headers,
            self._parser.get_http_version(),
        )
        self._reading, self._parts, self._size = exchange, [], 0
        self._since = exchange.begun
        if not self._parser.should_keep_alive():
            exchange.close_after()
        refused = head_refusal(exchange.headers, self._headers, len(self._url))
        if refused is None and announced(exchange.headers) > STRANGERS_BODY:
            refused = self._server.turns_away(exchange)
        if refused:
            self._refuse_now(exchange, *refused)
        elif exchange.headers.get(b"expect", b"").lower() == b"100-continue":
            if (
                self._now is None
            ):  # else it would stand in the middle of another's answer
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is None:
            return
        self._barren = 0
        self._parts.append(body)
        before, self._size = self._size, self._size + len(body)
        if self._size > MAX_BODY:
            self._refuse_now(exchange, 413, f"the body is over {MAX_BODY} bytes")
        elif before <= STRANGERS_BODY < self._size:
            if refused := self._server.turns_away(exchange):
                self._refuse_now(exchange, *refused)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        if exchange is None:
            return
        exchange.body = (
            self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        )
        self._parts = []
        if self._now is None and not self._stalled_since:
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

    def _serve_next(self) -> None:
        """Serve the first that waits, once the client has taken what it was answered."""
        if self._now or self._stalled_since or not self._waiting:
            return
        self._serve(self._waiting.pop(0))
        if not self._waiting and self._transport:
            self._since = time.monotonic()
            self._transport.resume_reading()

    async def _handled(self, exchange: Exchange) -> None:
        """Whatever goes wrong, the client gets an end."""
        try:
            await self._server.handler(exchange)
        except asyncio.CancelledError:
            if self._transport:
                self._end(exchange, 503, GOING)
            raise
        except Exception:
            log.exception("%s %r failed", exchange.method, exchange.path)
            self._end(exchange, 500, "the gateway failed; its log says why")

    def _end(self, exchange: Exchange, status: int, message: str) -> None:
        if exchange.finished:
            return
        if exchange.status:  # nothing can be put into a half answer
            self.abort()
            return
        exchange.close_after()
        self._server.refuse(exchange, status, message)

    def answered(self, exchange: Exchange, keep: bool) -> None:
        """An answer is complete: serve the next request, or end the connection."""
        if exchange is not self._now:  # refused before it was served
            return
        self._now = self._task = None
        self._since = time.monotonic()
        if keep:
            self._serve_next()
        else:
            self.close()

    def _refuse_now(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer instead of reading on, and end the connection after it."""
        self._reading, self._parts = None, []
        self._in_head = False
        self._lingers = True
        if (
            self._now or self._waiting
        ):  # an answer comes first: nothing can be put into it
            self.abort()
            return
        exchange.close_after()
        self._server.refuse(exchange, status, message)
        self._since = time.monotonic()
        if self._transport and self._transport.can_write_eof():
            self._transport.write_eof()

    def _blank(self) -> Exchange:
        """What is known of a request that did not come whole."""
        return Exchange(self, "", origin_form(self._url), self._headers)

    def stop(self) -> None:
        """End now: a stream with an error event, what has no answer yet with a 503."""
        exchange = self._now
        if exchange is None:
            self.close()
        elif exchange.status and exchange.source:
            exchange.source.fail(GOING)
        elif self._task:
            self._task.cancel()

    def close(self) -> None:
        """End the connection once all is sent."""
        if self._transport:
            self._transport.close()

    def abort(self) -> None:
        """End the connection, sent or not."""
        if self._transport:
            self._transport.abort()


def _peer_uid(transport: asyncio.Transport) -> int | None:
    client = transport.get_extra_info("peername")
    server = transport.get_extra_info("sockname")
    if not client or not auth.is_loopback_name(client[0]):
        return -1
    return auth.peer_uid(client[:2], server[:2])


class Server:
    """All connections of one listener."""

    def __init__(
        self,
        handler: Handler,
        refuse: Refuse,
        turns_away: TurnsAway,
        timeouts: Timeouts,
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.turns_away = turns_away
        self.timeouts = timeouts
        self.connections: set[Connection] = set()
        self.draining = False

    async def serve(self, tls: ssl.SSLContext | None, **listener: Any) -> None:
        """Listen; ``listener`` as for ``loop.create_server``."""
        loop = asyncio.get_running_loop()
        if tls:
            listener |= {"ssl": tls, "ssl_handshake_timeout": self.timeouts.head_s}
            listener |= {"ssl_shutdown_timeout": FLUSH_S}
        self._sweeper = loop.create_task(self._sweep())
        self._listening = await loop.create_server(
            functools.partial(Connection, self), **listener
        )

    async def drain(self, at_most_s: float, hurry: asyncio.Event) -> None:
        """Serve what is under way to its end, then end all connections and listen no more.

        Who connects meanwhile is answered, once. What is not done after ``at_most_s``, or
        when ``hurry`` is set, is ended with an error.
        """
        self.draining = True
        await _within(
            at_most_s,
            lambda: hurry.is_set() or not any(c.busy for c in self.connections),
        )
        self._listening.close()
        for connection in list(self.connections):
            connection.stop()
        await _within(FLUSH_S, lambda: not self.connections)
        for connection in list(self.connections):
            connection.abort()
        self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.sweep(now)


async def _within(seconds: float, done: Callable[[], bool]) -> None:
    """Until something is done, but no longer."""
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        await asyncio.sleep(0.02)
