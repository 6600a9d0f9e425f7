"""Units as processes: of this machine, of hosts reached by SSH, or of the allocation we are in."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from pydantic import ValidationError

from lemnos import leases, paths
from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.host import probe_host
from lemnos.hardware.ports import free_port, port_is_free
from lemnos.launchers import gpus, logs
from lemnos.launchers.processes import MARK, Processes, ProcessStatus
from lemnos.launchers.script import script_of
from lemnos.launchers.shape import Shape, shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import INNER_PORTS, Place
from lemnos.spec.plan import Job, Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.transport.base import url_of

HERE = "127.0.0.1"
RESERVED_S = 120.0
"""A unit that was placed and is not there after so long has given its GPUs up."""


class Local:
    """The units of one deployment as processes."""

    name = "local"
    restarts = False
    queues = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._directory = Path(site.directory)
        self._processes = Processes(site.deployment)

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Free ports, and GPUs that no other unit has; kept for this unit from now on."""
        shape = shape_of(plan)
        if shape.hosts > 1:
            raise UsageError(
                f"the plan needs {shape.hosts} hosts for a replica, and this is one",
                where="on: local",
                fix="name hosts in local.hosts, or use --on slurm, pbs or ray",
            )
        if dry:
            return Place(port=0, gpus_per_host=shape.per_host)
        with leases.lease(paths.state_dir() / "gpus.lease", what="GPUs", wait_s=60):
            devices = self._devices(shape, name)
            place = Place(
                port=free_port(HERE),
                inner_port=_free_range(INNER_PORTS) if devices else 0,
                gpus_per_host=shape.per_host,
                devices=devices,
            )
            self._write(name, "place.json", place.model_dump_json())
        return place

    def files(self, name: str) -> JobFiles:
        """Logs and keys in the deployment's directory."""
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        """A shell script a job."""
        files = {
            f"{_name(job)}.sh": script_of(self._contained(job, unit))
            for job in unit.jobs
        }
        home = self._site.unit_directory(unit.name)
        return Rendered(
            files=files,
            commands=tuple(("sh", f"{home}/{name}") for name in files),
        )

    def inventory(self) -> Cluster:
        """This machine."""
        from lemnos.hardware.probe import probe_here

        return probe_here(note=lambda _: None)

    def room(self, unit: Unit) -> Room:
        """Whether as many GPUs are free as the unit has."""
        need = len(unit.place.devices) or unit.place.gpus_per_host
        if not need:
            return Room(free=True)
        host = probe_host()
        devices = gpus.allowed(host.gpus, _visible(), self._site.spec.local.devices)
        open_ = gpus.free(host.gpus, devices, self._taken(unit.name))
        if len(open_) >= need:
            return Room(free=True)
        return Room(free=False, why=f"{len(open_)} of {len(devices)} GPUs are free")

    def submit(self, unit: Unit) -> None:
        """Start each job in a session of its own, unless it runs."""
        rendered = self.render(unit)
        alive = {name for name, seen in self._processes.status().items() if seen.alive}
        self._site.hand_over_key()
        self._write(unit.name, "unit.json", unit.model_dump_json())
        for name, text in rendered.files.items():
            self._write(unit.name, name, text)
        try:
            for job, (_, script) in zip(unit.jobs, rendered.commands, strict=True):
                if _name(job) not in alive:
                    self._processes.submit(job, ("/bin/sh", script))
        except LemnosError:
            self.cancel(unit.name, kill=True)
            raise

    def status(self) -> dict[str, UnitStatus]:
        """Every unit that has a process, or had one that this launcher started."""
        found: dict[str, dict[str, ProcessStatus]] = {}
        for name, seen in self._processes.status().items():
            found.setdefault(_unit(name), {})[name] = seen
        return {name: self._status(name, seen) for name, seen in found.items()}

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a job."""
        unit = self._unit(name)
        return logs.logs_of(unit) if unit else ()

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last lines of one."""
        return logs.last_of(self._site.transport, log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM to each job's first process, or SIGKILL to all that is the unit's."""
        for job in [job for job in self._processes.status() if _unit(job) == name]:
            self._processes.signal(job, kill=kill)

    def sweep(self) -> int:
        """SIGKILL to all that is the deployment's; scripts and reservations go."""
        found = self._processes.sweep()
        self._site.transport.remove(f"{self._directory}/units")
        return found

    def _contained(self, job: Job, unit: Unit) -> Job:
        container = self._site.spec.container
        if container is None or job.role == "gateway":
            return job
        from lemnos.launchers.containers import inside

        files = self._site.files(unit.name)
        return inside(
            job,
            container,
            gpus=unit.place.devices or bool(unit.place.gpus_per_host),
            writable=(self._site.directory, files.cache),
            readable=(files.key_file,),
        )

    def _status(self, name: str, jobs: dict[str, ProcessStatus]) -> UnitStatus:
        unit = self._unit(name)
        order = sorted(jobs, key=_rank)
        alive = [job for job in order if jobs[job].alive]
        ended = [job for job in order if not jobs[job].alive]
        if unit:
            ended += [_name(job) for job in unit.jobs if _name(job) not in jobs]
        if not alive:
            why = jobs[order[0]].ended if order[0] in jobs else "ended"
            return UnitStatus(state="ended", why=why, id=name)
        broken = ""
        if ended:
            how = jobs[ended[0]].ended if ended[0] in jobs else "is not there"
            broken = f"{ended[0]} {how}"
        return UnitStatus(
            state="running",
            broken=broken,
            id=name,
            url=url_of(unit.place.hosts[0], unit.place.port) if unit else "",
            hosts=unit.place.hosts if unit else (),
            pids=tuple(pid for job in alive for pid in jobs[job].pids),
        )

    def _devices(self, shape: Shape, name: str) -> tuple[str, ...]:
        """GPUs for the unit; none for an engine of the CPU, or where there is no driver to ask."""
        if not shape.gpus:
            return ()
        host = probe_host()
        may = gpus.allowed(host.gpus, _visible(), self._site.spec.local.devices)
        return gpus.choose(host.gpus, may, self._taken(name), shape.gpus)

    def _taken(self, name: str) -> set[str]:
        """GPUs of all other units on this machine that run, or were placed a moment ago."""
        alive = _marks()
        taken: set[str] = set()
        for path in self._directory.parent.glob("*/units/*/place.json"):
            deployment, unit = path.parts[-4], path.parts[-2]
            if (deployment, unit) == (self._site.deployment, name):
                continue
            try:
                place = Place.model_validate_json(path.read_bytes())
                fresh = time.time() - path.stat().st_mtime < RESERVED_S
            except (OSError, ValidationError):
                continue
            mark = f"{paths.state_dir()}|{deployment}|{unit}"
            if fresh or any(
                each == mark or each.startswith(mark + ".") for each in alive
            ):
                taken |= set(place.devices)
        return taken

    def _unit(self, name: str) -> Unit | None:
        data = self._site.transport.read(f"{self._site.unit_directory(name)}/unit.json")
        try:
            return Unit.model_validate_json(data) if data else None
        except ValidationError:  # another version's
            return None

    def _write(self, unit: str, name: str, text: str) -> None:
        path = f"{self._site.unit_directory(unit)}/{name}"
        self._site.transport.write(path, text.encode())


def _name(job: Job) -> str:
    return job.id.partition("/")[2]


def _unit(job: str) -> str:
    """``engine-0`` of ``engine-0.1``."""
    return job.partition(".")[0]


def _rank(job: str) -> int:
    return int(job.partition(".")[2] or 0)


def _visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _marks() -> set[str]:
    """The marks of all processes that this user may see."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(MARK, ""))
        except psutil.Error:
            continue
    return found


def _free_range(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on now."""
    for _ in range(50):
        first = free_port(HERE)
        rest = range(first + 1, first + count)
        if rest[-1] < 65536 and all(port_is_free(HERE, port) for port in rest):
            return first
    raise LemnosError(f"no {count} free ports in a row were found on this machine")
