"""How this machine reaches pods: by their address where the cluster's network is reachable, else by ``kubectl port-forward``."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.words import refused
from lemnos.transport.base import url_of
from lemnos.transport.forwards import Forward

REACH_S = 1.0
"""A network that drops what it does not route is waited for so long, once."""


@dataclass
class Ways:
    """Forwards are kept up for as long as this process lives, or until ``drop``."""

    client: Client
    _direct: dict[str, bool] = field(default_factory=dict)
    _forwards: dict[str, Forward] = field(default_factory=dict)

    def url(self, unit: str, service: str, ip: str, port: int) -> str:
        """Where the API of ``unit`` is asked, whose pod listens on ``ip:port`` by now. Raises LemnosError."""
        if self.client.transport.where:
            return self.client.transport.forward(ip, port)
        if self._is_direct(ip, port):
            self.drop(unit)
            return url_of(ip, port)
        return self.forward(unit, service, port)

    def forward(
        self, unit: str, service: str, port: int, local: int | None = None
    ) -> str:
        """A port of this machine that leads to the Service, ``local`` if it must be that one."""
        known = self._forwards.get(unit)
        if known is None:
            known = self._forwards[unit] = forward(self.client, service, port, local)
        return known.url

    def drop(self, unit: str) -> None:
        """Let its forward go; none is no error."""
        known = self._forwards.pop(unit, None)
        if known:
            known.close()

    def close(self) -> None:
        """Let all go."""
        for unit in [*self._forwards]:
            self.drop(unit)

    def _is_direct(self, ip: str, port: int) -> bool:
        """Asked once for each pod; networks that do not lead there are not tried with the next one."""
        if ip not in self._direct:
            tried = any(self._direct.values()) or not self._direct
            self._direct[ip] = tried and reaches(ip, port)
        return self._direct[ip]


def forward(
    client: Client, service: str, port: int, local: int | None = None
) -> Forward:
    """``kubectl port-forward``, made again when it drops (its pod ended, the connection broke)."""

    def of(here: int) -> list[str]:
        words = ("port-forward", "--address=127.0.0.1", f"service/{service}")
        return [*client.argv(*words, f"{here}:{port}")]

    def problem(code: int, said: str) -> LemnosError:
        return refused(said, f"no forward to {service} can be made")

    return Forward(of, service, "kubernetes", problem, local)


def reaches(ip: str, port: int) -> bool:
    """Whether something at the pod's address answers this machine: a policy may keep even another pod away."""
    with contextlib.suppress(OSError):
        socket.create_connection((ip, port), REACH_S).close()
        return True
    return False
