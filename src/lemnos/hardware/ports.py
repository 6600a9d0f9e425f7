"""Who listens where."""

from __future__ import annotations

import contextlib
import errno
import socket

import psutil

from lemnos.errors import LemnosError, UsageError


def port_holder(host: str, port: int) -> str | None:
    """Who listens on ``port`` so that ``host`` cannot be bound: words, or None if it is free.

    Raises UsageError for a host that this machine does not have, LemnosError for a port
    that this user may not open.
    """
    if port_is_free(host, port):
        return None
    return _listener(host, port) or "a process of another user"


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on ``host``:``port`` now. Raises as ``port_holder``."""
    with socket.socket(_family(host)) as probe:
        # As servers do, so that connections in TIME_WAIT do not count as a holder.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise _refused(host, port, error) from None
    return True


def free_port(host: str) -> int:
    """A port of ``host`` that nobody listens on now. Raises as ``port_holder``."""
    with socket.socket(_family(host)) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise _refused(host, 0, error) from None
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refused(host: str, port: int, error: OSError) -> LemnosError:
    if error.errno == errno.EACCES:
        return LemnosError(
            f"port {port} needs privileges that this user does not have",
            where=host,
            fix="choose a port of 1024 or above",
        )
    return UsageError(
        f"is no address of this machine ({error.strerror or error})",
        where=host,
        fix="use 127.0.0.1, 0.0.0.0 for every address, or one that `ip address` shows",
    )


def _listener(host: str, port: int) -> str | None:
    """The process that listens there, if this user may see it."""
    everywhere = {"0.0.0.0", "::"}
    with contextlib.suppress(psutil.Error, OSError):
        address = host if ":" in host else socket.gethostbyname(host)
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not here:
                continue
            same = here.ip == address or {here.ip, address} & everywhere
            if here.port == port and same and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({process.name()}) of user {process.username()}"
    return None
