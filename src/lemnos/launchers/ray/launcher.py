"""Units as jobs of a Ray cluster: one job a unit, whose driver places its processes and watches them."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.launchers import late
from lemnos.launchers.logs import last_of
from lemnos.launchers.ray import parse, render
from lemnos.launchers.ray.inventory import cluster_of, room_of
from lemnos.launchers.ray.parse import RayJob, Told
from lemnos.launchers.ray.reach import Reached, reached
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.wire.redact import redact

POLL_S = 1.0
ENDING_S = render.STOP_S + 10.0
"""How long ``sweep`` waits for jobs to end."""
SETTLE_S = 1.5
"""Ray looks at its jobs every second: one that is forgotten before it saw the end is made up anew."""
KEPT_LINES = 5000
"""Of each log of a unit that ended: Ray's own go with its session."""


class Ray:
    """The units of one deployment as jobs."""

    name = "ray"
    restarts = False
    queues = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._spec = site.spec.ray
        self._transport = site.transport
        self._ray: Reached = reached(site)
        self._client = self._ray.client
        self._seen: tuple[float, dict[str, UnitStatus]] | None = None
        self._known: set[str] | None = None
        self._told: dict[str, Told] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._kept: set[str] = set()

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Hosts and ports are late values: Ray chooses them. vLLM's ranks on several hosts are Ray's actors,
        unless ``ray.executor`` says otherwise. (Those of data parallelism would make groups of their own.)"""
        shape = shape_of(plan)
        own = plan.engine == "vllm" and shape.hosts > 1 and plan.layout.data == 1
        own = own and self._spec.executor == "ray"
        return Place(
            hosts=tuple(late.host(rank) for rank in range(shape.hosts)),
            gpus_per_host=shape.gpus,
            port=late.PORT,
            inner_port=late.INNER_PORT,
            interface=self._site.spec.interface,
            multi_node_nvlink=shape.multi_node_nvlink,
            ray=own,
            ray_is_there=own,
        )

    def files(self, name: str) -> JobFiles:
        """The log's name is one of Ray's session; its end is kept under the path."""
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        return render.render(unit, self._site, self._ray.rendered())

    def inventory(self) -> Cluster:
        return cluster_of(self._ray.nodes())

    def room(self, unit: Unit) -> Room:
        """What is free of the nodes now. A cluster of our own is not started for it: its hosts are looked at."""
        self.render(unit)
        bundle = render.bundle_of(unit.place, self._spec)
        return room_of(bundle, len(unit.place.hosts), self._ray.nodes())

    def submit(self, unit: Unit) -> None:
        """Nothing is left of a unit that Ray refuses."""
        self._ray.ensure()
        before = self._jobs().get(unit.name)
        if before and before.alive:
            return
        directory = self._site.unit_directory(unit.name)
        rendered = self.render(unit)
        number = max(int(time.time() * 1000), before.number + 1 if before else 0)
        body = render.numbered(rendered.files["job.json"], number)
        try:
            for file, text in rendered.files.items():
                self._transport.write(f"{directory}/{file}", text.encode())
            files = render.package(rendered.files, self._key())
            self._client.upload(render.package_of(body), files)
            self._client.submit(body)
        except LemnosError:
            self._transport.remove(directory)
            raise
        self._transport.write(f"{directory}/job", body["submission_id"].encode())
        self._units().add(unit.name)
        self._facts.pop(unit.name, None)
        self._seen = None

    def status(self) -> dict[str, UnitStatus]:
        """One question for all, at most once a second."""
        if self._seen and time.monotonic() - self._seen[0] < POLL_S:
            return self._seen[1]
        if why := self._ray.gone():
            statuses = {n: UnitStatus(state="ended", why=why) for n in self._units()}
        else:
            jobs = self._jobs()
            lost = "Ray does not know its job any more: its head was started anew"
            statuses = {
                name: self._status(name, jobs[name])
                if name in jobs
                else UnitStatus(state="ended", why=lost)
                for name in sorted({*jobs, *self._units()})
            }
        self._seen = (time.monotonic(), statuses)
        return statuses

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a process, and what the driver says."""
        facts = self._facts_of(name)
        if not facts:
            return ()
        status = self._last(name)
        hosts = status.hosts if status else ()
        logs = tuple(
            LogFile(
                job=rank["name"],
                role=rank["role"],
                host=hosts[rank["host"]] if rank["host"] < len(hosts) else "",
                path=rank["log"],
            )
            for rank in facts["ranks"]
        )
        return (*logs, render.driver_log(self._site, name))

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """From Ray's API while it is there, else what was kept of it."""
        text = ""
        if not self._ray.gone():
            text = self._asked(log, lines)
        if not text:
            return last_of(self._transport, log, lines)
        return redact(text).splitlines()[-lines:]

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """Ray has one way to end a job, which asks first: what does not end by itself is killed ``GRACE_S``
        later, with all that it started."""
        if self._ray.gone():
            return
        job = self._jobs().get(name)
        if job and job.alive:
            self._client.stop(job.id)
            self._seen = None

    def sweep(self) -> int:
        """Jobs are found by their mark: files may be gone, or never have been written."""
        found = 0
        if not self._ray.gone():
            jobs = self._ours()
            alive = [job for job in jobs if job.alive]
            found = len(alive)
            for job in alive:
                self._client.stop(job.id)
            self._await_end({job.id for job in alive})
            for name, job in self._jobs().items():
                self._keep(name, job)
            for job in jobs:
                self._client.delete(job.id)
        found += self._ray.sweep()
        self._transport.remove(f"{self._site.directory}/units")
        self._known, self._seen = set(), None
        self._facts.clear()
        return found

    # ------------------------------------------------------------ what there is

    def _jobs(self) -> dict[str, RayJob]:
        return parse.newest(self._client.jobs(), self._site.mark(""))

    def _ours(self) -> list[RayJob]:
        """Every start of every unit; and those without a mark that Ray makes up of jobs that it forgot."""
        prefix = render.ids_of(self._site)
        return [job for job in self._client.jobs() if job.id.startswith(prefix)]

    def _status(self, name: str, job: RayJob) -> UnitStatus:
        told = self._told.get(job.id) or Told()
        if not job.alive:
            told = self._keep(name, job)
            self._ray.leave(told)
            why = told.ended or parse.why(job)
            return UnitStatus(state="ended", why=why, id=job.id, hosts=told.hosts)
        if not told.hosts and job.status == "RUNNING":
            told = parse.told(self._client.printed(job.id))
        if not told.hosts:
            why = told.waits or "Ray starts its driver"
            return UnitStatus(state="queued", why=why, id=job.id)
        self._told[job.id] = told
        url = self._ray.url(told)
        return UnitStatus(state="running", id=job.id, hosts=told.hosts, url=url)

    def _last(self, name: str) -> UnitStatus | None:
        """As it was seen a moment ago, or is."""
        known = self._seen[1] if self._seen else {}
        if name not in known or not known[name].hosts:
            known = self.status()
        return known.get(name)

    def _await_end(self, ids: Collection[str]) -> None:
        deadline = time.monotonic() + ENDING_S
        while ids and time.monotonic() < deadline:
            if not any(job.alive for job in self._client.jobs() if job.id in ids):
                time.sleep(SETTLE_S)
                return
            time.sleep(0.3)

    # ------------------------------------------------------------ papers and logs

    def _units(self) -> set[str]:
        """Those that were submitted since the last sweep, by whichever process."""
        if self._known is None:
            units = f"{self._site.directory}/units"
            argv = ("find", units, "-mindepth", "2", "-maxdepth", "2", "-name", "job")
            lines = self._transport.run(*argv).out.splitlines()
            self._known = {Path(line).parent.name for line in lines}
        return self._known

    def _facts_of(self, name: str) -> dict[str, Any]:
        if name not in self._facts:
            path = f"{self._site.unit_directory(name)}/unit.json"
            data = self._transport.read(path)
            if not data:
                return {}
            self._facts[name] = json.loads(data)
        return self._facts[name]

    def _asked(self, log: LogFile, lines: int) -> str:
        unit = log.job.partition(".")[0]
        status = self._last(unit)
        if not (status and status.id):
            return ""
        if log.role == "driver":
            return self._client.printed(status.id)
        if not log.host:
            return ""
        own = render.log_name(status.id, log.path)
        return self._client.log(log.host, own, lines)

    def _keep(self, name: str, job: RayJob) -> Told:
        """What Ray has of the logs of a unit that ended, and what its driver told."""
        if job.id in self._kept:
            return self._told[job.id]
        said = self._client.printed(job.id)
        told = self._told[job.id] = parse.told(said)
        self._kept.add(job.id)
        for rank in self._facts_of(name).get("ranks", ()):
            if rank["host"] >= len(told.hosts):
                continue
            own = render.log_name(job.id, rank["log"])
            text = self._client.log(told.hosts[rank["host"]], own, KEPT_LINES)
            if text:
                self._transport.write(rank["log"], redact(text).encode())
        if said:
            path = render.driver_log(self._site, name).path
            self._transport.write(path, redact(said).encode())
        return told

    def _key(self) -> str:
        try:
            return self._site.key_file.read_text(encoding="utf-8")
        except OSError as error:
            raise LemnosError(
                f"the engines' key cannot be read ({error.strerror})",
                where=str(self._site.key_file),
            ) from None
