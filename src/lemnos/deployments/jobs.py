"""One job's next step: from what was seen of it to its state and what is to be done. Pure."""

from __future__ import annotations

from typing import Any

from lemnos.deployments.state import (
    Cross,
    Effect,
    JobState,
    Note,
    Observed,
    Probe,
    Rules,
    Signal,
    Start,
    is_gateway,
    seen_of,
)
from lemnos.spec.deployment import RestartSpec

HEALTH_INTERVAL_S = 10.0
"""Between health probes of a job that is ready."""
START_PROBE_INTERVAL_S = 0.2
"""Between probes of a job that is starting, and of the endpoint."""
MISSED_PROBES = 3
"""So many health probes missed in a row, and the job counts as hung; so with completions."""
CROSS_S = 60.0
"""Between completions asked of a replica of several roles that serves: each of them may be well while
nothing passes from one to the other. Sooner after one that was not answered."""
ENGINE_GRACE_S = 10.0
GATEWAY_GRACE_S = 35.0
"""From a polite signal to SIGKILL; the gateway finishes open streams for up to 30 s."""


def step(
    job: JobState, seen: Observed, rules: Rules, may_start: bool, effects: list[Effect]
) -> tuple[JobState | None, str]:
    """The job after this tick, None for one to be forgotten; and how it failed, if it did."""
    unit = seen_of(job, seen).unit
    if job.status == "waiting":
        return _waiting(job, seen, rules.restart, may_start, effects), ""
    if job.status == "stopping":
        return _stopping(job, seen, effects), ""
    if not unit.alive:
        if job.retiring:
            return None, ""
        return again(job, seen.now, rules.restart), unit.why or "ended"
    if job.status == "draining":
        return _draining(job, seen, rules, effects), ""
    if unit.state == "queued":
        return _queued(job, seen, effects), ""
    job = _running(job, seen, effects)
    if unit.broken:
        return kill(job, seen.now, rules.restart, effects), unit.broken
    job, why = _probed(job, seen, rules, effects)
    if why or rules.cross_s is None or job.status != "ready" or is_gateway(job):
        return job, why
    return _crossed(job, seen, rules.cross_s, rules.restart, effects)


def became(job: JobState, status: str, now: float, **changes: Any) -> JobState:
    """The job with another status from now on."""
    fresh = {
        "status": status,
        "since": now,
        "probed_at": 0.0,
        "missed": 0,
        "crossed_at": now,
        "uncrossed": 0,
        "signals": 0,
    }
    return job.model_copy(update=fresh | changes)


def again(
    job: JobState, now: float, restart: RestartSpec, status: str = "waiting"
) -> JobState:
    """The job will be started again; after longer each time, unless it was steady before."""
    steady = job.status == "ready" and now - job.since >= restart.steady_s
    failures = 1 if steady else job.failures + 1
    start_at = now + backoff_s(failures, restart)
    return became(job, status, now, failures=failures, start_at=start_at, began=0.0)


def kill(
    job: JobState, now: float, restart: RestartSpec, effects: list[Effect]
) -> JobState:
    """A job that hangs is killed at once; it waits for its restart when it is gone."""
    effects.append(Signal(job=job.name, kill=True))
    return again(job, now, restart, "stopping").model_copy(update={"signals": 2})


def end(job: JobState, now: float, effects: list[Effect]) -> JobState:
    """Signal a job that is stopping: politely, then for good when its grace is over."""
    grace = GATEWAY_GRACE_S if is_gateway(job) else ENGINE_GRACE_S
    if job.signals == 0:
        effects.append(Signal(job=job.name))
        return job.model_copy(update={"signals": 1, "since": now})
    if job.signals == 1 and not 0 <= now - job.since < grace:
        effects.append(Signal(job=job.name, kill=True))
        return job.model_copy(update={"signals": 2})
    return job


def retire(job: JobState, now: float) -> JobState:
    """The job is not wanted any more: one that serves drains first."""
    if job.retiring and job.status in ("draining", "stopping"):
        return job
    status = "draining" if job.status == "ready" else "stopping"
    if job.status == "stopping":
        return job.model_copy(update={"retiring": True})
    return became(job, status, now, retiring=True)


def backoff_s(failures: int, restart: RestartSpec) -> float:
    """Seconds before the restart that follows the ``failures``-th end in a row (from 1)."""
    return float(
        min(restart.backoff_s * 2.0 ** min(failures - 1, 32), restart.max_backoff_s)
    )


