"""The transport protocol: commands and files on a machine, this one or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lemnos.errors import LemnosError


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Its own words on one line: standard error's, else standard output's; at most 400 characters."""
        return " ".join((self.err.strip() or self.out.strip()).split())[-400:]


class Transport(Protocol):
    """One machine. Paths are absolute and of that machine. Words are never read by a shell."""

    where: str
    """The machine, for messages: empty for this one."""

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        """Run a command to its end. Raises LemnosError where it cannot be started, the machine cannot
        be reached, or the time is over; not for an exit code."""
        ...

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Replace a file as a whole; directories above it are made, for their owner only. Raises LemnosError."""
        ...

    def read(self, path: str, *, last: int | None = None) -> bytes | None:
        """A file's bytes, or its last ``last`` of them; None where there is none. Raises LemnosError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or a directory with all below it; none there is no error. Raises LemnosError."""
        ...

    def home(self) -> str:
        """The user's home directory there."""
        ...

    def forward(self, host: str, port: int) -> str:
        """A base URL (``http://127.0.0.1:41827``) with which this machine reaches what listens on
        ``host:port`` there; kept up, and made again when it drops, for as long as this process lives."""
        ...


def checked(done: Done, what: str, *, where: str = "", fix: str = "") -> str:
    """The command's standard output. Raises LemnosError with its words where it failed."""
    if done.code:
        raise LemnosError(
            f"{what}: {done.said or f'exit code {done.code}'}", where=where, fix=fix
        )
    return done.out


def url_of(host: str, port: int) -> str:
    """``http://10.0.0.5:8000``; addresses of IPv6 in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
