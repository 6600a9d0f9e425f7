"""What PBS and a unit's own files say together: its status. Pure."""

from __future__ import annotations

import json
from typing import Any

from lemnos.launchers.pbs import words
from lemnos.launchers.pbs.parse import PbsJob
from lemnos.launchers.site import SHARED
from lemnos.spec.base import Value
from lemnos.spec.unit import LogFile, UnitStatus

UNSEEN_S = 90.0
"""A job that has run so long without having said where it is writes to another file system than ours
(NFS shows a new file after 60 s at most)."""
IN_VAIN = "too many failed attempts"
"""In the comment of a job that PBS holds after 21 starts in vain: only its owner ends that."""
NAMES = ("unit.json", "job", "here.json", "leaving", "ended.json")
"""The files of a unit that tell of it."""


class Told(Value):
    """What the files of a unit's directory say."""

    mark: str = ""
    logs: tuple[LogFile, ...] = ()
    id: str = ""
    """Its job, once qsub has named it."""
    host: str = ""
    hosts: tuple[str, ...] = ()
    port: int = 0
    attempt: int = 0
    leaving: str = ""
    ended: str = ""
    """Which of its processes ended first, and how, in words."""


def told(text: str, directory: str) -> dict[str, Told]:
    """Every unit's files, as ``grep -r --null`` prints the lines of all below ``directory``."""
    units: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        path, null, content = line.partition("\0")
        name, slash, file = path.removeprefix(f"{directory}/").partition("/")
        if null and slash and file in NAMES:
            units.setdefault(name, {}).setdefault(file, content)
    return {name: _told(files) for name, files in units.items()}


def status_of(
    unit: Told, job: PbsJob | None, *, directory: str, at: float, ahead_s: float
) -> UnitStatus:
    """Of a unit whose job is known to have been submitted.

    ``at``: now, by the clock of PBS's machine; ``ahead_s``: how far that clock is ahead of ours.
    """
    if job is None:
        why = unit.ended or f"its job {unit.id} is not known to PBS any more"
        return UnitStatus(state="ended", why=why, id=unit.id)
    if job.state in ("F", "M", "X"):
        return UnitStatus(state="ended", why=_why(unit, job, directory), id=job.id)
    if job.state == "H" and IN_VAIN in job.comment:
        return UnitStatus(
            state="running",
            broken=f"{words.waiting(job)}; perhaps they do not see {directory}: {SHARED}",
            id=job.id,
            starts=max(0, job.runs - 1),
        )
    if job.state not in ("R", "E", "B"):
        starts_at = job.starts_at - ahead_s if job.starts_at else None
        return UnitStatus(
            state="queued",
            why=words.waiting(job),
            id=job.id,
            starts_at=starts_at,
            starts=max(0, job.runs - 1),
        )
    ends_at = None
    if job.started_at and job.walltime_s:
        ends_at = job.started_at + job.walltime_s - ahead_s
    return UnitStatus(
        state="running",
        broken=_broken(unit, job, directory, at),
        leaving=words.words().states["E"] if job.state == "E" else unit.leaving,
        id=job.id,
        hosts=unit.hosts or job.hosts,
        ends_at=ends_at,
        starts=max(0, job.runs - 1),
    )


def _told(files: dict[str, str]) -> Told:
    unit, here = _object(files.get("unit.json")), _object(files.get("here.json"))
    ended = _object(files.get("ended.json"))
    said = ""
    if ended and ended.get("attempt") == here.get("attempt"):
        said = f"{ended.get('job')} on {ended.get('host')} ended with exit code {ended.get('code')}"
    return Told(
        mark=str(unit.get("mark", "")),
        logs=tuple(LogFile.model_validate(log) for log in unit.get("logs", ())),
        id=files.get("job", "").strip(),
        host=str(here.get("host", "")),
        hosts=tuple(here.get("hosts", ())),
        port=int(here.get("port", 0)),
        attempt=int(here.get("attempt", 0)),
        leaving=files.get("leaving", ""),
        ended=said,
    )


def _object(text: str | None) -> dict[str, Any]:
    """Empty for a file that is not there, or not whole yet."""
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _why(unit: Told, job: PbsJob, directory: str) -> str:
    if unit.ended and (job.exit_status or 0) >= 0 and job.substate != 91:
        return unit.ended
    if job.exit_status == 127 and not unit.port:
        return f"{_where(job)} could not run its script: {_unshared(job, directory)}"
    return words.ending(job)


def _broken(unit: Told, job: PbsJob, directory: str, at: float) -> str:
    if unit.ended:
        return unit.ended
    since = job.started_at if job.state == "R" else None
    if since is not None and not unit.port and at - since > UNSEEN_S:
        return _unshared(job, directory)
    return ""


def _unshared(job: PbsJob, directory: str) -> str:
    return f"{_where(job)} does not see {directory}: {SHARED}"


def _where(job: PbsJob) -> str:
    return job.hosts[0] if job.hosts else "its node"
