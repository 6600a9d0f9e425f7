"""What to do next: ``tick(state, observed) -> (state, effects)``, and nothing else.

Pure: no clock, no I/O. The supervisor observes, asks here, does the effects, and saves
the state; killed at any moment, it starts again from the saved state and what it sees.

A job (a replica of the engine, or the gateway) goes ``waiting -> starting -> ready``,
back to ``waiting`` when it ends, and through ``stopping`` when it is stopped. Before the
deployment was ever ready, a job that ends means that the start failed: what cannot start
once will not start by being repeated, and on a GPU each try takes minutes. After that,
jobs are brought back for as long as the deployment is wanted.
"""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value
from lemnos.spec.deployment import RestartSpec
from lemnos.spec.status import Phase

GATEWAY = "gateway-0"

HEALTH_INTERVAL_S = 10.0
"""Between health probes of a job that is ready."""
START_PROBE_INTERVAL_S = 0.2
"""Between probes of a job that is starting, and of the endpoint."""
MISSED_PROBES = 3
"""So many health probes missed in a row, and the job counts as hung."""
ENGINE_GRACE_S = 10.0
GATEWAY_GRACE_S = 35.0
"""From a polite signal to SIGKILL; the gateway finishes open streams for up to 30 s."""


class JobState(Value):
    """One job, as the last tick left it. Times are epoch seconds."""

    name: str
    """``gateway-0``, ``engine-0``, ..."""
    status: Literal["waiting", "starting", "ready", "stopping"] = "waiting"
    start_at: float = 0.0
    """When ``waiting``: not before this."""
    since: float = 0.0
    """When it got its present status."""
    probed_at: float = 0.0
    missed: int = 0
    """Health probes missed in a row."""
    failures: int = 0
    """Ends in a row without a steady time between them; sets the backoff."""
    signals: int = 0
    """When ``stopping``: 1 once it was asked to end, 2 once it was killed."""


class State(Value):
    """A deployment, as the last tick left it."""

    jobs: tuple[JobState, ...]
    phase: Phase = Phase.launching
    began_at: float = 0.0
    ready_at: float | None = None
    """When it first became ready."""
    published: tuple[str, ...] | None = None
    """The engine jobs that the gateway was last told of; None before the first time."""
    endpoint_ok: bool = False
    endpoint_probed_at: float = 0.0
    restarts: int = 0
    restarts_done: int = 0
    """Of those that people asked for."""
    why: str = ""


class JobSeen(Value):
    """What the launcher and the last probe say of one job."""

    alive: bool
    ended: str = ""
    """When not alive: how it ended, in words."""
    probe: bool | None = None
    """The answer of a probe that finished since the last tick."""
    probe_error: str = ""


class Observed(Value):
    """Everything that a tick may know."""

    now: float
    wanted: Literal["running", "stopped"]
    restarts_wanted: int = 0
    jobs: dict[str, JobSeen]
    endpoint: bool | None = None
    """The answer of a completion through the endpoint, if one finished since the last tick."""
    endpoint_error: str = ""


class Start(Value):
    """Start this job; it is not running."""

    job: str


class Signal(Value):
    """End this job: politely, or with SIGKILL."""

    job: str
    kill: bool = False


class Probe(Value):
    """Ask this job whether it works: an engine that starts, by a real completion."""

    job: str
    completion: bool


class ProbeEndpoint(Value):
    """Ask for a real completion through the endpoint."""


class Publish(Value):
    """Let the gateway route to exactly these engine jobs."""

    engines: tuple[str, ...]


class Note(Value):
    """Tell people."""

    text: str


class Finish(Value):
    """Nothing runs any more: the supervisor's work is over."""

    phase: Phase


Effect = Start | Signal | Probe | ProbeEndpoint | Publish | Note | Finish


def begin(engines: int, now: float) -> State:
    """The state before the first tick: a gateway and ``engines`` replicas, all to be started."""
    names = [GATEWAY, *(f"engine-{index}" for index in range(engines))]
    return State(
        jobs=tuple(JobState(name=name, since=now) for name in names), began_at=now
    )


def resume(state: State) -> State:
    """A saved state, for a supervisor that starts again.

    The last effects before a crash may have been done without being saved, so what the
    gateway was told is unknown: it is told anew.
    """
    return state.model_copy(update={"published": None})


