"""``python -m lemnos.gateway --targets FILE --host H --port P``: the gateway's process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lemnos.errors import LemnosError
from lemnos.gateway import auth
from lemnos.gateway.app import Gateway, Receive, Scope
from lemnos.gateway.relay import Send
from lemnos.gateway.table import WatchedTable

DRAIN_S = 30
"""How long open requests may go on after SIGTERM."""


def main() -> None:
    """Serve until SIGTERM or SIGINT; one sentence and exit code 1 if it cannot."""
    parser = argparse.ArgumentParser(prog="lemnos.gateway")
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    try:
        table = WatchedTable(options.targets)
        if not auth.is_loopback_name(options.host) and not table.now.key_digests:
            raise LemnosError(
                f"{options.host} can be reached by others, and the endpoint has no key",
                fix="set endpoint.api_key_file, or listen on 127.0.0.1",
            )
        listener = _listen(options.host, options.port)
    except LemnosError as error:
        sys.exit(f"error: {error}")
    import uvloop

    with listener:
        uvloop.run(_serve(table, listener))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise LemnosError(
            f"cannot listen on {host}:{port} ({why})",
            fix="stop what listens there, or choose another port",
        ) from None


async def _serve(table: WatchedTable, listener: socket.socket) -> None:
    gateway = Gateway(table)
    config = uvicorn.Config(
        gateway,
        http=PeerProtocol,
        loop="none",
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = Server(config)

    def drain() -> None:
        gateway.draining = True
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"listening on http://{shown}:{port}\n")
    sys.stdout.flush()
    await server.serve(sockets=[listener])
    await gateway.close()


class Server(uvicorn.Server):
    """uvicorn's server, with the signals left to ``_serve``: a drained exit is exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class PeerProtocol(HttpToolsProtocol):
    """Tells which user is at the other end: asked at most once a connection."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        application = self.app
        peer_uid = functools.cache(functools.partial(_peer_uid, transport))

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["lemnos.peer_uid"] = peer_uid
            await application(scope, receive, send)

        self.app = with_peer


def _peer_uid(transport: Any) -> int | None:
    client = transport.get_extra_info("peername")
    server = transport.get_extra_info("sockname")
    if not client or not auth.is_loopback_name(client[0]):
        return -1
    return auth.peer_uid(client[:2], server[:2])


if __name__ == "__main__":
    main()
