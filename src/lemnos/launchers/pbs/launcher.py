"""Units as jobs of OpenPBS and PBS Professional: one job a unit."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError, UsageError, near
from lemnos.launchers import late
from lemnos.launchers.logs import last_of
from lemnos.launchers.pbs import render
from lemnos.launchers.pbs.client import Client
from lemnos.launchers.pbs.inventory import cluster_of, room_of
from lemnos.launchers.pbs.parse import Answer, PbsQueue, amount
from lemnos.launchers.pbs.states import NAMES, Told, status_of, told
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus

ENDING_S = 25.0
"""How long ``sweep`` waits for jobs to end: PBS's kill_delay, and what it takes to notice."""


class Pbs:
    """The units of one deployment as jobs."""

    name = "pbs"
    restarts = False
    queues = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._spec = site.spec.pbs
        self._transport = site.transport
        self._client = Client(site.transport, self._spec)
        self._units = f"{site.directory}/units"
        self._seen: tuple[float, dict[str, UnitStatus]] | None = None
        self._urls: dict[tuple[str, int], str] = {}

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Hosts and ports are late values: the job knows them."""
        shape = shape_of(plan)
        gpus, hosts = self._spec.gpus_per_node, self._spec.nodes
        whole = shape.hosts * shape.gpus
        if gpus and hosts is None:
            hosts = math.ceil(whole / gpus) or 1
        hosts = hosts or shape.hosts
        return Place(
            hosts=tuple(late.host(rank) for rank in range(hosts)),
            gpus_per_host=math.ceil(whole / hosts) if gpus is None else gpus,
            port=late.PORT,
            inner_port=late.INNER_PORT,
            interface=self._site.spec.interface,
            multi_node_nvlink=shape.multi_node_nvlink and hosts > 1,
        )

    def files(self, name: str) -> JobFiles:
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        return render.render(unit, self._site)

    def inventory(self) -> Cluster:
        return cluster_of(self._client.nodes(), self._spec.gpu_resource)

    def room(self, unit: Unit) -> Room:
        """PBS has no trial: its queues' limits, and what is free of its nodes now."""
        self.render(unit)
        self._check_queue(unit)
        chunk: dict[str, float] = {}
        if cpus := render.cpus_of(unit.place, self._spec):
            chunk["ncpus"] = cpus
        if unit.place.gpus_per_host:
            chunk[self._spec.gpu_resource] = unit.place.gpus_per_host
        if self._spec.memory:
            chunk["mem"] = amount(render.size(self._spec.memory)) or 0.0
        chunk = chunk or {"ncpus": 1.0}
        select = {key: str(value) for key, value in self._spec.select.items()}
        running = self._client.running()
        at = running.at or time.time()
        room = room_of(
            len(unit.place.hosts),
            chunk,
            select,
            self._client.nodes(),
            running.jobs.values(),
            at=at,
        )
        if room.starts_at is None:
            return room
        return room.model_copy(update={"starts_at": room.starts_at - at + time.time()})

    def submit(self, unit: Unit) -> None:
        """Nothing is left of a unit that PBS refuses."""
        directory = self._site.unit_directory(unit.name)
        known = self._told()
        if self._alive(unit.name, known):
            return
        mark = self._site.mark(unit.name)
        name = render.job_name(unit.deployment, unit.name)
        lost = [
            i for i, j in self._client.marked(mark, name).jobs.items() if j.mark == mark
        ]
        rendered = self.render(unit)
        try:
            for file, text in rendered.files.items():
                self._transport.write(f"{directory}/{file}", text.encode())
            self._site.hand_over_key()
            (command,) = rendered.commands
            after = self._alive(unit.after, known) if unit.after else ""
            job = lost[0] if lost else self._client.submit(command, after=after)
        except LemnosError:
            self._transport.remove(directory)
            raise
        self._transport.write(f"{directory}/job", f"{job}\n".encode())
        self._seen = None

    def status(self) -> dict[str, UnitStatus]:
        """Asked at most every ``pbs.poll_s``: servers of PBS are slow, and shared."""
        if self._seen and time.monotonic() - self._seen[0] < self._spec.poll_s:
            return self._seen[1]
        known = self._found(self._told())
        answer = self._client.jobs(unit.id for unit in known.values())
        if any(_over(unit, answer) for unit in known.values()):
            known |= self._found(
                self._told()
            )  # what it said at its end, after we had read
        now = time.time()
        at = answer.at or now
        statuses = {
            name: self._with_url(
                name,
                unit,
                status_of(
                    unit,
                    answer.jobs.get(unit.id),
                    directory=self._units,
                    at=at,
                    ahead_s=at - now,
                ),
            )
            for name, unit in known.items()
        }
        self._seen = (time.monotonic(), statuses)
        return statuses

    def logs(self, name: str) -> tuple[LogFile, ...]:
        unit = self._told().get(name)
        hosts = unit.hosts if unit else ()
        own = unit.logs if unit else ()
        named = tuple(
            log.model_copy(update={"host": late.filled(log.host, hosts, 0, 0)})
            for log in own
        )
        return (*named, *render.own_logs(self._site, name))

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        return last_of(self._transport, log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """``kill``: the job's script is told by a file to kill, since PBS itself asks first."""
        job = self._alive(name, self._told())
        if not job:
            return
        if kill:
            self._transport.write(f"{self._site.unit_directory(name)}/kill", b"")
        self._client.delete(job, force=kill)
        self._seen = None

    def sweep(self) -> int:
        """Jobs are found by their mark: files may be gone, or never have been written."""
        found, known = self._client.marked(self._site.mark("")).jobs, self._told()
        for number, job in found.items():
            unit = job.mark.removeprefix(self._site.mark(""))
            if unit in known:
                self._transport.write(f"{self._site.unit_directory(unit)}/kill", b"")
            self._client.delete(number, force=True)
        self._await_end(found)
        self._transport.remove(self._units)
        self._seen = None
        return len(found)

    def _await_end(self, ids: Collection[str]) -> None:
        deadline = time.monotonic() + ENDING_S
        while ids and time.monotonic() < deadline:
            jobs = self._client.jobs(ids).jobs
            if all(job.state in "FMX" for job in jobs.values()):
                return
            time.sleep(0.5)

    def _alive(self, name: str, known: dict[str, Told]) -> str:
        """The unit's job, if PBS has it queued or running."""
        unit = self._found({name: known[name]}).get(name) if name in known else None
        if unit is None:
            return ""
        job = self._client.jobs([unit.id]).jobs.get(unit.id)
        return unit.id if job and job.state not in "FMX" else ""

    def _told(self) -> dict[str, Told]:
        """What all units' files say, in one command. Raises LemnosError where they cannot be read."""
        files = [f"--include={name}" for name in NAMES]
        done = self._transport.run(
            "env", "LC_ALL=C", "grep", "-r", "-H", "--null", *files, "", self._units
        )
        strange = [
            line
            for line in done.err.splitlines()
            if "No such file or directory" not in line
        ]
        if done.code > 1 and (strange or not done.err):
            raise LemnosError(
                f"what units say of themselves cannot be read: {done.said}",
                where=self._units,
            )
        return told(done.out, self._units)

    def _found(self, known: dict[str, Told]) -> dict[str, Told]:
        """Those that have a job. One that was submitted by a process that died before it could note
        the job's id is found by its mark."""
        if all(unit.id for unit in known.values()):
            return known
        jobs = self._client.marked(self._site.mark("")).jobs
        ids = {job.mark: number for number, job in jobs.items()}
        found = {}
        for name, unit in known.items():
            if number := unit.id or ids.get(unit.mark, ""):
                found[name] = unit.model_copy(update={"id": number})
        return found

    def _with_url(self, name: str, unit: Told, status: UnitStatus) -> UnitStatus:
        if status.state != "running" or not unit.port:
            return status
        key = (name, unit.attempt)
        if key not in self._urls:
            self._urls[key] = self._transport.forward(unit.host, unit.port)
        return status.model_copy(update={"url": self._urls[key]})

    def _check_queue(self, unit: Unit) -> None:
        queues = self._client.queues()
        name = self._spec.queue or self._client.default_queue()
        queue = queues.get(name.partition("@")[0])
        if queue is None:
            raise UsageError(
                f"the queue '{name}' is unknown"
                if name
                else "this PBS has no default queue",
                where="pbs.queue",
                fix=f"{near(name, list(queues))} There are {', '.join(sorted(queues))}.".strip(),
            )
        self._check_limits(queue, unit)

    def _check_limits(self, queue: PbsQueue, unit: Unit) -> None:
        if not queue.enabled:
            raise UsageError(
                f"the queue '{queue.name}' takes no jobs",
                where="pbs.queue",
                fix="choose another; `qstat -Q` shows them",
            )
        most = queue.max_walltime_s
        if most and self._spec.time and self._spec.time + unit.start_s > most:
            room = max(0.0, most - unit.start_s)
            raise UsageError(
                f"{render.clock(self._spec.time)} and {render.clock(unit.start_s)} to start are more "
                f"than the {render.clock(most)} of the queue '{queue.name}'",
                where="pbs.time",
                fix=f"set it to {render.clock(room)} or less: pbs.chain serves past it",
            )


def _over(unit: Told, answer: Answer) -> bool:
    """Ended, without a word of how as far as its files were read."""
    job = answer.jobs.get(unit.id)
    return not unit.ended and (job is None or job.state == "F")
