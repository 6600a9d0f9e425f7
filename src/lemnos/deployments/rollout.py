"""Which replicas there should be: revisions, numbers, successors. Pure.

A new revision is a *trial*: its replicas start, and only when every one has answered a completion
are they published in place of the old ones, which leave once a completion has come through the
endpoint as well. Whatever goes wrong before that ends the trial, and the old revision serves on.
The first revision is a trial with nothing to fall back to.
"""

from __future__ import annotations

from collections.abc import Iterable

from lemnos.deployments.jobs import retire
from lemnos.deployments.state import (
    Effect,
    Failure,
    JobState,
    Note,
    Observed,
    Refuse,
    Rules,
    State,
    is_gateway,
    seen_of,
)

ROUTE_TIMEOUT_S = 60.0
"""A trial that is published, and through which no completion comes for so long, has failed."""


def follow(state: State, seen: Observed, effects: list[Effect]) -> State:
    """Begin the trial of a revision that is newly wanted; give up one that is not any more."""
    wanted = seen.revision
    if state.trial and wanted != state.trial:
        effects.append(Note(text=f"revision {state.trial} is not wanted any more"))
        state = _without_trial(state, seen.now)
    if state.trial or wanted in (state.revision, state.refused):
        return state
    state = state.model_copy(update={"trial": wanted, "rollout": seen.rollout})
    if not state.revision:
        return state
    effects.append(Note(text=f"revision {wanted} starts ({seen.rollout})"))
    if seen.rollout == "side-by-side":
        return state
    return _with(state, (_retired(job, state.revision, seen.now) for job in state.jobs))


def staff(state: State, seen: Observed, rules: Rules) -> State:
    """Add replicas where some are missing or near their end, and let go of those that are too many.

    What is added is started by a later tick, when it has been saved: after a crash nothing runs
    that the saved state does not name.
    """
    state = _with(state, _handed_over(state, seen))
    for revision in (state.revision, state.trial):
        if revision and not (revision == state.revision and _gives_way(state)):
            state = _count(state, revision, wanted_of(state, seen, revision), seen.now)
    if rules.lead_s is None:
        return state
    for job in state.jobs:
        if _is_ending(job, seen, rules.lead_s) and not _successor(state, job):
            state = _added(state, job.revision, seen.now, succeeds=job.name)
    return state


def wanted_of(state: State, seen: Observed, revision: int) -> int:
    """Replicas that a revision should have."""
    return state.scaled or seen.replicas.get(revision, 1)


def may_start(state: State, job: JobState) -> bool:
    """Where there is room for one revision alone, nothing starts before the others' replicas are gone."""
    if is_gateway(job) or state.rollout == "side-by-side":
        return True
    return not any(each.retiring for each in state.jobs)


def positions(state: State, revision: int) -> list[JobState]:
    """The replicas that count: those that stay, but not successors of one that is there yet."""
    return [
        job
        for job in state.jobs
        if job.revision == revision
        and not is_gateway(job)
        and not job.retiring
        and not job.succeeds
    ]


def switch(state: State, seen: Observed, effects: list[Effect]) -> State:
    """Publish a trial whose replicas all work; once a completion came through it, it serves."""
    if not state.trial:
        return state
    own = positions(state, state.trial)
    enough = len(own) >= wanted_of(state, seen, state.trial)
    if state.routed_at is None:
        if enough and all(job.status == "ready" for job in own):
            return state.model_copy(update={"routed_at": seen.now})
        return state
    if state.endpoint_ok and state.published_revision == state.trial:
        return _accepted(state, seen, effects)
    if state.revision and not 0 <= seen.now - state.routed_at < ROUTE_TIMEOUT_S:
        why = seen.endpoint_error or "no answer"
        return refuse(
            state, seen.now, f"no completion came through the endpoint ({why})", effects
        )
    return state


def serving(state: State) -> int:
    """The revision whose replicas the gateway is told of; the first trial's as they get ready."""
    return (
        state.trial
        if state.trial and (state.routed_at is not None or not state.revision)
        else state.revision
    )


