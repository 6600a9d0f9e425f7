"""What to do next: ``tick(state, observed, rules) -> (state, effects)``, and nothing else.

Pure: no clock, no I/O. The supervisor observes, asks here, does the effects, and saves
the state; killed at any moment, it starts again from the saved state and what it sees.

A job (a replica, or the gateway) goes ``waiting -> starting -> ready`` (through ``queued``, where a
scheduler has it wait), back to ``waiting`` when it ends, and through ``draining`` and ``stopping``
when it is to leave. A revision that was never ready fails by one failed start: what cannot start
once will not start by being repeated, and on a GPU each try takes minutes. After that, replicas
are brought back for as long as the deployment is wanted.
"""

from __future__ import annotations

from lemnos.deployments import rollout
from lemnos.deployments.jobs import START_PROBE_INTERVAL_S, became, end, step
from lemnos.deployments.scaling import scale
from lemnos.deployments.state import (
    GATEWAY,
    Effect,
    Failure,
    Finish,
    JobState,
    Note,
    Observed,
    ProbeEndpoint,
    Publish,
    Rules,
    Signal,
    State,
    is_gateway,
    seen_of,
)
from lemnos.spec.status import Phase


def begin(revision: int, replicas: int, now: float) -> State:
    """The state before the first tick: a gateway and ``replicas`` replicas, all to be started."""
    gateway = JobState(name=GATEWAY, since=now)
    engines = (
        JobState(name=f"engine-{index}", revision=revision, since=now)
        for index in range(replicas)
    )
    return State(
        jobs=(gateway, *engines), trial=revision, next_number=replicas, began_at=now
    )


def resume(state: State) -> State:
    """A saved state, for a supervisor that starts again.

    The last effects before a crash may have been done without being saved, so what the
    gateway was told is unknown: it is told anew.
    """
    return state.model_copy(update={"published": None})


def tick(state: State, seen: Observed, rules: Rules) -> tuple[State, list[Effect]]:
    """One step. The effects are to be done in their order."""
    if seen.wanted == "stopped" or state.phase in (Phase.draining, Phase.failed):
        return _stop(state, seen)
    effects = _strangers(state, seen)
    state = rollout.follow(state, seen, effects)
    state = _asked_restart(state, seen)
    state, failure = _steps(state, seen, rules, effects)
    if not failure:
        failure = _unreachable(state, seen, rules)
    if failure and not state.revision:
        return _fail(state, seen, failure, effects)
    if failure:
        state = rollout.refuse(state, seen.now, failure, effects)
    state = rollout.switch(state, seen, effects)
    state = scale(state, seen, rules.scale, effects)
    state = rollout.staff(state, seen, rules)
    state = _publish(state, effects)
    state = _endpoint(state, seen, effects)
    return _phase(state, seen, effects), effects


def _strangers(state: State, seen: Observed) -> list[Effect]:
    """What runs for the deployment without being any of its jobs is ended: it was given up already."""
    known = {job.name for job in state.jobs}
    return [
        Signal(job=name, kill=True)
        for name, sight in seen.jobs.items()
        if name not in known and sight.unit.alive
    ]


def _steps(
    state: State, seen: Observed, rules: Rules, effects: list[Effect]
) -> tuple[State, str]:
    """Every job's next step; and why the trial has failed, if it has."""
    jobs: list[JobState] = []
    failure, start_s, restarts, last = "", state.start_s, 0, state.why
    covered = {job.succeeds for job in state.jobs if job.succeeds}
    for job in state.jobs:
        after, why = step(job, seen, rules, rollout.may_start(state, job), effects)
        if after and why:
            effects.append(Failure(job=job.name, revision=job.revision, why=why))
            on_trial = not state.revision or 0 < job.revision == state.trial
            if on_trial:
                failure = failure or f"{job.name} {why}"
            elif (
                job.name in covered
            ):  # its time was over, and its successor is on the way
                effects.append(Note(text=f"{job.name} {why}; its successor takes over"))
                continue
            else:
                wait = max(0.0, after.start_at - seen.now)
                restarts, last = restarts + 1, f"{job.name} {why}"
                effects.append(Note(text=f"{last}; restart in {wait:.0f} s"))
        if after is None:
            continue
        if job.status == "ready" and after.status in ("queued", "starting"):
            restarts, last = restarts + 1, _brought_back(after, seen)
        if after.status == "ready" and job.status == "starting" and not is_gateway(job):
            start_s = max(start_s, seen.now - (job.began or seen.now))
        jobs.append(after)
    changes = {
        "jobs": tuple(jobs),
        "start_s": start_s,
        "restarts": state.restarts + restarts,
        "why": last,
    }
    return state.model_copy(update=changes), failure


