"""What a launcher is given to run: the processes of one replica, which live and end together."""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value
from lemnos.spec.facts import LocalModel
from lemnos.spec.place import Place
from lemnos.spec.plan import Job


class Served(Value):
    """What a replica serves and with what, for rooms that bring both to where it runs."""

    engine: str
    engine_version: str
    model: LocalModel
    """Its path is where the replica has it."""


class Unit(Value):
    """A replica of the engine, or the gateway."""

    deployment: str
    name: str
    """``engine-0``; numbers are not used again within a deployment."""
    revision: int = 0
    jobs: tuple[Job, ...]
    """A process each; the first has the API."""
    place: Place
    start_s: float = 0.0
    """What starting is predicted to take: added to time limits."""
    after: str = ""
    """The unit that it takes over from, which still serves."""
    served: Served | None = None
    """None: the gateway, or a unit that no plan was made for."""

    @property
    def role(self) -> str:
        """``engine`` or ``gateway``."""
        return self.jobs[0].role


class Rendered(Value):
    """What starting a unit would write and run."""

    files: dict[str, str]
    """Name below the unit's directory -> text, in the order in which a person would read them."""
    commands: tuple[tuple[str, ...], ...]
    """What is run then, in order; words that only the running job knows are shell variables."""
    notes: tuple[str, ...] = ()
    """What is worth knowing: a value that was clamped, a file that is written with a key."""


class UnitStatus(Value):
    """What a launcher knows of a unit."""

    state: Literal["queued", "running", "ended"]
    why: str = ""
    """``queued``: for what it waits, in words. ``ended``: how, in words."""
    broken: str = ""
    """``running``, but a part has ended: which, and how. Nobody brings that part back."""
    leaving: str = ""
    """``running``, but told to go: ``its time limit is near``, ``it is preempted``."""
    id: str = ""
    """The scheduler's, the unit's name in systemd."""
    url: str = ""
    """Where its API listens, as the gateway reaches it; empty while not known."""
    inner_url: str = ""
    """Where a gateway in the same room reaches it, if that is another URL."""
    hosts: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    """Of its processes on this machine, the first job's first."""
    starts_at: float | None = None
    """``queued``: when the scheduler expects to start it, epoch seconds."""
    ends_at: float | None = None
    """When its time is over, epoch seconds."""
    starts: int = 0
    """How often its owner (systemd, a scheduler that requeues) has started it again by itself."""

    @property
    def alive(self) -> bool:
        """Whether it is there, running or queued."""
        return self.state != "ended"


class LogFile(Value):
    """One log of a unit."""

    job: str
    """``engine-0``, ``engine-0.1``, or ``engine-0.batch`` for the scheduler's own script."""
    role: str
    """``engine``, ``gateway``, or its part: ``frontend``, ``prefill``, ``decode``, ``batch``."""
    host: str
    path: str
    """On the launcher's side."""


class Room(Value):
    """What a launcher could start now."""

    free: bool
    """There is room for the unit at this moment."""
    starts_at: float | None = None
    """When there will be, as the scheduler expects; None: not known."""
    why: str = ""
    """Why not now, in words."""