def tick(
    state: State, seen: Observed, restart: RestartSpec, ready_timeout_s: float
) -> tuple[State, list[Effect]]:
    """One step. The effects are to be done in their order."""
    if seen.wanted == "stopped" or state.phase in (Phase.draining, Phase.failed):
        return _stop(state, seen)
    effects: list[Effect] = []
    state = _asked_restart(state, seen)
    jobs = []
    for job in state.jobs:
        after, why = _step(job, seen, restart, ready_timeout_s, effects)
        if why and state.ready_at is None:
            return _fail(state, seen, f"{job.name} {why}", effects)
        if why:
            state = state.model_copy(
                update={"restarts": state.restarts + 1, "why": f"{job.name} {why}"}
            )
            effects.append(
                Note(
                    text=f"{job.name} {why}; restart in {after.start_at - seen.now:.0f} s"
                )
            )
        jobs.append(after)
    state = state.model_copy(update={"jobs": tuple(jobs)})
    state = _publish(state, effects)
    state = _endpoint(state, seen, effects)
    if state.ready_at is None and seen.now - state.began_at > ready_timeout_s:
        why = f"not ready after {ready_timeout_s:.0f} s"
        return _fail(
            state,
            seen,
            f"{why}: {seen.endpoint_error}" if seen.endpoint_error else why,
            effects,
        )
    return _phase(state, seen, effects), effects


def backoff_s(failures: int, restart: RestartSpec) -> float:
    """Seconds before the restart that follows the ``failures``-th end in a row (from 1)."""
    return float(
        min(restart.backoff_s * 2.0 ** min(failures - 1, 32), restart.max_backoff_s)
    )


def _asked_restart(state: State, seen: Observed) -> State:
    """Engines that somebody wants restarted begin to stop; the gateway stays, and answers 503."""
    if seen.restarts_wanted <= state.restarts_done:
        return state
    jobs = tuple(_asked(job, seen.now) for job in state.jobs)
    return state.model_copy(
        update={
            "jobs": jobs,
            "restarts_done": seen.restarts_wanted,
            "endpoint_ok": False,
        }
    )


def _asked(job: JobState, now: float) -> JobState:
    if job.name == GATEWAY or job.status == "stopping":
        return job
    status = "waiting" if job.status == "waiting" else "stopping"
    return _became(job, status, now, start_at=now)


def _step(
    job: JobState,
    seen: Observed,
    restart: RestartSpec,
    ready_timeout_s: float,
    effects: list[Effect],
) -> tuple[JobState, str]:
    """The job after this tick, and why it needs to be brought back, if it does."""
    now = seen.now
    sight = seen.jobs.get(job.name, JobSeen(alive=False))
    if job.status == "waiting":
        # A clock set back must not make a job wait for longer than the longest backoff.
        if sight.alive:  # started just before a crash of the supervisor
            return _became(job, "starting", now), ""
        if (
            now < min(job.start_at, job.since + restart.max_backoff_s)
            and now >= job.since
        ):
            return job, ""
        effects.append(Start(job=job.name))
        return _became(job, "starting", now), ""
    if job.status == "stopping":
        if not sight.alive:
            return _became(job, "waiting", now), ""
        return _end(job, now, effects), ""
    if not sight.alive:
        return _again(job, "waiting", now, restart), sight.ended or "ended"
    if job.status == "starting" and sight.probe:
        effects.append(Note(text=f"{job.name} is ready"))
        return _became(job, "ready", now, probed_at=now), ""
    reason = sight.probe_error or "no answer"
    if job.status == "starting" and now - job.since > ready_timeout_s:
        why = f"not ready after {ready_timeout_s:.0f} s ({reason})"
        return _kill(job, now, restart, effects), why
    if sight.probe is not None:
        job = job.model_copy(update={"missed": 0 if sight.probe else job.missed + 1})
    if job.status == "ready" and job.missed >= MISSED_PROBES:
        why = f"does not answer ({reason})"
        return _kill(job, now, restart, effects), why
    interval = HEALTH_INTERVAL_S if job.status == "ready" else START_PROBE_INTERVAL_S
    if not 0 <= now - job.probed_at < interval:
        completion = job.status == "starting" and job.name != GATEWAY
        effects.append(Probe(job=job.name, completion=completion))
        job = job.model_copy(update={"probed_at": now})
    return job, ""


