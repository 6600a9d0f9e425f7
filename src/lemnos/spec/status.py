"""What a deployment is doing: what ``ps`` shows and the store keeps."""

from __future__ import annotations

from enum import StrEnum

from lemnos.spec.base import Value
from lemnos.spec.plan import Plan


class Phase(StrEnum):
    """Where a deployment is in its life."""

    launching = "launching"
    """Jobs are started or queued; not every replica has answered a completion yet."""
    routing = "routing"
    """Every replica has; none has come through the endpoint yet."""
    ready = "ready"
    """A real completion came through the endpoint, and every replica is ready."""
    degraded = "degraded"
    """It was ready; now a replica or the gateway is being brought back."""
    draining = "draining"
    """Stopping: open requests finish first."""
    stopped = "stopped"
    failed = "failed"
    """It never became ready, and was stopped."""

    @property
    def over(self) -> bool:
        return self in (Phase.stopped, Phase.failed)


class Status(Value):
    """A deployment as it is now."""

    name: str
    revision: int
    """The one that serves; before any does, the first."""
    wanted: int = 0
    """The one that people want: it is being started where it is another."""
    phase: Phase
    url: str
    model: str
    engine: str
    plan: Plan
    created: float
    """Epoch seconds of this revision's start."""
    ready_at: float | None = None
    """When it first became ready."""
    restarts: int = 0
    """How often a replica or the gateway was brought back."""
    replicas: int = 0
    replicas_ready: int = 0
    """That the gateway routes to."""
    why: str = ""
    """The last thing that went wrong, in words."""
    stage: str = ""
    """What the engine is doing while it starts: ``loading weights``."""
    supervisor_pid: int | None = None
    supervisor_alive: bool = False
    engine_pids: tuple[int, ...] = ()

    @property
    def base_url(self) -> str:
        """What SDKs call the base URL: with ``/v1``."""
        return f"{self.url}/v1"


class Event(Value):
    """Something that happened to a deployment."""

    at: float
    """Epoch seconds."""
    text: str


class FailureSeen(Value):
    """Something that failed, with what its log said of it."""

    revision: int
    """0: the gateway, which is no revision's own."""
    job: str
    at: float
    """Epoch seconds."""
    why: str
    lines: tuple[str, ...] = ()


class RevisionSeen(Value):
    """One revision of a deployment, for ``lemnos history``."""

    revision: int
    created: float
    """Epoch seconds."""
    model: str
    engine: str
    on: str
    state: str
    """``serves``, ``is starting``, ``served``, ``failed: ...``, ``never served``."""
    copy_of: int | None = None
    """The revision that it brought back."""
    changes: tuple[str, ...] = ()
    """What its spec has otherwise than the one before: ``workload.context: 512 -> 1024``."""
    failures: tuple[FailureSeen, ...] = ()
