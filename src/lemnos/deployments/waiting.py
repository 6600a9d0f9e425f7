"""Waiting for a deployment to serve, and what to say when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from lemnos.deployments.files import Files, last_lines, telling
from lemnos.deployments.state import GATEWAY, State
from lemnos.deployments.status import state_of, status_of
from lemnos.errors import LemnosError
from lemnos.records.store import Store
from lemnos.spec.deployment import EndpointSpec
from lemnos.spec.status import Phase, Status

Watch = Callable[[Status], None]


def wait_ready(
    store: Store,
    name: str,
    watch: Watch,
    revision: int,
    done: Callable[[State], bool] = lambda _: True,
) -> Status:
    """Wait until ``revision`` serves and the state is as ``done`` wants it, or until it has failed.

    While a job waits in a queue and a cloud answers in its place, that is enough.
    """
    before = None
    while True:
        row = store.deployment(name)
        if row is None:
            raise LemnosError(f"'{name}' was taken down by somebody else")
        now, state = status_of(row), state_of(row)
        if now != before:
            watch(now)
            before = now
        if now.phase == Phase.failed:
            raise _failure(now)
        if now.phase in (Phase.draining, Phase.stopped):
            raise LemnosError(f"'{name}' was stopped by somebody else")
        if state and state.revision == revision and now.phase == Phase.ready:
            if done(state) and not state.trial:
                return now
        if state and _bridged(state, now.plan.spec.endpoint):
            return now
        if row["revision"] != revision:
            if failed := store.revision_failed(name, revision):
                raise _refused(now, revision, failed)
            raise LemnosError(
                f"somebody else wants revision {row['revision']} of '{name}' by now",
                fix=f"lemnos history {name}",
            )
        if not now.supervisor_alive:
            log = Files.of(name).log("supervisor")
            raise LemnosError(
                "the supervisor is gone",
                where=str(log),
                fix="\n".join(last_lines(log, 5)),
            )
        time.sleep(0.05)


def _bridged(state: State, endpoint: EndpointSpec) -> bool:
    """Whether the first replicas wait in a queue, and the endpoint serves from a cloud meanwhile."""
    if not endpoint.cloud or state.revision:
        return False
    waits = any(job.status == "queued" for job in state.jobs)
    return waits and any(j.name == GATEWAY and j.status == "ready" for j in state.jobs)


def _failure(now: Status) -> LemnosError:
    job = now.why.partition(" ")[0]
    known = job.startswith(("engine-", "gateway-"))
    files = Files.of(now.name)
    log = files.log(job if known else "engine-0")
    # What never ran has no log of its own; the supervisor's says what was tried.
    log = log if log.exists() else files.log("supervisor")
    words = "\n     ".join(_last_words(now.name, job) or telling(last_lines(log, 200)))
    return LemnosError(
        f"{now.name} did not start: {now.why}" + (f"\n     {words}" if words else ""),
        where=str(log),
        fix=f"the whole log: lemnos logs {now.name}",
    )


def _refused(now: Status, revision: int, why: str) -> LemnosError:
    words = "\n     ".join(_last_words(now.name, why.partition(" ")[0]))
    # Where there was no room for both, it had stopped before.
    back = "serves on" if now.phase == Phase.ready else "is brought back"
    return LemnosError(
        f"revision {revision} of {now.name} did not start: {why}"
        + (f"\n     {words}" if words else ""),
        fix=f"revision {now.revision} {back}; lemnos history {now.name} has the rest",
    )


def _last_words(name: str, job: str) -> list[str]:
    """What the job's log said when it failed last, as it was kept then."""
    found = [each for each in Store().failures(name) if each.job == job]
    lines = list(found[-1].lines) if found else []
    errors = [line for line in lines if line.startswith("error:")]
    return errors[-1:] or lines[-5:]
