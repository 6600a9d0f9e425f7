"""The way out: TLS with the machine's certificates, and the site's proxy for the cloud."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_REPLY = 64 * 1024


def client_context() -> ssl.SSLContext:
    """Certificates of the machine (``SSL_CERT_FILE`` too); certifi's where it has none."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not context.cert_store_stats()["x509_ca"] and not _has_directory():
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _has_directory() -> bool:
    """Whether OpenSSL looks certificates up one by one, which no statistics show."""
    from pathlib import Path

    where = ssl.get_default_verify_paths().capath
    return bool(where) and any(Path(where).iterdir())


def for_origin(host: str, tls: bool) -> str | None:
    """The proxy for a host, after the usual variables: for TLS only, since a target without it
    is on the site's own network."""
    if not tls or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get("https")


async def connect(
    loop: asyncio.AbstractEventLoop,
    via: str,
    host: str,
    port: int,
    make: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
) -> asyncio.Protocol:
    """A TLS connection to ``host`` through an HTTP proxy. Raises OSError."""
    at, credentials = _proxy(via)
    try:
        transport, tunnel = await loop.create_connection(_Tunnel, *at)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConnectionError(f"the proxy cannot be reached ({why})") from None
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode()
        transport.write(head + credentials + b"\r\n")
        await tunnel.opened
        protocol = make()
        secured: Any = await loop.start_tls(
            transport, protocol, context, server_hostname=host
        )
    except BaseException:
        transport.abort()
        raise
    protocol.connection_made(secured)
    return protocol


def _proxy(via: str) -> tuple[tuple[str, int], bytes]:
    """Where the proxy listens, and the header with its credentials. ConnectionError says what
    it cannot be; never the URL, which may hold a password."""
    try:
        parts = urlsplit(via if "://" in via else f"http://{via}")
        at = (parts.hostname or "", parts.port or 80)
    except ValueError:
        raise ConnectionError("the proxy's URL in https_proxy is none") from None
    if parts.scheme != "http":
        raise ConnectionError(
            f"https_proxy names a proxy of the kind {parts.scheme}://, only http:// is known"
        )
    if not parts.username:
        return at, b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    token = base64.b64encode(pair.encode())
    return at, b"Proxy-Authorization: Basic " + token + b"\r\n"


class _Tunnel(asyncio.Protocol):
    """Waits for the proxy's word."""

    def __init__(self) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self._reply = b""

    def data_received(self, data: bytes) -> None:
        self._reply += data
        if b"\r\n\r\n" not in self._reply and len(self._reply) < MAX_REPLY:
            return
        if self.opened.done():
            return
        words = self._reply.split(b"\r\n", 1)[0].split()
        if len(words) > 1 and words[1].startswith(b"2"):
            self.opened.set_result(None)
            return
        said = b" ".join(words[1:]).decode("latin-1")
        self.opened.set_exception(ConnectionError(f"the proxy said {said[:100]}"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the proxy hung up"))
