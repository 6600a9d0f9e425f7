"""A client's request and its answer, as the application has them."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from lemnos.gateway.server import Connection

MAX_HEAD = 64 * 1024
MAX_HEADERS = 128
MAX_BODY = 64 * 1024 * 1024

Headers = list[tuple[bytes, bytes]]

_PHRASES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
}


class Source(Protocol):
    """Where a streamed answer comes from: told when the client is slower."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read on."""

    def fail(self, why: str) -> None:
        """Come to an end now, as if it had broken off."""


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_chunked", "_connection", "_keep", "body", "begun", "finished", "headers", "method",
        "path", "query", "raw_headers", "source", "status", "version",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        method: str,
        url: bytes,
        headers: Headers,
        version: str = "1.1",
    ) -> None:
        self._connection = connection
        self.method = method
        self.version = version
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
        self.finished = True
        self._connection.send(head + body)
        self._connection.answered(self, self._keep)

    def start(self, status: int, headers: Headers) -> None:
        """The head of an answer whose length is not known."""
        self.status = status
        self._chunked = self.version == "1.1"
        if not self._chunked:  # HTTP/1.0: the end of the connection is the end
            self._keep = False
        how = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._connection.send(self._head(status, headers, how))

    def write(self, data: bytes) -> None:
        """A part of a started answer."""
        if not data:  # in chunks, nothing would be the end
            return
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
        elif self.version == "1.0":
            more += b"connection: keep-alive\r\n"
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return b"%b%b%b\r\n" % (first, lines, more)


def head_refusal(
    headers: dict[bytes, bytes], pairs: Headers, url_size: int
) -> tuple[int, str] | None:
    """Pure: why a request with this head is refused before its body is read."""
    size = url_size + sum(len(name) + len(value) for name, value in pairs)
    if size > MAX_HEAD or len(pairs) > MAX_HEADERS:
        return 431, "the request's head is too large"
    if announced(headers) > MAX_BODY:
        return 413, f"the body is over {MAX_BODY} bytes"
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return 415, "send the body without a content-encoding"
    return None


def announced(headers: dict[bytes, bytes]) -> int:
    """The body's length as the head tells it; 0 where it does not."""
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def origin_form(url: bytes) -> bytes:
    """``/path?query``, of ``http://host/path?query`` too."""
    if url.startswith(b"/"):
        return url
    _, scheme, rest = url.partition(b"://")
    if not scheme:
        return url
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"
