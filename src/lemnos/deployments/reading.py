"""Logs of a deployment: which there are, and their lines as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from lemnos.deployments.files import Files, Tail, last_lines
from lemnos.deployments.state import GATEWAY, State
from lemnos.deployments.status import state_of, unknown
from lemnos.deployments.units import GATEWAY_ROOMS, launcher_of
from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.base import Launcher
from lemnos.records.store import Store
from lemnos.spec.unit import LogFile


def read_logs(
    name: str,
    *,
    job: str | None,
    role: str | None,
    node: str | None,
    lines: int,
    follow: bool,
    poll_s: float,
) -> Iterator[str]:
    """The last ``lines`` lines of the logs that fit, then with ``follow`` each new one.

    ``job``: ``engine-0``, ``engine-0.1``, ``gateway-0``, ``supervisor``; without any of the three, the
    first replica that serves. Several logs have their job's name before each line. Logs are there
    after ``down``, too. Raises UsageError with what there is where nothing fits.
    """
    store = Store()
    row = store.deployment(name)
    state = state_of(row) if row else None
    found = _logs_of(name, store, state)
    if not found and row:
        raise LemnosError(
            f"'{name}' has no log", where=str(Files.named(name).directory)
        )
    if not found:
        raise unknown(name)
    chosen = _chosen(found, name, job or _default(found, state, role, node), role, node)
    launcher = _remote(store, name, int(row["revision"])) if row else None
    several = len(chosen) > 1
    tails = {log.job: Tail(Path(log.path)) for log in chosen}
    for log in chosen:
        for line in _last(launcher, log, lines):
            yield _labelled(log, line, several)
    while follow:
        for log in chosen:
            for line in tails[log.job].lines():
                yield _labelled(log, line, several)
        time.sleep(poll_s)


def _logs_of(name: str, store: Store, state: State | None) -> list[LogFile]:
    """Every log of the deployment, as far as its launchers and its directory know."""
    files = Files.named(Path(name).name)
    found: dict[str, LogFile] = {}
    for path in sorted(files.directory.glob("*.log")):
        if not path.name.endswith(".old.log"):
            role = "gateway" if path.stem == GATEWAY else path.stem.partition("-")[0]
            found[path.stem] = LogFile(
                job=path.stem, role=role, host="", path=str(path)
            )
    jobs = [job for job in (state.jobs if state else ()) if job.revision]
    for revision in {job.revision for job in jobs}:
        with contextlib.suppress(LemnosError):
            launcher = launcher_of(store.revision_plan(name, revision)[0])
            for job in jobs:
                if job.revision == revision:
                    found |= {log.job: log for log in launcher.logs(job.name)}
    return list(found.values())


def _chosen(
    found: list[LogFile], name: str, job: str | None, role: str | None, node: str | None
) -> list[LogFile]:
    fitting = [
        log
        for log in found
        if job in (None, log.job)
        and role in (None, log.role)
        and node in (None, log.host)
    ]
    if fitting:
        return fitting
    asked = job or role or node
    there = ", ".join(
        log.job + (f" ({log.role} on {log.host})" if log.host else "") for log in found
    )
    raise UsageError(f"'{name}' has no log of '{asked}'", fix=f"there are: {there}")


def _default(
    found: list[LogFile], state: State | None, role: str | None, node: str | None
) -> str | None:
    """The job to show when nobody said which: the first replica that serves, else the newest."""
    if role or node:
        return None
    names = [log.job for log in found]
    if state and state.published and state.published[0] in names:
        return state.published[0]
    engines = [n for n in names if n.startswith("engine-") and "." not in n]
    return (
        max(engines, key=lambda n: int(n.rpartition("-")[2])) if engines else names[0]
    )


def _remote(store: Store, name: str, revision: int) -> Launcher | None:
    """The launcher, where the logs are on another machine."""
    plan, _ = store.revision_plan(name, revision)
    spec = plan.spec
    if spec.via or spec.local.hosts and spec.on in GATEWAY_ROOMS:
        return launcher_of(plan)
    return None


def _last(launcher: Launcher | None, log: LogFile, lines: int) -> list[str]:
    if Path(log.path).exists() or launcher is None:
        return last_lines(Path(log.path), lines)
    return list(launcher.read(log, lines))


def _labelled(log: LogFile, line: str, several: bool) -> str:
    return f"{log.job}| {line}" if several else line
