"""The launcher protocol: turns units into something that runs, somewhere.

A launcher has no memory that cannot be found again: made anew, it finds its units by their
mark. Asked twice for the same, it does it once. What it cannot find out (a scheduler that does
not answer) is a LemnosError, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lemnos.engines.base import JobFiles
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus


class Launcher(Protocol):
    """The units of one deployment in one machine room."""

    name: str
    """The word after ``--on``."""
    restarts: bool
    """What it starts is brought back by its owner (systemd): only after that gives up, by lemnos."""
    queues: bool
    """What there is no room for now waits in its queue, instead of failing."""

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Where the unit ``name`` of ``plan`` would run, as far as that is known before it starts.

        What only the running job knows (a host, a port) is a late value (``launchers.late``).
        ``dry``: nothing is looked up or reserved. Raises LemnosError where there is no room at all.
        """
        ...

    def files(self, name: str) -> JobFiles:
        """The paths that the unit's jobs are given, on the machines that run them."""
        ...

    def render(self, unit: Unit) -> Rendered:
        """Pure: what ``submit`` writes and runs. Nothing is written.

        Raises UsageError for what this room cannot do, with the key to change.
        """
        ...

    def inventory(self) -> Cluster:
        """The nodes and GPUs of the room, as far as its own tools tell. Raises LemnosError."""
        ...

    def room(self, unit: Unit) -> Room:
        """Whether the unit could start now, and when else. Raises LemnosError for a unit that the
        room would refuse (an unknown partition, a wrong account), with what to change."""
        ...

    def submit(self, unit: Unit) -> None:
        """Start the unit, unless it is there already. Raises LemnosError if it cannot be started;
        nothing of it is left then."""
        ...

    def status(self) -> dict[str, UnitStatus]:
        """Every unit of the deployment that is there, or that ended and is still known, by name.

        Raises LemnosError while the room cannot be asked.
        """
        ...

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """The logs that the unit has, the first job's first."""
        ...

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last ``lines`` lines of a log, without keys; none if it is not there (yet)."""
        ...

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """Ask the unit to end, or with ``kill`` end it with all its processes. Does not wait; a unit
        that is not there is no error."""
        ...

    def sweep(self) -> int:
        """End whatever is left of the deployment and remove what was written for it but logs; the
        number of things found running."""
        ...


@runtime_checkable
class GatewayRoom(Protocol):
    """A launcher whose gateway cannot read this machine's files: it is handed its table."""

    key_file: str
    """Where that gateway has the engines' key."""

    def publish(self, table: str) -> None:
        """Let the gateway route by ``table`` (JSON, no secrets) from now on; it need not run yet.
        Raises LemnosError."""
        ...


@runtime_checkable
class Declaring(Protocol):
    """A launcher whose units are declared to an owner, where others may change them."""

    def drift(self, unit: Unit) -> str:
        """What the owner has otherwise than ``submit`` would leave it, as a diff; empty where nothing is.
        Raises LemnosError."""
        ...
