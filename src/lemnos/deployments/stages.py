"""What a deployment is doing while it starts, in words."""

from __future__ import annotations

import time
from pathlib import Path

from lemnos.deployments.files import Tail
from lemnos.deployments.fleet import Fleet, clock
from lemnos.deployments.state import GATEWAY, JobState, State
from lemnos.engines.base import engine_named
from lemnos.spec.unit import UnitStatus

FAR_S, FAR_LINES = 3.0, 60
"""A log on another machine is asked so often, for so many of its last lines."""


class Stages:
    """Follows the logs of replicas that start."""

    def __init__(self) -> None:
        self._tails: dict[str, Tail] = {}
        self._said: dict[str, str] = {}

    def began(self, name: str, log: Path) -> None:
        """The unit starts: what its log says from now on counts."""
        if name != GATEWAY:
            self._tails[name] = Tail(log)
            self._said.pop(name, None)

    def text(self, state: State, fleet: Fleet) -> str:
        """Of the first replica that is not ready yet: for what it waits, or what it does. Empty when
        all that is wanted works."""
        late = [
            job
            for job in state.jobs
            if job.name != GATEWAY and not job.retiring and job.status != "ready"
        ]
        self._forget(state)
        if not late:
            return ""
        job = late[0]
        words = self._words(job, fleet)
        if not words or not state.revision:
            return words
        if job.revision != state.revision:
            return f"revision {job.revision}: {words}"
        return f"{job.name}: {words}"

    def far(self, state: State) -> JobState | None:
        """The first replica that starts where this machine does not see its log."""
        return next(
            (
                job
                for job in state.jobs
                if job.status == "starting"
                and job.name in self._tails
                and not self._tails[job.name].there
            ),
            None,
        )

    def ask(self, job: JobState, fleet: Fleet) -> None:
        """Ask its launcher what it said last. Takes ``FAR_S``: for a thread of its own."""
        engine = engine_named(fleet.plan(job.revision).engine)
        for line in fleet.said(job.name, FAR_LINES):
            if stage := engine.stage(line):
                self._said[job.name] = stage
        time.sleep(FAR_S)

    def _words(self, job: JobState, fleet: Fleet) -> str:
        unit = fleet.seen.get(job.name)
        if job.status == "queued" and unit:
            return _queued(unit)
        if job.status != "starting":
            return ""
        plan = fleet.plan(job.revision)
        engine, tail = engine_named(plan.engine), self._tails.get(job.name)
        for line in tail.lines() if tail else []:
            if stage := engine.stage(line):
                self._said[job.name] = stage
        return self._said.get(job.name, "")

    def _forget(self, state: State) -> None:
        names = {job.name for job in state.jobs}
        self._tails = {n: tail for n, tail in self._tails.items() if n in names}


def _queued(unit: UnitStatus) -> str:
    """``queued as 4711: waits for resources; expected to start at 14:20``."""
    words = "queued" + (f" as {unit.id}" if unit.id else "")
    if unit.why:
        words += f": {unit.why}"
    if unit.starts_at:
        words += f"; expected to start at {clock(unit.starts_at)}"
    return words
