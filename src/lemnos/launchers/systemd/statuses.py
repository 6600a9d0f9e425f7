"""From a unit's services to its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lemnos.launchers.systemd.parse import Service, ended
from lemnos.launchers.systemd.render import service_of
from lemnos.spec.plan import Job
from lemnos.spec.unit import Unit, UnitStatus


def status_of(
    unit: Unit | None,
    services: Mapping[str, Service],
    *,
    url: str = "",
    silent: Mapping[str, str] | None = None,
    own_pids: bool = True,
) -> UnitStatus:
    """The status of a unit (None: written by another version) by its services' names.

    ``silent``: hosts that do not answer, and what they say instead: whatever is there may run.
    ``own_pids``: services of this machine have pids that mean something here.
    """
    if unit is None:
        return _unknown(services)
    silent = silent or {}
    how = {job.rank: _end(job, services, silent) for job in unit.jobs}
    alive = [job for job in unit.jobs if not how[job.rank]]
    first = service_of(unit.jobs[0])
    restarts = sum(service.restarts for service in services.values())
    if not alive:
        why = next((end for end in how.values() if "was stopped" not in end), how[0])
        return UnitStatus(state="ended", why=why, id=first, starts=restarts)
    running = [
        services[service_of(job)] for job in alive if service_of(job) in services
    ]
    if running and all(s.pending and s.active == "inactive" for s in running):
        return UnitStatus(state="queued", why="systemd will start it", id=first)
    broken = [f"{_short(job)} {end}" for job in unit.jobs if (end := how[job.rank])]
    hosts = {job.host for job in unit.jobs} & set(silent)
    broken += [f"{host} does not answer: {silent[host]}" for host in sorted(hosts)]
    pids = tuple(service.pid for service in running if service.pid)
    return UnitStatus(
        state="running",
        broken="; ".join(broken),
        id=first,
        url=url,
        hosts=unit.place.hosts,
        pids=pids if own_pids else (),
        starts=restarts,
    )


def _end(job: Job, services: Mapping[str, Service], silent: Mapping[str, str]) -> str:
    """How the job ended; empty while it is alive, or may be."""
    if job.host in silent:
        return ""
    service = services.get(service_of(job))
    return ended(service) if service else "is not there any more"


def _short(job: Job) -> str:
    name = job.id.partition("/")[2]
    return f"{name} ({job.part})" if job.part else name


def _unknown(services: Mapping[str, Service]) -> UnitStatus:
    """Of what cannot be read: alive or not, at least."""
    first = min(services)
    if any(service.alive for service in services.values()):
        broken = "was written by another version of lemnos: its port is not known"
        return UnitStatus(state="running", broken=broken, id=first)
    return UnitStatus(state="ended", why=ended(services[first]), id=first)
