"""One request to one target, byte for byte, and what happens when that breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from yarl import URL

from lemnos.gateway.table import TargetKeys
from lemnos.spec.targets import Target
from lemnos.wire.errors import Protocol, error_body, error_event
from lemnos.wire.sse import whole_events

CONNECT_S = 5.0
IDLE_S = 600.0
"""A target that sends nothing for so long has hung (a long prompt on a CPU takes minutes)."""
KEEP_ALIVE_S = 3.0
"""Less than the 5 s after which engines (uvicorn, cpp-httplib) close an idle connection: a
request that is sent while they do would fail."""
MAX_EVENT = 16 * 1024 * 1024
"""What does not end an event within so many bytes is no stream of events."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1; and what belongs to one leg of the way only. Encodings do: a compressed
# stream could not be ended with an error event.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    b"trailer transfer-encoding upgrade".split()
)
NOT_UPSTREAM = HOP_BY_HOP | frozenset(
    b"host content-length authorization x-api-key cookie origin referer expect "
    b"accept-encoding".split()
)
NOT_DOWNSTREAM = HOP_BY_HOP | frozenset([b"server", b"date"])


class Relay:
    """Sends requests to targets and answers back to clients."""

    def __init__(self) -> None:
        self.in_flight: Counter[str] = Counter()
        self._keys = TargetKeys()
        self._pooled = _session(keepalive_timeout=KEEP_ALIVE_S)
        self._fresh = _session(force_close=True)

    async def close(self) -> None:
        """Close the connections to targets."""
        await self._pooled.close()
        await self._fresh.close()

    async def to_first_that_answers(
        self,
        targets: Iterable[Target],
        path: str,
        headers: Headers,
        body: bytes,
        protocol: Protocol,
        send: Send,
    ) -> None:
        """Try targets in their order until one answers; 502 when none does.

        The same request goes to the next target as long as no byte went to the client. A
        target that hangs up without a word gets it once more, over a new connection: it
        may have closed an idle one at the moment in which that was used again.
        """
        problem = ""
        tries = ((t, s) for t in targets for s in (self._pooled, self._fresh))
        refused = ""
        for target, session in tries:
            if target.name == refused:
                continue
            self.in_flight[target.name] += 1
            try:
                upstream = session.post(
                    URL(target.base_url + path, encoded=True),
                    data=body,
                    headers=self._headers_for(target, headers),
                    allow_redirects=False,
                )
                await _relay(upstream, target, protocol, send)
                return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = f"{target.name}: {str(error) or type(error).__name__}"
                refused = "" if _hung_up(error) else target.name
            finally:
                self.in_flight[target.name] -= 1
        message = f"no replica answered ({problem})"
        await answer(send, 502, error_body(protocol, 502, message))

    def _headers_for(self, target: Target, headers: Headers) -> list[tuple[str, str]]:
        """The client's headers, less its credentials, with the target's own key."""
        kept = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in headers
            if key not in NOT_UPSTREAM
        ]
        if key := self._keys.of(target.key_file):
            kept.append(("Authorization", f"Bearer {key}"))
        return kept


def _session(**connections: Any) -> aiohttp.ClientSession:
    """A client that adds nothing of its own to a request."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **connections),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=IDLE_S
        ),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _hung_up(error: Exception) -> bool:
    """Whether a connection that stood was closed before any answer."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))


async def _relay(
    upstream: AbstractAsyncContextManager[aiohttp.ClientResponse],
    target: Target,
    protocol: Protocol,
    send: Send,
) -> None:
    """The target's answer to the client. Raises only while nothing has been sent to it."""
    async with upstream as response:
        kept = [
            (key, value)
            for key, value in response.raw_headers
            if (low := key.lower()) not in NOT_DOWNSTREAM
            and not low.startswith(b"access-control-")
        ]
        if not response.content_type.startswith("text/event-stream"):
            # Read whole before the first byte goes out: while it is not out, another
            # target can still answer.
            whole = await response.read()
            await _start(send, response.status, kept)
            await send({"type": "http.response.body", "body": whole})
            return
        # A stream that breaks is longer than announced: it ends with an error event.
        kept = [pair for pair in kept if pair[0].lower() != b"content-length"]
        await _start(send, response.status, kept)
        await _stream(response, target, protocol, send)


async def answer(
    send: Send, status: int, body: bytes, *, headers: Headers | None = None
) -> None:
    """A whole JSON answer."""
    length = (b"content-length", str(len(body)).encode())
    kind = (b"content-type", b"application/json")
    await _start(send, status, [kind, length, *(headers or [])])
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _stream(
    response: aiohttp.ClientResponse, target: Target, protocol: Protocol, send: Send
) -> None:
    """Whole events as they come. A stream that breaks ends with an error event.

    An event that has only begun is held back until it is whole: if it never is, the
    client gets an error event instead of half a line of JSON.
    """
    held = b""
    try:
        async for chunk in response.content.iter_any():
            seen = len(held)
            held += chunk
            if whole := whole_events(held, seen):
                body, held = held[:whole], held[whole:]
                await send(
                    {"type": "http.response.body", "body": body, "more_body": True}
                )
            if len(held) > MAX_EVENT:
                raise aiohttp.ClientPayloadError("an event without an end")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        held = error_event(protocol, 502, f"{target.name} broke off: {why}")
    await send({"type": "http.response.body", "body": held})
