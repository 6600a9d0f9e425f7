"""How deployments are, and what they were: read from the store and the machine; nothing is changed."""

from __future__ import annotations

import json
import socket
from typing import Any

from lemnos import leases
from lemnos.deployments.files import Files
from lemnos.deployments.state import State, is_gateway
from lemnos.errors import LemnosError, UsageError, near
from lemnos.launchers.processes import Processes
from lemnos.records.store import Store
from lemnos.spec.plan import Plan
from lemnos.spec.status import FailureSeen, Phase, RevisionSeen, Status


def status(name: str | None = None) -> list[Status]:
    """The deployments, or the one named; by name."""
    rows = Store().deployments()
    if name is not None:
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            raise unknown(name)
    return [status_of(row) for row in rows]


def resolve_name(name: str | None) -> str:
    """``name``, or the only deployment there is."""
    names = [row["name"] for row in Store().deployments()]
    if name in names:
        return str(name)
    if name is not None:
        raise unknown(name)
    if not names:
        raise LemnosError("nothing is deployed", fix="`lemnos up` starts a model")
    if len(names) > 1:
        raise UsageError(f"{len(names)} deployments: say which", fix=", ".join(names))
    return str(names[0])


def status_of(row: dict[str, Any]) -> Status:
    """A store's row as a status; asks the machine whether its supervisor lives."""
    state = state_of(row)
    serving = state.revision if state else 0
    wanted = int(row["revision"])
    plan, created = Plan.model_validate_json(row["plan"]), row["created"]
    if serving and serving != wanted:
        plan, created = Store().revision_plan(row["name"], serving)
    supervisor = supervisor_of(row)
    jobs = [job for job in state.jobs if not is_gateway(job)] if state else []
    return Status(
        name=row["name"],
        revision=serving or wanted,
        wanted=wanted,
        phase=Phase(row["phase"]),
        url=row["url"],
        model=plan.served_name,
        engine=f"{plan.engine} {plan.engine_version}",
        plan=plan,
        created=created,
        ready_at=state.ready_at if state else None,
        restarts=state.restarts if state else 0,
        replicas=len([job for job in jobs if not job.retiring]),
        replicas_ready=len(state.published or ()) if state else 0,
        why=state.why if state else "",
        stage=row["stage"],
        supervisor_pid=supervisor["pid"] if supervisor else None,
        supervisor_alive=supervisor_alive(row),
    )


def state_of(row: dict[str, Any]) -> State | None:
    """The state that the supervisor saved last; None before its first tick."""
    return State.model_validate_json(row["state"]) if row["state"] else None


def supervisor_of(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Host, pid and start of the supervisor that was started last."""
    if not row or not row["supervisor"]:
        return None
    found: dict[str, Any] = json.loads(row["supervisor"])
    return found


def identity(pid: int) -> dict[str, Any]:
    """What tells this process from any other, now and later."""
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": leases.process_started(pid) or "",
    }


def supervisor_alive(row: dict[str, Any] | None) -> bool:
    """Whether it runs; one of another host is judged by its lease, which it keeps fresh."""
    found = supervisor_of(row)
    if row is None or found is None:
        return False
    if found["host"] != socket.gethostname():
        return leases.holder_alive(Files.named(row["name"]).supervisor_lease)
    return bool(leases.process_started(found["pid"]) == found["started"])


def engine_pids(name: str) -> list[int]:
    """The first process of each engine of ``name`` that runs on this machine."""
    jobs = Processes(name).status()
    return [
        s.pids[0] for job, s in sorted(jobs.items()) if job != "gateway-0" and s.pids
    ]


def history(name: str) -> list[RevisionSeen]:
    """Every revision of ``name``, oldest first, with what failed in it; also after ``down``."""
    store = Store()
    rows = store.revisions(name)
    if not rows:
        raise unknown(name)
    row = store.deployment(name)
    state = state_of(row) if row else None
    failures = store.failures(name)
    found, before = [], None
    for each in rows:
        plan = Plan.model_validate_json(each["plan"])
        found.append(_revision(each, plan, before, state, failures))
        before = plan
    return found


def unknown(name: str) -> LemnosError:
    """That there is no such deployment, and which there are."""
    names = [row["name"] for row in Store().deployments()]
    return UsageError(
        f"no deployment '{name}'",
        fix=near(name, names)
        or (f"there are: {', '.join(names)}" if names else "`lemnos up` starts one"),
    )


def _revision(
    row: dict[str, Any],
    plan: Plan,
    before: Plan | None,
    state: State | None,
    failures: list[FailureSeen],
) -> RevisionSeen:
    number = int(row["revision"])
    return RevisionSeen(
        revision=number,
        created=row["created"],
        model=plan.served_name,
        engine=f"{plan.engine} {plan.engine_version}",
        on=plan.spec.on,
        state=_words(row, state),
        copy_of=row["copy_of"],
        changes=changes(before, plan) if before else (),
        failures=tuple(f for f in failures if f.revision == number),
    )


def _words(row: dict[str, Any], state: State | None) -> str:
    if state and state.revision == row["revision"]:
        return "serves"
    if state and state.trial == row["revision"]:
        return "is starting"
    if row["failed"]:
        return f"failed: {row['failed']}"
    return "served" if row["served_at"] else "never served"


def changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """What a plan has otherwise than the one before: the spec's keys, and the engine's version."""
    old, new = _flat(before), _flat(after)
    both = {
        k: (_shown(old.get(k)), _shown(new.get(k))) for k in old.keys() | new.keys()
    }
    return tuple(f"{k}: {b} -> {a}" for k, (b, a) in sorted(both.items()) if b != a)


def _flat(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "engine": plan.engine,
        "engine version": plan.engine_version,
    }
    data = plan.spec.model_dump(
        mode="json", exclude={"plan", "engine", "engine_version"}
    )
    proposal = plan.proposal
    if proposal:
        found["layout"] = proposal.divided
        data["settings"] = proposal.settings.model_dump(mode="json")
    stack = [("", data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict) and value:
            stack += [(f"{path}.{k}" if path else k, v) for k, v in value.items()]
        else:
            found[path] = value
    return found


def _shown(value: Any) -> str:
    return "nothing" if value in (None, [], {}, "") else str(value)
