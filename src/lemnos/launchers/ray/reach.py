"""A Ray cluster as lemnos reaches it: one that is there, or its own on hosts (``own``)."""

from __future__ import annotations

import functools
import urllib.parse
from pathlib import Path
from typing import Protocol

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.ray.client import Client
from lemnos.launchers.ray.parse import RayNode, Told
from lemnos.launchers.ray.render import DEFAULT_ADDRESS
from lemnos.launchers.site import Site
from lemnos.spec.unit import Rendered
from lemnos.transport.base import Transport
from lemnos.transport.ssh import Ssh


class Reached(Protocol):
    """The cluster of one deployment."""

    client: Client

    def rendered(self) -> Rendered | None:
        """What starting it would take; None: it is there."""
        ...

    def nodes(self) -> tuple[RayNode, ...]:
        """What it has, or would have once it is started. Raises LemnosError."""
        ...

    def ensure(self) -> None:
        """It is there, with all its hosts. Raises LemnosError where it cannot be."""
        ...

    def gone(self) -> str:
        """Why it is certain that nothing of it runs, in words; empty: it has to be asked."""
        ...

    def url(self, told: Told) -> str:
        """Where the gateway reaches a unit; empty for now where that is not possible."""
        ...

    def leave(self, told: Told) -> None:
        """The unit has ended."""
        ...

    def sweep(self) -> int:
        """End what of it is lemnos' own; the number of processes."""
        ...


def reached(site: Site) -> Reached:
    """The cluster that the spec means."""
    if site.spec.ray.hosts:
        from lemnos.launchers.ray.own import Own

        return Own(site)
    return Joined(site)


class Joined:
    """A cluster that somebody runs."""

    def __init__(self, site: Site) -> None:
        self._transport = site.transport
        self._address = site.spec.ray.address or DEFAULT_ADDRESS
        self._token_file = site.spec.ray.token_file
        where = f"{self._address} through {site.transport.where}"
        shown = where if site.transport.where else self._address
        self.client = Client(self._base, self._token, shown)

    def rendered(self) -> None:
        return None

    def nodes(self) -> tuple[RayNode, ...]:
        return self.client.nodes()

    def ensure(self) -> None:
        """It says its version, or why not."""
        self.client.version()

    def gone(self) -> str:
        return ""

    def url(self, told: Told) -> str:
        try:
            return self._transport.forward(told.hosts[0], told.port)
        except LemnosError:
            return ""  # the next look tries again

    def leave(self, told: Told) -> None:
        drop(self._transport, told)

    def sweep(self) -> int:
        return 0

    def _base(self) -> str:
        parts = urllib.parse.urlsplit(self._address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"'{self._address}' is no URL of a dashboard",
                where="ray.address",
                fix="write http://HEAD:8265 (ray:// and HOST:6379 are Ray's own protocols, not the dashboard's)",
            )
        if not self._transport.where:
            return self._address
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self._transport.forward(parts.hostname, port) + parts.path

    def _token(self) -> str:
        return read_token(self._token_file) if self._token_file else ""


def drop(transport: Transport, told: Told) -> None:
    """Let a forward go, if there is one."""
    if isinstance(transport, Ssh) and told.hosts:
        transport.drop(told.hosts[0], told.port)


@functools.lru_cache(maxsize=16)
def read_token(path: str) -> str:
    """The token in a file. Raises UsageError where it cannot be read."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(
            f"the token cannot be read ({error.strerror}): {path}",
            where="ray.token_file",
        ) from None
