"""HTTP/1.1 to targets: connections that are kept, and answers that are pushed on as they come.

An answer's bytes go from the socket through a function of the relay's to the client's socket
in one callback: no task wakes up for a chunk of a stream.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools

from lemnos.gateway import proxy
from lemnos.gateway.origin import Origin, UpstreamError

KEEP_ALIVE_S = 3.0
"""Less than the 5 s after which engines (uvicorn, cpp-httplib) close an idle connection: a
request that is sent while they do would fail."""
MAX_WHOLE = 256 * 1024 * 1024
"""A whole answer larger than this is not passed on: it is held in memory until it is complete."""
MAX_HEAD = 256 * 1024
PLAIN = (b"", b"identity")
UNREAD = 256 * 1024
"""Bytes of an answer that may wait for whoever reads it."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    connect_s: float
    first_byte_s: float
    idle_s: float


class Upstream:
    """Sends requests; keeps connections for the next ones."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def send(
        self, origin: Origin, request: bytes, patience: Patience, *, fresh: bool = False
    ) -> Answer:
        """Send a whole request and wait for the head of its answer.

        ``fresh``: over a new connection. Raises UpstreamError, OSError or TimeoutError; a
        cancelled call closes its connection, which ends the target's work.
        """
        connection = None if fresh else self._kept(origin)
        if connection is None:
            connection = await self._connect(origin, patience.connect_s)
        answer = Answer(connection, patience)
        try:
            connection.ask(request, answer)
            await answer.wait_for_head()
        except BaseException:
            answer.abort()
            raise
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()

    def prune(self) -> None:
        """Close connections that were idle for too long."""
        now = time.monotonic()
        for origin, kept in list(self._idle.items()):
            for connection in kept:
                if now - connection.idle_since > KEEP_ALIVE_S:
                    connection.abort()
            kept[:] = [connection for connection in kept if connection.open]
            if not kept:
                del self._idle[origin]

    def _keep(self, origin: Origin, connection: _Connection) -> None:
        """For the next request."""
        connection.idle_since = time.monotonic()
        self._idle.setdefault(origin, []).append(connection)

    def _kept(self, origin: Origin) -> _Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if not connection.open:
                continue
            if time.monotonic() - connection.idle_since < KEEP_ALIVE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, connect_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        via = proxy.for_origin(origin.host, origin.tls)

        def make() -> _Connection:
            return _Connection(partial(self._keep, origin))

        try:
            async with asyncio.timeout(connect_s):
                if via:
                    connection: Any = await proxy.connect(
                        loop, via, origin.host, origin.port, make, self._context()
                    )
                elif origin.tls:
                    _, connection = await loop.create_connection(
                        make, origin.host, origin.port, ssl=self._context()
                    )
                else:
                    _, connection = await loop.create_connection(
                        make, origin.host, origin.port
                    )
        except TimeoutError:
            raise UpstreamError(f"no connection within {connect_s:g} s") from None
        except ValueError as error:  # a name that is none: a part of 300 characters
            raise UpstreamError(f"its address cannot be used ({error})") from None
        assert isinstance(connection, _Connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = proxy.client_context()
        return self._tls


class Answer:
    """A target's answer: its head is here, its body may still be coming."""

    def __init__(self, connection: _Connection, patience: Patience) -> None:
        self._connection = connection
        self._patience = patience
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._head: asyncio.Future[None] = loop.create_future()
        self._end: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._failed: Exception | None = None
        self._last = loop.time()
        self._timer = loop.call_later(patience.first_byte_s, self._too_late)
        self._watched = False
        self.complete = False
        self.status = 0
        self.headers: Headers = []

    async def wait_for_head(self) -> None:
        """Until status and headers are here."""
        await self._head

    async def whole(self) -> bytes:
        """The whole body. Raises as ``Upstream.send``."""
        self.resume()
        await self._until_end()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def push(self, sink: Callable[[bytes], None]) -> None:
        """Hand the body to ``sink`` as it comes, and return at its end. What ``sink`` raises
        ends the answer."""
        self.resume()
        self._sink = sink
        parts, self._parts = self._parts, []
        for part in parts:
            sink(part)
        await self._until_end()

    def header(self, name: bytes) -> bytes:
        """A header's first value; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def abort(self) -> None:
        """Want no more of it. Before its end, that closes the connection."""
        self._timer.cancel()
        if not self.complete:
            self.complete = True
            self._connection.abort()

    def fail(self, why: str) -> None:
        """Want no more of it, and let whoever reads it know why."""
        self._connection.abort()
        self.failed(UpstreamError(why))

    def pause(self) -> None:
        """Read no more for now: the client is slower."""
        if not self.complete:  # else the connection is another request's already
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if not self.complete:
            self._last = self._loop.time()
            self._connection.resume()

    async def _until_end(self) -> None:
        if self._failed:
            raise self._failed
        if self.complete:
            return
        self._end = self._loop.create_future()
        await self._end

    # --- called by the connection

    def head_came(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._last = self._loop.time()
        self._timer.cancel()
        if not self._head.done():
            self._head.set_result(None)

    def goes_on(self) -> None:
        """It is not whole yet: from now on it may not be silent for long."""
        if not self._watched:
            self._watched = True
            self._maybe_idle()

    def data_came(self, data: bytes) -> None:
        self._last = self._loop.time()
        if self._sink:
            try:
                self._sink(data)
            except Exception as error:  # the relay's word that it is no valid answer
                self._connection.abort()
                self.failed(error)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_WHOLE:
            self.fail(f"an answer of over {MAX_WHOLE} bytes")
        elif self._end is None and self._size > UNREAD:
            self._connection.pause()

    def end_came(self) -> None:
        self.complete = True
        self._timer.cancel()
        if self._end and not self._end.done():
            self._end.set_result(None)

    def failed(self, error: Exception) -> None:
        if self.complete:
            return
        self.complete = True
        self._failed = error
        self._timer.cancel()
        for future in (self._head, self._end):
            if future and not future.done():
                future.set_exception(error)
                return

    def _too_late(self) -> None:
        self.fail(f"no answer within {self._patience.first_byte_s:g} s")

    def _maybe_idle(self) -> None:
        left = self._last + self._patience.idle_s - self._loop.time()
        if left > 0 or self._connection.paused:
            wait = left if left > 0 else self._patience.idle_s
            self._timer = self._loop.call_later(wait, self._maybe_idle)
            return
        self.fail(f"nothing came for {self._patience.idle_s:g} s")


class _Connection(asyncio.Protocol):
    """A connection to a target: one request at a time."""

    def __init__(self, keep: Callable[[_Connection], None]) -> None:
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._head_size = 0
        self._informational = False
        self._until_eof = False
        self._spoke = False
        self.idle_since = 0.0
        self.paused = False

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, answer: Answer) -> None:
        """Send a request, whose answer is told to ``answer``."""
        if self._transport is None:
            raise UpstreamError("hung up", hung_up=True)
        self._parser = httptools.HttpResponseParser(self)
        self._answer = answer
        self._headers, self._head_size, self._spoke = [], 0, False
        self._parts = []
        self._until_eof = False
        self._transport.write(request)

    def abort(self) -> None:
        self._answer = None
        if self._transport:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport and not self.paused and not self._transport.is_closing():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport and self.paused and not self._transport.is_closing():
            self.paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._until_eof and error is None:
            answer.end_came()
            return
        why = (error and str(error)) or "hung up"
        if self._spoke:
            why = f"broke off ({why})" if error else "broke off"
        answer.failed(UpstreamError(why, hung_up=not self._spoke))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # what comes unasked makes a connection useless
            self.abort()
            return
        self._spoke = True
        if not self._answer.status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hand_over()
            self._broken("answered what is no HTTP/1.1")
            return
        self._hand_over()
        if self._answer is None:
            return
        if self._answer.status:
            self._answer.goes_on()
        elif self._head_size > MAX_HEAD:
            self._broken("answered with headers that do not end")

    def _broken(self, why: str) -> None:
        answer = self._answer
        self.abort()
        if answer:
            answer.failed(UpstreamError(why))

    def _hand_over(self) -> None:
        """What one read brought goes on as one: a write costs more than all the rest."""
        parts = self._parts
        if not parts:
            return
        self._parts = []
        if self._answer:
            self._answer.data_came(parts[0] if len(parts) == 1 else b"".join(parts))

    def on_message_begin(self) -> None:
        if self._answer is None:  # a second one, which could become the next client's
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        self._informational = 100 <= status < 200
        if self._informational or self._answer is None:
            return
        if not 200 <= status <= 599:
            self._broken(f"answered with the status {status}, which there is not")
            return
        framed = status in (204, 304)
        for name, value in headers:
            low = name.lower()
            if low == b"content-length":
                framed = True
            elif low == b"transfer-encoding" and value.lower().endswith(b"chunked"):
                framed = True
            elif low == b"content-encoding" and value.lower() not in PLAIN:
                self._broken("answered in an encoding that it was not asked for")
                return
        self._until_eof = not framed
        self._answer.head_came(status, headers)

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self._hand_over()
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self.open and self._parser.should_keep_alive() and not self._until_eof:
            self.resume()
            self._keep(self)
        elif self._transport:
            self._transport.abort()
        answer.end_came()
