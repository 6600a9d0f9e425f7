"""Units as jobs of Slurm: one sbatch job a unit, a step for each of its processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from pydantic import ValidationError

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError, UsageError, near
from lemnos.launchers import late, logs
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.launchers.slurm.client import Client, id_of
from lemnos.launchers.slurm.inventory import cluster_of
from lemnos.launchers.slurm.parse import Partition, start_of
from lemnos.launchers.slurm.queue import Queue
from lemnos.launchers.slurm.reading import is_gone, is_over, is_queued, statuses
from lemnos.launchers.slurm.render import BATCH, batch_log, late_hosts, render
from lemnos.launchers.slurm.words import refused
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.transport.base import Done

NOW_S = 60.0
"""What is expected to start within this is called now: schedulers look every half minute."""
SWEEP_S = 60.0
"""Slurm kills what does not end within its KillWait, half a minute by default."""


class Slurm:
    """The units of one deployment as jobs."""

    name = "slurm"
    restarts = False
    queues = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._spec = site.spec.slurm
        self._client = Client(site.transport)
        self._queue = Queue(self._client, site)
        self._partitions: dict[str, Partition] | None = None

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Late hosts and ports. Raises UsageError for a partition that there is not."""
        if not dry:
            self._partition()
        shape = shape_of(plan)
        per_host = self._spec.gpus_per_node
        return Place(
            hosts=late_hosts(self._spec.nodes or shape.hosts),
            gpus_per_host=shape.gpus if per_host is None else per_host,
            port=late.PORT,
            inner_port=late.INNER_PORT,
            interface=self._site.spec.interface,
            multi_node_nvlink=shape.multi_node_nvlink,
        )

    def files(self, name: str) -> JobFiles:
        """Logs and keys in the deployment's directory."""
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        """``batch.sh``, and a script for each process; its time is bounded by the partition's where
        that is known (``place`` asks for it)."""
        return render(unit, self._site, self._known_partition())

    def inventory(self) -> Cluster:
        """The nodes that take jobs, of the spec's partition."""
        nodes = self._client.nodes()
        return cluster_of(nodes, self._spec.partition, self._spec.gpu_type)

    def room(self, unit: Unit) -> Room:
        """When ``sbatch --test-only`` expects the job to start."""
        partition = self._partition()
        if partition and not partition.up:
            why = f"the partition {partition.name} runs no jobs now"
            return Room(free=False, why=why)
        rendered = self.render(unit)
        done = self._test(unit, rendered)
        starts_at = start_of(done.err + done.out)
        if starts_at is None:
            return Room(free=False, why="Slurm does not say when it would start")
        if starts_at <= time.time() + NOW_S:
            return Room(free=True, starts_at=starts_at)
        why = "others have what it needs until then, or come first"
        return Room(free=False, starts_at=starts_at, why=why)

    def submit(self, unit: Unit) -> None:
        """Write the unit's files, let Slurm check the job, and submit it, unless it is there."""
        self._partition()
        rendered = self.render(unit)
        if self._queue.may_hold(unit.name) and self._adopt(unit.name):
            return
        try:
            self._write(unit, rendered)
            self._test(unit, rendered)
        except LemnosError:
            with contextlib.suppress(LemnosError):
                self._site.transport.remove(self._site.unit_directory(unit.name))
            raise
        # From here on there may be a job, whatever is answered: the answer may come too late.
        self._queue.submitted(unit.name)
        done = self._client.run(*rendered.commands[-1])
        job = id_of(done.out)
        if job is not None:
            self._note(unit.name, "job", str(job))
        elif not self._adopt(unit.name):
            self._site.transport.remove(self._site.unit_directory(unit.name))
            raise self._refused(done, unit, rendered)

    def status(self) -> dict[str, UnitStatus]:
        """Every unit, from the queue and from what the jobs have written; asked as often as
        ``poll_s`` lets it, and more often while something changes."""
        seen = self._queue.seen()
        return statuses(
            seen.jobs,
            seen.papers,
            self._site.transport.forward,
            unseen=seen.unseen,
            directory=self._units,
            cancelled_by=seen.cancelled_by,
        )

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a process, then the batch script's with what srun says."""
        unit = self._unit(name)
        if unit is None:
            return ()
        hosts = self._queue.papers(name).hosts
        own = [
            log.model_copy(update={"host": late.filled(log.host, hosts, 0, 0)})
            for log in logs.logs_of(unit)
        ]
        batch = LogFile(
            job=f"{name}.batch",
            role="batch",
            host=hosts[0] if hosts else "",
            path=batch_log(self._site, name),
        )
        return (*own, batch)

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last lines of one."""
        return logs.last_of(self._site.transport, log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """SIGTERM to the job's script, which ends its processes in order; or ``scancel``, at once."""
        jobs = [job for job in self._queue.named(name) if not is_over(job)]
        if not jobs:
            return
        self._note(name, "cancelled", str(jobs[-1].id))
        self._queue.changed()
        if kill:
            self._kill([job.id for job in jobs])
            return
        waiting = [job.id for job in jobs if is_queued(job)]
        running = [job.id for job in jobs if not is_queued(job)]
        self._client.cancel(running, "--batch", "--signal=TERM")
        self._client.cancel(waiting)

    def sweep(self) -> int:
        """Kill all that is the deployment's, wait until it is gone, and remove the units' files."""
        found = [job.id for job in self._queue.all() if not is_over(job)]
        self._kill(found)
        deadline = time.monotonic() + SWEEP_S
        while not all(is_gone(job) for job in self._queue.all() if job.id in found):
            if time.monotonic() > deadline:
                raise LemnosError(
                    f"Slurm has not ended {len(found)} jobs in {SWEEP_S:.0f} s",
                    where="slurm",
                    fix="'squeue --me' shows them; call down again",
                )
            time.sleep(0.2)
        self._site.transport.remove(self._units)
        self._queue.changed()
        return len(found)

    @property
    def _units(self) -> str:
        return self._site.unit_directory("").rstrip("/")

    def _kill(self, jobs: Sequence[int]) -> None:
        """Everything at once: ``scancel`` alone asks first, and waits for KillWait."""
        self._client.cancel(jobs, "--full", "--signal=KILL")

    def _adopt(self, name: str) -> bool:
        """Whether the unit has a job in the queue; its number is noted, if it is not yet."""
        job = next((job for job in self._queue.named(name) if not is_over(job)), None)
        if job is None:
            return False
        if self._queue.papers(name).job != job.id:
            self._note(name, "job", str(job.id))
        return True

    def _write(self, unit: Unit, rendered: Rendered) -> None:
        self._site.hand_over_key()
        self._note(unit.name, "unit.json", unit.model_dump_json())
        for file, text in rendered.files.items():
            self._note(unit.name, file, text)

    def _note(self, unit: str, file: str, text: str) -> None:
        path = f"{self._site.unit_directory(unit)}/{file}"
        self._site.transport.write(path, text.encode())

    def _test(self, unit: Unit, rendered: Rendered) -> Done:
        """``sbatch --test-only``, with the script on its input: nothing need be written for it."""
        words = rendered.commands[0][:-1]
        script = rendered.files[BATCH].encode()
        done = self._client.run("env", "TZ=UTC0", *words, stdin=script)
        if done.code:
            raise self._refused(done, unit, rendered)
        return done

    def _partition(self) -> Partition | None:
        """The spec's partition, or the default one. Raises UsageError where there is none of the name."""
        if self._partitions is None:
            self._partitions = self._client.partitions()
        names = (self._spec.partition or "").split(",")
        for name in names:
            if name and name not in self._partitions:
                raise UsageError(
                    f"unknown partition '{name}'",
                    where="slurm.partition",
                    fix=_choice(name, list(self._partitions)),
                )
        return self._known_partition()

    def _known_partition(self) -> Partition | None:
        known = self._partitions or {}
        if self._spec.partition:
            return known.get(self._spec.partition)
        return next((each for each in known.values() if each.default), None)

    def _refused(self, done: Done, unit: Unit, rendered: Rendered) -> LemnosError:
        spec, partition = self._spec, self._known_partition()
        header = [
            line.removeprefix("#SBATCH --")
            for line in rendered.files[BATCH].splitlines()
            if line.startswith("#SBATCH --")
        ]
        asked = dict(line.partition("=")[::2] for line in header)
        size = ("nodes", "gres", "gpus-per-node", "cpus-per-task", "mem", "constraint", "nodelist", "time")  # fmt: skip
        longest = ""
        if partition and partition.max_s:
            longest = f"partition {partition.name} gives at most {partition.max_s / 3600:g} h: "
        known = sorted(self._partitions or {})
        return refused(
            done.err or done.out,
            partition=spec.partition or "the default one",
            partitions=_choice(spec.partition or "", known),
            account=f"'{spec.account}'" if spec.account else "that is yours by default",
            accounts=self._accounts(),
            qos=spec.qos or "",
            constraint=spec.constraint or "",
            reservation=spec.reservation or "",
            time=asked.get("time", "the default"),
            limits=f"{longest}set a shorter slurm.time",
            gpus=asked.get("gres") or asked.get("gpus-per-node") or "none",
            memory=asked.get("mem", "the default"),
            asked=", ".join(f"{key} {asked[key]}" for key in size if key in asked),
        )

    def _accounts(self) -> str:
        names = self._client.accounts()
        if not names:
            return "set slurm.account to one of yours; 'sacctmgr show assoc user=$USER' lists them"
        return f"set slurm.account to one of yours: {', '.join(names)}"

    def _unit(self, name: str) -> Unit | None:
        data = self._site.transport.read(f"{self._site.unit_directory(name)}/unit.json")
        try:
            return Unit.model_validate_json(data) if data else None
        except ValidationError:  # another version's
            return None


def _choice(name: str, known: list[str]) -> str:
    there = f"there are {', '.join(known)}" if known else "'sinfo' lists them"
    return f"{near(name, known)} {there}".strip() if name else there
