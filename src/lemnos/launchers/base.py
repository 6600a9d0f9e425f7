"""The launcher protocol: turns jobs into something that runs, somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lemnos.spec.base import Value
from lemnos.spec.plan import Job


class JobStatus(Value):
    """What a launcher knows of one job."""

    alive: bool
    ended: str = ""
    """When not alive: how it ended, in words (``killed by SIGKILL``)."""
    pids: tuple[int, ...] = ()
    """Its processes on this host, the first one first."""


class Launcher(Protocol):
    """Runs the jobs of one deployment. Job names are ``role-index``."""

    def render(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Pure: what would be started, as file name -> text. Nothing is written."""
        ...

    def submit(self, job: Job) -> None:
        """Start ``job``. Raises LemnosError if it cannot be started."""
        ...

    def status(self) -> dict[str, JobStatus]:
        """Every job of the deployment that runs, or that ended under this launcher."""
        ...

    def signal(self, name: str, *, kill: bool = False) -> None:
        """Ask a job to end, or kill it with all its children. Does not wait."""
        ...

    def sweep(self) -> int:
        """Kill whatever is left of the deployment; the number of processes found."""
        ...
