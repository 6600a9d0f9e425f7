"""Who is told how a download goes."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of files that begin and bytes that come; ``cli.output.DownloadBars`` is one."""

    def note(self, text: str) -> None:
        """A sentence about what is going on."""
        ...

    def start(self, name: str, total: int, done: int = 0) -> None:
        """A file of ``total`` bytes begins, ``done`` of them already here."""
        ...

    def advance(self, count: int) -> None:
        """``count`` more bytes of the file that began last."""
        ...


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""
