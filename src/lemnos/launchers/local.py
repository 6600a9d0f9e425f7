"""Units as processes: of this machine, of hosts reached by SSH, or of the allocation we are in."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.launchers import containers, logs
from lemnos.launchers.others import LOOPBACK, Reach, host_of, is_this_machine, others_of
from lemnos.launchers.papers import Papers
from lemnos.launchers.processes import Processes, ProcessStatus
from lemnos.launchers.script import script_of
from lemnos.launchers.seats import Seats
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Job, Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.transport.base import Transport, url_of
from lemnos.transport.here import Here
from lemnos.transport.ssh import Ssh


class Local:
    """The units of one deployment as processes. ``reach`` makes the transport to a host of ``local.hosts``."""

    name = "local"
    restarts = False
    queues = False

    def __init__(self, site: Site, reach: Reach = Ssh) -> None:
        self._site = site
        self._papers = Papers(site)
        self._processes = Processes(site.deployment)
        self._others = others_of(site, self._papers, self._processes, reach)
        self._seats = Seats(site, self._papers, self._others)
        self._forwards: dict[str, tuple[str, str, int]] = {}

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Free ports, and GPUs (and hosts) that no other unit has; kept for this unit from now on."""
        return self._seats.place(shape_of(plan), name, dry=dry)

    def files(self, name: str) -> JobFiles:
        """Logs and keys in the deployment's directory, under the same path on every host."""
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        """A shell script a job; for other hosts two, of which one keeps how the other ends."""
        files: dict[str, str] = {}
        commands: list[tuple[str, ...]] = []
        home = self._site.unit_directory(unit.name)
        for job in unit.jobs:
            host, contained = host_of(unit, job), self._contained(job, unit)
            if _is_ours(job, host):
                files[f"{_name(job)}.sh"] = script_of(contained)
                commands.append(("sh", f"{home}/{_name(job)}.sh"))
            else:
                files |= self._others.scripts(contained, host)
                commands.append(self._others.command(contained, host))
        return Rendered(files=files, commands=tuple(commands))

    def inventory(self) -> Cluster:
        """This machine, or the hosts."""
        return self._seats.inventory()

    def room(self, unit: Unit) -> Room:
        """Whether as many GPUs are free as the unit has."""
        return self._seats.room(unit)

    def submit(self, unit: Unit) -> None:
        """Start each job in a session of its own, unless it runs."""
        rendered = self.render(unit)
        alive = {n for n, seen in self._jobs().get(unit.name, {}).items() if seen.alive}
        if not alive:
            self._end_earlier(unit)
        self._site.hand_over_key()
        self._papers.keep(unit)
        try:
            for job in unit.jobs:
                if _name(job) in alive:
                    continue
                host = host_of(unit, job)
                if not _is_ours(job, host):
                    self._others.submit(self._contained(job, unit), host)
                    continue
                script = f"{_name(job)}.sh"
                self._papers.write(unit.name, script, rendered.files[script])
                path = f"{self._site.unit_directory(unit.name)}/{script}"
                self._processes.submit(job, ("/bin/sh", path))
        except LemnosError:
            self.cancel(unit.name, kill=True)
            raise
        self._papers.started(unit.name)

    def status(self) -> dict[str, UnitStatus]:
        """Every unit that has a process, or had one that this launcher started. A host that does not
        answer has not ended: its units are as they were seen last."""
        return {name: self._status(name, seen) for name, seen in self._jobs().items()}

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a job."""
        unit = self._papers.unit(name)
        if unit is None:
            return ()
        hosts = [host_of(unit, job) for job in unit.jobs]
        return tuple(
            log.model_copy(update={"host": host})
            for log, host in zip(logs.logs_of(unit), hosts, strict=True)
        )

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last lines of one."""
        return logs.last_of(self._transport(log.host), log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM to each job's first process, or SIGKILL to all that is the unit's.

        A host that does not answer is given up with ``kill``: what runs there has ended for us, and is
        ended when it answers again. Raises LemnosError that says so.
        """
        unit = self._papers.unit(name)
        hosts = {_name(job): host_of(unit, job) for job in unit.jobs} if unit else {}
        silent: dict[str, LemnosError] = {}
        for job in {*hosts, *self._jobs().get(name, {})}:
            host = hosts.get(job, "")
            if host in self._others.names:
                try:
                    self._others.signal(host, job, kill=kill)
                except LemnosError as error:
                    silent[host] = error
            if kill or host not in self._others.names:
                self._processes.signal(job, kill=kill)
        if unit and kill:
            self._remove_containers([unit], but=silent)
        if kill and silent:
            self._papers.give_up(name, set(silent))
        later = "; what runs there is ended when it answers again" if kill else ""
        for host, why in silent.items():
            raise LemnosError(f"{why.what}{later}", where=host, fix=why.fix)

    def sweep(self) -> int:
        """SIGKILL to all that is the deployment's, everywhere; scripts and reservations go. Raises
        LemnosError if a host does not answer, after all others are done."""
        units = self._papers.units()
        found = self._processes.sweep()
        self._remove_containers(units, but=self._others.silent)
        self._drop_forwards()
        if not self._others.allocation or units:
            try:
                found += self._others.sweep()
            except LemnosError as error:
                raise LemnosError(
                    f"{error.what}; what runs there is not ended",
                    where=error.where,
                    fix="`lemnos down` again when it answers, or `lemnos down --forget` if it never will",
                ) from None
        self._papers.clear()
        return found

    # ------------------------------------------------------------ what there is

    def _jobs(self) -> dict[str, dict[str, ProcessStatus]]:
        """unit -> job -> how it is, here and on other hosts."""
        found: dict[str, dict[str, ProcessStatus]] = {}
        everywhere = self._others.status(self._papers) | self._processes.status()
        for name, seen in everywhere.items():
            found.setdefault(name.partition(".")[0], {})[name] = seen
        return found

    def _status(self, name: str, jobs: dict[str, ProcessStatus]) -> UnitStatus:
        unit = self._papers.unit(name)
        order = sorted(jobs, key=_rank)
        alive = [job for job in order if jobs[job].alive]
        ended = [job for job in order if not jobs[job].alive]
        if unit:
            ended += [_name(job) for job in unit.jobs if _name(job) not in jobs]
        if not alive:
            self._drop_forwards(name)
            why = jobs[order[0]].ended if order[0] in jobs else "ended"
            return UnitStatus(state="ended", why=why, id=name)
        url, broken = self._url(unit) if unit else ("", "")
        if ended:
            how = jobs[ended[0]].ended if ended[0] in jobs else "is not there"
            broken = f"{ended[0]} {how}"
        allocation = self._others.allocation
        return UnitStatus(
            state="running",
            broken=broken,
            id=name,
            url=url,
            hosts=(unit.place.names or unit.place.hosts) if unit else (),
            pids=tuple(pid for job in alive for pid in jobs[job].pids),
            ends_at=allocation.ends_at if allocation else None,
        )

    def _url(self, unit: Unit) -> tuple[str, str]:
        """(where its API is reached, or why nobody can know)."""
        place = unit.place
        if not place.forwarded:
            return url_of(place.hosts[0], place.port), ""
        host = place.names[0]
        way = (host, place.hosts[0], place.port)
        if self._forwards.get(unit.name) != way and host in self._others.silent:
            return "", f"cannot be reached: {host} does not answer"
        try:
            url = self._others.transport(host).forward(*way[1:])
        except LemnosError:
            return "", ""  # the next look tries again
        self._forwards[unit.name] = way
        return url, ""

    def _drop_forwards(self, *names: str) -> None:
        """Of units that have ended; of all without a name."""
        for name in names or list(self._forwards):
            if way := self._forwards.pop(name, None):
                transport = self._others.transport(way[0])
                if isinstance(transport, Ssh):
                    transport.drop(*way[1:])

    def _end_earlier(self, unit: Unit) -> None:
        """What is left on other hosts of an earlier start under the same name."""
        before = self._papers.unit(unit.name)
        hosts = {host_of(unit, job) for job in unit.jobs}
        for job in before.jobs if before else ():
            host = host_of(before, job) if before else ""
            if host not in self._others.names:
                continue
            try:
                self._others.signal(host, _name(job), kill=True)
            except LemnosError:
                if host in hosts:
                    raise

    def _transport(self, host: str) -> Transport:
        return self._others.transport(host) if host in self._others.names else Here()

    # ------------------------------------------------------------ containers

    def _contained(self, job: Job, unit: Unit) -> Job:
        container = self._site.spec.container
        if container is None or job.role == "gateway":
            return job
        files = self._site.files(unit.name)
        return containers.inside(
            job,
            container,
            gpus=unit.place.devices or bool(unit.place.gpus_per_host),
            writable=(self._site.directory, files.cache),
            readable=(files.key_file,),
        )

    def _remove_containers(self, units: Iterable[Unit], but: Collection[str]) -> None:
        """A container outlives the client that started it."""
        container = self._site.spec.container
        engines = [unit for unit in units if unit.role != "gateway"]
        for unit, job in [(each, job) for each in engines for job in each.jobs]:
            host = host_of(unit, job)
            command = containers.removal(job, container) if container else ()
            if command and host not in but:
                with contextlib.suppress(
                    LemnosError
                ):  # the runtime is gone, or the host
                    self._transport(host).run(*command)


def _is_ours(job: Job, host: str) -> bool:
    """Whether the job is a process of this machine."""
    return job.role == "gateway" or host in LOOPBACK or is_this_machine(host)


def _name(job: Job) -> str:
    return job.id.partition("/")[2]


def _rank(job: str) -> int:
    return int(job.partition(".")[2] or 0)
