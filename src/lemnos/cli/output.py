"""How every verb prints: people by default, one JSON document with ``--json``.

Results go to standard output; progress and errors to standard error, so that a pipe
carries only what was asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def out() -> Console:
    """The console for results. Tables keep their columns whole: a line that is longer than
    the terminal is wrapped by it, or read by a program."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 160)
    return console


def err() -> Console:
    """The console for progress, warnings and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """``data`` (pydantic values, dataclasses, containers) as one indented JSON document."""
    from pydantic_core import to_json

    sys.stdout.write(to_json(data, indent=2).decode() + "\n")


def table(*columns: str) -> Any:
    """A plain table: no box, a bold head."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    return grid


def size(count: float) -> str:
    """Bytes for people: ``98.4 MB`` (decimal, as disks and hubs count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class DownloadBars:
    """Progress bars with rate and time left: a ``lemnos.models`` Progress for terminals.

    Where standard error is no terminal it writes a line at the start and end of each
    file instead.
    """

    def __init__(self) -> None:
        self._console = err()
        self._bars: Bars | None = None
        self._task: Any = None

    def __enter__(self) -> DownloadBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bars as they are: what follows is written below them."""
        if self._bars:
            self._bars.stop()
            self._bars = None

    def note(self, text: str) -> None:
        """A sentence about what is going on."""
        self._console.print(text, markup=False)

    def start(self, name: str, total: int, done: int = 0) -> None:
        """A file of ``total`` bytes begins, ``done`` of them already here."""
        if not self._console.is_terminal:
            had = f", {size(done)} already here" if done else ""
            self.note(f"{name}: {size(total)}{had}")
            return
        self._task = self._live().add_task(name, total=total, completed=done)

    def advance(self, count: int) -> None:
        """``count`` more bytes of the file that began last are here."""
        if self._bars and self._task is not None:
            self._bars.advance(self._task, count)

    def _live(self) -> Bars:
        if self._bars is None:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
        return self._bars