def _became(job: JobState, status: str, now: float, **changes: float) -> JobState:
    fresh = {
        "status": status,
        "since": now,
        "probed_at": 0.0,
        "missed": 0,
        "signals": 0,
    }
    return job.model_copy(update=fresh | changes)


def _again(job: JobState, status: str, now: float, restart: RestartSpec) -> JobState:
    """The job will be started again; after longer each time, unless it was steady before."""
    steady = job.status == "ready" and now - job.since >= restart.steady_s
    failures = 1 if steady else job.failures + 1
    start_at = now + backoff_s(failures, restart)
    return _became(job, status, now, failures=failures, start_at=start_at)


def _kill(
    job: JobState, now: float, restart: RestartSpec, effects: list[Effect]
) -> JobState:
    """A job that hangs is killed at once; it waits for its restart when it is gone."""
    effects.append(Signal(job=job.name, kill=True))
    job = _again(job, "stopping", now, restart)
    return job.model_copy(update={"signals": 2})


def _end(job: JobState, now: float, effects: list[Effect]) -> JobState:
    """Signal a job that is stopping: politely, then with SIGKILL when its grace is over."""
    grace = GATEWAY_GRACE_S if job.name == GATEWAY else ENGINE_GRACE_S
    if job.signals == 0:
        effects.append(Signal(job=job.name))
        return job.model_copy(update={"signals": 1, "since": now})
    if job.signals == 1 and not 0 <= now - job.since < grace:
        effects.append(Signal(job=job.name, kill=True))
        return job.model_copy(update={"signals": 2})
    return job


def _publish(state: State, effects: list[Effect]) -> State:
    ready = tuple(
        j.name for j in state.jobs if j.name != GATEWAY and j.status == "ready"
    )
    if ready == state.published:
        return state
    effects.append(Publish(engines=ready))
    return state.model_copy(update={"published": ready})


def _endpoint(state: State, seen: Observed, effects: list[Effect]) -> State:
    """A completion through the endpoint is asked for until one succeeds, and again after each gap."""
    gateway_ready = all(j.status == "ready" for j in state.jobs if j.name == GATEWAY)
    if not (gateway_ready and state.published):
        return state.model_copy(update={"endpoint_ok": False})
    if state.endpoint_ok:
        return state
    if seen.endpoint:
        return state.model_copy(update={"endpoint_ok": True})
    if not 0 <= seen.now - state.endpoint_probed_at < START_PROBE_INTERVAL_S:
        effects.append(ProbeEndpoint())
        return state.model_copy(update={"endpoint_probed_at": seen.now})
    return state


def _phase(state: State, seen: Observed, effects: list[Effect]) -> State:
    whole = state.endpoint_ok and all(job.status == "ready" for job in state.jobs)
    if whole and state.phase != Phase.ready:
        effects.append(Note(text="ready: a completion came through the endpoint"))
        return state.model_copy(
            update={"phase": Phase.ready, "ready_at": state.ready_at or seen.now}
        )
    if not whole and state.phase == Phase.ready:
        return state.model_copy(update={"phase": Phase.degraded})
    return state


def _fail(
    state: State, seen: Observed, why: str, effects: list[Effect]
) -> tuple[State, list[Effect]]:
    """Stop everything: what this tick was about to start or to ask is not done any more."""
    state = state.model_copy(update={"phase": Phase.failed, "why": why})
    kept = [effect for effect in effects if isinstance(effect, Note | Signal)]
    state, more = _stop(state, seen)
    return state, [*kept, Note(text=f"failed: {why}"), *more]


def _stop(state: State, seen: Observed) -> tuple[State, list[Effect]]:
    """The gateway goes first, so that open requests finish; then the engines; then it is over."""
    effects: list[Effect] = []
    alive = {name for name, sight in seen.jobs.items() if sight.alive}
    phase = state.phase if state.phase == Phase.failed else Phase.draining
    jobs = []
    for job in state.jobs:
        turn = job.name == GATEWAY or GATEWAY not in alive
        if job.name in alive and turn:
            if job.status != "stopping":
                job = _became(job, "stopping", seen.now)
            job = _end(job, seen.now, effects)
        jobs.append(job)
    state = state.model_copy(
        update={"jobs": tuple(jobs), "phase": phase, "endpoint_ok": False}
    )
    if not alive:
        final = Phase.failed if phase == Phase.failed else Phase.stopped
        return state.model_copy(update={"phase": final}), [Finish(phase=final)]
    return state, effects
