"""Logs of a deployment: which there are, and their lines as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from lemnos.deployments.files import Files, Tail
from lemnos.deployments.state import GATEWAY, State
from lemnos.deployments.status import state_of, unknown
from lemnos.deployments.units import GATEWAY_ROOMS, has_own_gateway, launcher_of
from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.base import Launcher
from lemnos.records.store import Store
from lemnos.spec.unit import LogFile

FAR_LINES, FAR_S = 500, 2.0
"""Of a log on another machine, so many of its last lines are looked at, so often."""


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
    tails = {log.job: _tail(launcher, log) for log in chosen}
    for log in chosen:
        for line in tails[log.job].last(lines):
            yield _labelled(log, line, several)
    while follow:
        for log in chosen:
            for line in tails[log.job].lines():
                yield _labelled(log, line, several)
        time.sleep(poll_s)


class FarTail:
    """A log that only a launcher can read: what it gained is what was not in its end before."""

    def __init__(self, launcher: Launcher, log: LogFile) -> None:
        self._launcher, self._log = launcher, log
        self._seen: list[str] = []
        self._asked_at = 0.0

    def last(self, count: int) -> list[str]:
        """Its last lines."""
        self._seen = list(self._launcher.read(self._log, max(count, FAR_LINES)))
        self._asked_at = time.monotonic()
        return self._seen[-count:] if count else []

    def lines(self) -> list[str]:
        """New ones, asked for every ``FAR_S`` seconds; none while the room does not answer."""
        if time.monotonic() - self._asked_at < FAR_S:
            return []
        self._asked_at = time.monotonic()
        try:
            now = list(self._launcher.read(self._log, FAR_LINES))
        except LemnosError:
            return []
        new = gained(self._seen, now)
        self._seen = now
        return new


def gained(before: list[str], now: list[str]) -> list[str]:
    """Pure: the lines of ``now`` after those that it shares with the end of ``before``."""
    for start in range(max(0, len(before) - len(now)), len(before)):
        shared = len(before) - start
        if before[start:] == now[:shared]:
            return now[shared:]
    return now


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
            plan, _ = store.revision_plan(name, revision)
            launcher = launcher_of(plan)
            units = [job.name for job in jobs if job.revision == revision]
            units += [GATEWAY] if has_own_gateway(plan.spec) else []
            for unit in units:
                found |= {log.job: log for log in launcher.logs(unit)}
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
    """The launcher, where logs may be on other machines."""
    spec = store.revision_plan(name, revision)[0].spec
    hosts = spec.local.hosts or spec.systemd.hosts
    if spec.on in GATEWAY_ROOMS and not hosts:
        return None
    return launcher_of(store.revision_plan(name, revision)[0])


def _tail(launcher: Launcher | None, log: LogFile) -> Tail | FarTail:
    if launcher is None or Path(log.path).exists():
        return Tail(Path(log.path))
    return FarTail(launcher, log)


def _labelled(log: LogFile, line: str, several: bool) -> str:
    return f"{log.job}| {line}" if several else line