def _brought_back(job: JobState, seen: Observed) -> str:
    """In words: its owner has put it back into the queue, or started it again."""
    unit = seen_of(job, seen).unit
    if job.status == "starting":
        return f"{job.name} was started again by its owner"
    return f"{job.name} is back in the queue" + (f": {unit.why}" if unit.why else "")


def _unreachable(state: State, seen: Observed, rules: Rules) -> str:
    """Why the first revision has failed though its replicas work: nothing comes through the endpoint."""
    if state.revision or state.routed_at is None:
        return ""
    if 0 <= seen.now - state.routed_at <= rules.ready_timeout_s:
        return ""
    why = f"not ready after {rules.ready_timeout_s:.0f} s"
    return f"{why}: {seen.endpoint_error}" if seen.endpoint_error else why


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
    if is_gateway(job) or job.retiring or job.status == "stopping":
        return job
    status = "waiting" if job.status == "waiting" else "stopping"
    return became(job, status, now, start_at=now)


def _publish(state: State, effects: list[Effect]) -> State:
    revision = rollout.serving(state)
    ready = tuple(
        job.name
        for job in state.jobs
        if job.status == "ready" and job.revision == revision and not is_gateway(job)
    )
    if ready == state.published and revision == state.published_revision:
        return state
    effects.append(Publish(engines=ready, revision=revision))
    same = revision == state.published_revision
    changes = {
        "published": ready,
        "published_revision": revision,
        "endpoint_ok": state.endpoint_ok and same,
    }
    return state.model_copy(update=changes)


def _endpoint(state: State, seen: Observed, effects: list[Effect]) -> State:
    """A completion through the endpoint is asked for until one succeeds, and again after each gap."""
    gateway_ready = all(j.status == "ready" for j in state.jobs if is_gateway(j))
    if not (gateway_ready and state.published):
        return state.model_copy(update={"endpoint_ok": False})
    if state.endpoint_ok:
        return state
    if seen.endpoint and state.endpoint_asked == state.published_revision:
        return state.model_copy(update={"endpoint_ok": True})
    if not 0 <= seen.now - state.endpoint_probed_at < START_PROBE_INTERVAL_S:
        effects.append(ProbeEndpoint())
        asked = {
            "endpoint_probed_at": seen.now,
            "endpoint_asked": state.published_revision,
        }
        return state.model_copy(update=asked)
    return state


def _phase(state: State, seen: Observed, effects: list[Effect]) -> State:
    revision = state.revision
    if not revision:
        phase = Phase.launching if state.routed_at is None else Phase.routing
        return state.model_copy(update={"phase": phase})
    staff = rollout.positions(state, revision)
    enough = len(staff) >= rollout.wanted_of(state, seen, revision)
    gateway = [job for job in state.jobs if is_gateway(job)]
    working = all(job.status == "ready" for job in (*gateway, *staff))
    whole = state.endpoint_ok and enough and working
    if whole and state.phase != Phase.ready:
        effects.append(Note(text="ready: a completion came through the endpoint"))
        return state.model_copy(
            update={"phase": Phase.ready, "ready_at": state.ready_at or seen.now}
        )
    if not whole and state.phase == Phase.ready and not _rolling(state):
        return state.model_copy(update={"phase": Phase.degraded})
    return state


def _rolling(state: State) -> bool:
    """Whether the gap is a switch of revisions, in which the old one or the new one serves."""
    return bool(state.trial) and bool(state.published)


def _fail(
    state: State, seen: Observed, why: str, effects: list[Effect]
) -> tuple[State, list[Effect]]:
    """Stop everything: what this tick was about to start or to ask is not done any more."""
    state = state.model_copy(update={"phase": Phase.failed, "why": why})
    kept = [each for each in effects if isinstance(each, Note | Signal | Failure)]
    state, more = _stop(state, seen)
    return state, [*kept, Note(text=f"failed: {why}"), *more]


def _stop(state: State, seen: Observed) -> tuple[State, list[Effect]]:
    """The gateway goes first, so that open requests finish; then the engines; then it is over."""
    effects = _strangers(state, seen)
    alive = {name for name, sight in seen.jobs.items() if sight.unit.alive}
    phase = state.phase if state.phase == Phase.failed else Phase.draining
    jobs = []
    for job in state.jobs:
        turn = is_gateway(job) or GATEWAY not in alive
        if job.name in alive and turn:
            if job.status != "stopping":
                job = became(job, "stopping", seen.now)
            job = end(job, seen.now, effects)
        jobs.append(job)
    state = state.model_copy(
        update={"jobs": tuple(jobs), "phase": phase, "endpoint_ok": False}
    )
    if not alive:
        final = Phase.failed if phase == Phase.failed else Phase.stopped
        return state.model_copy(update={"phase": final}), [Finish(phase=final)]
    return state, effects
