"""The values of the lifecycle: what a deployment's state is, what is seen of it, what is to be done."""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value
from lemnos.spec.deployment import RestartSpec
from lemnos.spec.rooms import ScaleSpec
from lemnos.spec.status import Phase
from lemnos.spec.unit import UnitStatus

GATEWAY = "gateway-0"

Rollout = Literal["side-by-side", "stop-first"]


class Rules(Value):
    """What of the specs decides."""

    restart: RestartSpec = RestartSpec()
    ready_timeout_s: float = 600.0
    drain_s: float = 30.0
    """The longest that a replica which leaves waits for its open requests."""
    cross_s: float | None = None
    """How often a replica of several roles that serves is asked for a completion, which only all of
    them together can answer; None: its health is enough."""
    unpublished_s: float = 2.0
    """In which the gateway has surely read the table that does not name a replica any more."""
    lead_s: float | None = None
    """How long before its end a replica's successor is started; None: none is."""
    scale: ScaleSpec | None = None


class JobState(Value):
    """The gateway or one replica, as the last tick left it. Times are epoch seconds."""

    name: str
    """``gateway-0``, ``engine-0``, ...: numbers are not used again."""
    revision: int = 0
    """Whose plan it runs; the gateway belongs to all."""
    status: Literal[
        "waiting", "queued", "starting", "ready", "draining", "stopping"
    ] = "waiting"
    start_at: float = 0.0
    """When ``waiting``: not before this."""
    since: float = 0.0
    """When it got its present status."""
    began: float = 0.0
    """When it was first seen to run, since its last start; 0: not yet."""
    probed_at: float = 0.0
    missed: int = 0
    """Health probes missed in a row."""
    crossed_at: float = 0.0
    """When it was last asked for a completion while it served."""
    uncrossed: int = 0
    """Such completions without an answer, in a row."""
    failures: int = 0
    """Ends in a row without a steady time between them; sets the backoff."""
    signals: int = 0
    """When ``stopping``: 1 once it was asked to end, 2 once it was killed."""
    starts: int = 0
    """Starts by its owner that were seen."""
    retiring: bool = False
    """It is not wanted any more: when it is gone, it is forgotten."""
    succeeds: str = ""
    """The replica that it takes over from, while that one is there."""


class State(Value):
    """A deployment, as the last tick left it."""

    jobs: tuple[JobState, ...]
    phase: Phase = Phase.launching
    revision: int = 0
    """The one that serves; 0 before the first has."""
    trial: int = 0
    """The one that is being started, to serve in its place; 0: none."""
    rollout: Rollout = "side-by-side"
    """Of the trial."""
    refused: int = 0
    """The last one that failed its trial."""
    next_number: int = 0
    """Of the next replica."""
    began_at: float = 0.0
    ready_at: float | None = None
    """When it first became ready."""
    published: tuple[str, ...] | None = None
    """The replicas that the gateway was last told of; None before the first time."""
    published_revision: int = 0
    routed_at: float | None = None
    """When the trial's replicas were to be published, all of them."""
    endpoint_ok: bool = False
    endpoint_probed_at: float = 0.0
    endpoint_asked: int = 0
    """The revision that was published when the endpoint was asked last."""
    restarts: int = 0
    restarts_done: int = 0
    """Of those that people asked for."""
    start_s: float = 0.0
    """The longest that a replica took from running to ready."""
    scaled: int = 0
    """Replicas that the queue asks for; 0: not decided yet."""
    pressed_since: float = 0.0
    """Since when too much waits; 0: it does not."""
    idle_since: float = 0.0
    why: str = ""
    """The last thing that went wrong, in words."""


class JobSeen(Value):
    """What the launcher and the last probe say of one job."""

    unit: UnitStatus
    probe: bool | None = None
    """The answer of a probe that finished since the last tick."""
    probe_error: str = ""
    crossed: bool | None = None
    """The same of a completion that crosses all roles of a replica that serves."""
    cross_error: str = ""


class Observed(Value):
    """Everything that a tick may know."""

    now: float
    wanted: Literal["running", "stopped"]
    revision: int
    """The one that people want."""
    replicas: dict[int, int]
    """How many, by revision: as planned, or as people asked for."""
    rollout: Rollout = "side-by-side"
    """How the wanted revision would be started now."""
    restarts_wanted: int = 0
    jobs: dict[str, JobSeen] = {}
    """Those that the launcher knows."""
    open: dict[str, int] | None = None
    """Requests that each replica serves now, as the gateway counts; None: it did not say."""
    waiting: float | None = None
    """Requests that wait for a free place; None: not known."""
    endpoint: bool | None = None
    """The answer of a completion through the endpoint, if one finished since the last tick."""
    endpoint_error: str = ""


class Start(Value):
    """Start this job; it is not running."""

    job: str
    revision: int
    after: str = ""
    """The replica that it takes over from."""


class Signal(Value):
    """End this job: politely, or with all its processes at once."""

    job: str
    kill: bool = False


class Probe(Value):
    """Ask this job whether it works: an engine that starts, by a real completion."""

    job: str
    completion: bool


class Cross(Value):
    """Ask this job, which serves, for a completion, beside its health."""

    job: str


class ProbeEndpoint(Value):
    """Ask for a real completion through the endpoint."""


class Publish(Value):
    """Let the gateway route to exactly these replicas, as this revision's endpoint says."""

    engines: tuple[str, ...]
    revision: int


class Failure(Value):
    """Keep that this job failed, with the lines of its log that tell."""

    job: str
    revision: int
    why: str


class Refuse(Value):
    """The wanted revision failed its trial: want the one that serves again."""

    revision: int
    why: str


class Note(Value):
    """Tell people."""

    text: str


class Finish(Value):
    """Nothing runs any more: the supervisor's work is over."""

    phase: Phase


Effect = (
    Start
    | Signal
    | Probe
    | Cross
    | ProbeEndpoint
    | Publish
    | Failure
    | Refuse
    | Note
    | Finish
)


GONE = UnitStatus(state="ended", why="ended")


def seen_of(job: JobState, seen: Observed) -> JobSeen:
    """What is seen of ``job``; one that the launcher does not know has ended."""
    return seen.jobs.get(job.name) or JobSeen(unit=GONE)


def is_gateway(job: JobState) -> bool:
    """Whether it is the gateway, which outlives revisions."""
    return job.name == GATEWAY
