"""``python -m lemnos.gateway --targets FILE --host H --port P``: the gateway's process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lemnos.errors import LemnosError
from lemnos.gateway import auth
from lemnos.gateway.app import Gateway
from lemnos.gateway.children import Children
from lemnos.gateway.requestlog import RequestLog
from lemnos.gateway.server import Server, Timeouts
from lemnos.gateway.table import WatchedTable

if TYPE_CHECKING:
    from lemnos.gateway.ledger import Ledger

DRAIN_S = 30.0
"""How long open requests may go on after SIGTERM; see ``--drain-timeout``."""


def main() -> None:
    """Serve until SIGTERM or SIGINT; one sentence and exit code 1 if it cannot."""
    options = _options()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    try:
        table = WatchedTable(options.targets)
        if not auth.is_loopback_name(options.host) and not table.now.keys:
            raise LemnosError(
                f"{options.host} can be reached by others, and the endpoint has no key",
                fix="set endpoint.api_key_file, or listen on 127.0.0.1",
            )
        tls = _tls(options.tls_cert, options.tls_key)
        if tls is None and not auth.is_loopback_name(options.host):
            logging.getLogger("lemnos.gateway").warning(
                "%s is served without TLS: keys and prompts can be read on the way",
                options.host,
            )
        ledger = _ledger(options.ledger) if options.ledger else None
        listener = _listen(options.host, options.port)
    except LemnosError as error:
        sys.exit(f"error: {error}")
    _raise_file_limit()
    # What is there now stays: the collector need not walk through it while requests wait.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    import uvloop

    timeouts = Timeouts(options.head_timeout, options.body_timeout)
    try:
        with listener:
            uvloop.run(
                _serve(table, ledger, listener, tls, timeouts, options.drain_timeout)
            )
    finally:
        if ledger:
            ledger.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lemnos.gateway")
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument(
        "--ledger", help="a database's URL, or env:NAME of the variable with it"
    )
    parser.add_argument("--head-timeout", type=float, default=Timeouts.head_s)
    parser.add_argument("--body-timeout", type=float, default=Timeouts.body_s)
    parser.add_argument("--drain-timeout", type=float, default=DRAIN_S)
    return parser.parse_args()


def _ledger(text: str) -> Ledger:
    """At a URL, or at that in a variable: everybody may read a process's arguments."""
    from lemnos.gateway.ledger import Ledger

    name = text.removeprefix("env:")
    if name == text:
        return Ledger(text)
    try:
        return Ledger(os.environ[name])
    except KeyError:
        raise LemnosError(
            f"the ledger's URL should be in {name}, which is not set"
        ) from None


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None:
        raise LemnosError(
            "there is a key for TLS and no certificate",
            where=str(key),
            fix="give --tls-cert too, or neither",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password, OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LemnosError(
            f"the certificate cannot be used ({why})",
            where=str(cert),
            fix="give the PEM files of the chain and of its key, readable by this user",
        ) from None
    return context


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


def _raise_file_limit() -> None:
    """Each open stream takes two files; the usual soft limit of 1,024 is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    table: WatchedTable,
    ledger: Ledger | None,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    timeouts: Timeouts,
    drain_s: float,
) -> None:
    gateway = Gateway(table, ledger, RequestLog())
    children = Children(table)
    server = Server(gateway, gateway.refuse, gateway.turns_away, timeouts)
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        """Once: finish what is under way. Twice: do not wait for it."""
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    await server.serve(tls, sock=listener)
    sys.stdout.write(f"listening on {'https' if tls else 'http'}://{shown}:{port}\n")
    sys.stdout.flush()
    await stop.wait()
    gateway.draining = True
    await server.drain(drain_s, hurry)
    await children.close()
    gateway.close()


if __name__ == "__main__":
    main()
