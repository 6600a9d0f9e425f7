"""Where a target is: the origin of its URL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit


class UpstreamError(Exception):
    """A target that did not answer as HTTP/1.1 has it. ``hung_up``: it closed the connection
    before it said anything, as it may with one that was idle."""

    def __init__(self, why: str, *, hung_up: bool = False) -> None:
        super().__init__(why)
        self.hung_up = hung_up


@dataclass(frozen=True)
class Origin:
    """What a connection leads to."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@lru_cache(4096)
def origin_of(base_url: str) -> tuple[Origin, str]:
    """The origin of a target's URL, and the path before ``/v1``. UpstreamError if it has none."""
    try:
        parts = urlsplit(base_url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
    except ValueError as error:
        raise UpstreamError(f"its address cannot be used ({error})") from None
    if not parts.path.isprintable() or " " in parts.path:
        raise UpstreamError("its address cannot be used (a space in its path)")
    return Origin(parts.hostname or "", port, tls), parts.path.rstrip("/")