def _waiting(
    job: JobState,
    seen: Observed,
    restart: RestartSpec,
    may_start: bool,
    effects: list[Effect],
) -> JobState:
    now = seen.now
    if seen_of(job, seen).unit.alive:  # started just before a crash of the supervisor
        return became(job, "starting", now)
    # A clock set back must not make a job wait for longer than the longest backoff.
    late = now >= min(job.start_at, job.since + restart.max_backoff_s)
    if not may_start or not (late or now < job.since):
        return job
    effects.append(Start(job=job.name, revision=job.revision, after=job.succeeds))
    return became(job, "starting", now, began=0.0, starts=0)


def _stopping(job: JobState, seen: Observed, effects: list[Effect]) -> JobState | None:
    if seen_of(job, seen).unit.alive:
        return end(job, seen.now, effects)
    return None if job.retiring else became(job, "waiting", seen.now, began=0.0)


def _draining(
    job: JobState, seen: Observed, rules: Rules, effects: list[Effect]
) -> JobState:
    """Nothing new comes to it; when its last request has finished, or it took too long, it ends."""
    drained = seen.now - job.since
    still_open = seen.open.get(job.name, 0) if seen.open is not None else 1
    longest = rules.drain_s if still_open else rules.unpublished_s
    if 0 <= drained < max(longest, rules.unpublished_s):
        return job
    return end(became(job, "stopping", seen.now), seen.now, effects)


def _queued(job: JobState, seen: Observed, effects: list[Effect]) -> JobState:
    """Waiting in a scheduler's queue, for as long as that takes."""
    if job.status == "queued":
        return job
    if job.status == "ready":
        why = seen_of(job, seen).unit.why
        effects.append(
            Note(text=f"{job.name} is back in the queue" + (f": {why}" if why else ""))
        )
    return became(job, "queued", seen.now, began=0.0)


def _running(job: JobState, seen: Observed, effects: list[Effect]) -> JobState:
    """Of a job that runs: whether it does so for the first time, or once more."""
    starts = seen_of(job, seen).unit.starts
    if job.status == "queued":
        return became(job, "starting", seen.now, began=seen.now, starts=starts)
    if not job.began:
        return job.model_copy(update={"began": seen.now, "starts": starts})
    if starts <= job.starts:
        return job
    effects.append(Note(text=f"{job.name} was started again by its owner"))
    return became(job, "starting", seen.now, began=seen.now, starts=starts)


def _probed(
    job: JobState, seen: Observed, rules: Rules, effects: list[Effect]
) -> tuple[JobState, str]:
    """Ready by a completion, hung by missed answers, asked again when it is time."""
    now, sight = seen.now, seen_of(job, seen)
    if job.status == "starting" and sight.probe:
        effects.append(Note(text=f"{job.name} is ready"))
        return became(job, "ready", now, probed_at=now), ""
    reason = sight.probe_error or "no answer"
    if job.status == "starting" and now - job.since > rules.ready_timeout_s:
        why = f"not ready after {rules.ready_timeout_s:.0f} s ({reason})"
        return kill(job, now, rules.restart, effects), why
    if sight.probe is not None:
        job = job.model_copy(update={"missed": 0 if sight.probe else job.missed + 1})
    if job.status == "ready" and job.missed >= MISSED_PROBES:
        why = f"does not answer ({reason})"
        return kill(job, now, rules.restart, effects), why
    interval = HEALTH_INTERVAL_S if job.status == "ready" else START_PROBE_INTERVAL_S
    if not 0 <= now - job.probed_at < interval:
        completion = job.status == "starting" and not is_gateway(job)
        effects.append(Probe(job=job.name, completion=completion))
        job = job.model_copy(update={"probed_at": now})
    return job, ""


def _crossed(
    job: JobState,
    seen: Observed,
    every_s: float,
    restart: RestartSpec,
    effects: list[Effect],
) -> tuple[JobState, str]:
    """Of a replica of several roles that serves: whether answers still cross all of them."""
    now, sight = seen.now, seen_of(job, seen)
    if sight.crossed is not None:
        uncrossed = 0 if sight.crossed else job.uncrossed + 1
        job = job.model_copy(update={"uncrossed": uncrossed})
    if job.uncrossed >= MISSED_PROBES:
        why = f"answers no completion ({sight.cross_error or 'no answer'})"
        return kill(job, now, restart, effects), why
    interval = HEALTH_INTERVAL_S if job.uncrossed else every_s
    if not 0 <= now - job.crossed_at < interval:
        effects.append(Cross(job=job.name))
        job = job.model_copy(update={"crossed_at": now})
    return job, ""