def refuse(state: State, now: float, why: str, effects: list[Effect]) -> State:
    """End the trial: its replicas leave, and what was started by this tick for it is not done."""
    trial = state.trial
    effects[:] = [
        each
        for each in effects
        if getattr(each, "revision", None) != trial or isinstance(each, Failure)
    ]
    effects += [
        Refuse(revision=trial, why=why),
        Note(
            text=f"revision {trial} failed: {why}; revision {state.revision} serves on"
        ),
    ]
    state = _without_trial(state, now)
    return state.model_copy(
        update={"refused": trial, "why": f"revision {trial}: {why}"}
    )


def _accepted(state: State, seen: Observed, effects: list[Effect]) -> State:
    trial, old = state.trial, state.revision
    if old:
        effects.append(Note(text=f"revision {trial} serves; revision {old} leaves"))
    state = state.model_copy(
        update={
            "revision": trial,
            "trial": 0,
            "routed_at": None,
            "rollout": "side-by-side",
        }
    )
    return _with(
        state,
        (
            job if job.revision == trial or is_gateway(job) else retire(job, seen.now)
            for job in state.jobs
        ),
    )


def _without_trial(state: State, now: float) -> State:
    jobs = (_retired(job, state.trial, now) for job in state.jobs)
    return _with(state, jobs).model_copy(update={"trial": 0, "routed_at": None})


def _retired(job: JobState, revision: int, now: float) -> JobState:
    return retire(job, now) if job.revision == revision and not is_gateway(job) else job


def _gives_way(state: State) -> bool:
    """Whether the revision that serves has stopped to make room for the trial."""
    return bool(state.trial) and state.rollout == "stop-first"


def _count(state: State, revision: int, wanted: int, now: float) -> State:
    """``wanted`` replicas of ``revision``: more, or fewer; of too many those that work least leave first."""
    here = positions(state, revision)
    for _ in range(wanted - len(here)):
        state = _added(state, revision, now)
    if wanted >= len(here):
        return state
    order = sorted(here, key=lambda job: (job.status == "ready", -_number(job)))
    leave = {job.name for job in order[: len(here) - wanted]}
    return _with(state, (retire(j, now) if j.name in leave else j for j in state.jobs))


def _added(state: State, revision: int, now: float, succeeds: str = "") -> State:
    number = state.next_number
    job = JobState(
        name=f"engine-{number}",
        revision=revision,
        since=now,
        start_at=now,
        succeeds=succeeds,
    )
    return state.model_copy(
        update={"jobs": (*state.jobs, job), "next_number": number + 1}
    )


def _handed_over(state: State, seen: Observed) -> Iterable[JobState]:
    """Successors that are ready let their predecessors go; those of one that is gone are plain replicas."""
    there = {job.name for job in state.jobs if not job.retiring}
    ready = {
        job.succeeds for job in state.jobs if job.succeeds and job.status == "ready"
    }
    for job in state.jobs:
        if job.name in ready:
            yield retire(job, seen.now)
        elif job.succeeds and (job.succeeds not in there or job.status == "ready"):
            yield job.model_copy(update={"succeeds": ""})
        else:
            yield job


def _is_ending(job: JobState, seen: Observed, lead_s: float) -> bool:
    """Whether it is time to start a successor. Of a short life the second half is soon enough."""
    if is_gateway(job) or job.retiring or job.succeeds:
        return False
    if job.status not in ("starting", "ready"):
        return False
    unit = seen_of(job, seen).unit
    if unit.leaving:
        return True
    if unit.ends_at is None or not job.began:
        return False
    left, whole = unit.ends_at - seen.now, unit.ends_at - job.began
    return left < min(lead_s, whole / 2)


def _successor(state: State, job: JobState) -> JobState | None:
    return next((each for each in state.jobs if each.succeeds == job.name), None)


def _number(job: JobState) -> int:
    return int(job.name.rpartition("-")[2])


def _with(state: State, jobs: Iterable[JobState]) -> State:
    return state.model_copy(update={"jobs": tuple(jobs)})
