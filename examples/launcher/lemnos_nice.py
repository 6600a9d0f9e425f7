"""A launcher of another package: replicas as processes of this machine that let others go first.

    lemnos up smollm2 --on nice --set launcher_args.level=15

It has all that a launcher must have (lemnos.launchers.base), and passes the tests that all of them pass
(tests/e2e/test_plugin_launcher.py). The gateway is not its business: lemnos runs it itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.ports import free_port
from lemnos.hardware.probe import probe_here
from lemnos.launchers.logs import last_of, logs_of
from lemnos.launchers.processes import Processes
from lemnos.launchers.script import script_of
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.place import Place
from lemnos.spec.plan import Job, Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus
from lemnos.transport.base import url_of


class Nice:
    """The replicas of one deployment."""

    name = "nice"
    restarts = False
    queues = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._level = _level(site.spec.launcher_args)
        self._processes = Processes(site.deployment)

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        if shape_of(plan).gpus:
            raise UsageError(
                "an engine on GPUs gains nothing from a low priority",
                where="on: nice",
                fix="use --on local",
            )
        return Place(port=0 if dry else free_port("127.0.0.1"))

    def files(self, name: str) -> JobFiles:
        return self._site.files(name)

    def render(self, unit: Unit) -> Rendered:
        home = self._site.unit_directory(unit.name)
        files = {f"{_name(job)}.sh": script_of(job) for job in unit.jobs}
        return Rendered(
            files=files,
            commands=tuple(
                ("nice", "-n", self._level, "sh", f"{home}/{name}") for name in files
            ),
        )

    def inventory(self) -> Cluster:
        return probe_here(note=lambda _: None)

    def room(self, unit: Unit) -> Room:
        return Room(free=True)

    def submit(self, unit: Unit) -> None:
        rendered, running = self.render(unit), self._processes.status()
        self._site.hand_over_key()
        self._write(unit, "unit.json", unit.model_dump_json())
        for name, text in rendered.files.items():
            self._write(unit, name, text)
        try:
            for job, command in zip(unit.jobs, rendered.commands, strict=True):
                before = running.get(_name(job))
                if not (before and before.alive):
                    self._processes.submit(job, command)
        except LemnosError:
            self.cancel(unit.name, kill=True)
            raise

    def status(self) -> dict[str, UnitStatus]:
        # The gateway's files are here, too; whoever started it tells of it.
        names = [path.parent.name for path in self._units.glob("engine-*/unit.json")]
        units = (self._unit(name) for name in sorted(names))
        return {unit.name: self._status(unit) for unit in units if unit}

    def logs(self, name: str) -> tuple[LogFile, ...]:
        unit = self._unit(name)
        return logs_of(unit) if unit else ()

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        return last_of(self._site.transport, log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        unit = self._unit(name)
        for job in unit.jobs if unit else ():
            self._processes.signal(_name(job), kill=kill)

    def sweep(self) -> int:
        found = self._processes.sweep()
        self._site.transport.remove(str(self._units))
        return found

    def _status(self, unit: Unit) -> UnitStatus:
        seen = self._processes.status()
        jobs = {_name(job): seen.get(_name(job)) for job in unit.jobs}
        alive = [status for status in jobs.values() if status and status.alive]
        ended = [
            f"{name} {status.ended if status else 'is not there'}"
            for name, status in jobs.items()
            if not (status and status.alive)
        ]
        if not alive:
            why = ended[0].partition(" ")[2]
            return UnitStatus(state="ended", why=why, id=unit.name)
        return UnitStatus(
            state="running",
            broken=ended[0] if ended else "",
            id=unit.name,
            url=url_of(unit.place.hosts[0], unit.place.port),
            hosts=unit.place.hosts,
            pids=tuple(pid for status in alive for pid in status.pids),
        )

    @property
    def _units(self) -> Path:
        return Path(self._site.unit_directory("engine-0")).parent

    def _unit(self, name: str) -> Unit | None:
        data = self._site.transport.read(f"{self._units}/{name}/unit.json")
        return Unit.model_validate_json(data) if data else None

    def _write(self, unit: Unit, name: str, text: str) -> None:
        path = f"{self._site.unit_directory(unit.name)}/{name}"
        self._site.transport.write(path, text.encode())


def _name(job: Job) -> str:
    """``engine-0``, or ``engine-0.1`` for the second process of a replica."""
    return job.id.partition("/")[2]


def _level(args: dict[str, bool | int | float | str | None]) -> str:
    level = args.get("level", 10)
    if set(args) - {"level"} or type(level) is not int or not 0 <= level <= 19:
        raise UsageError(
            "--on nice knows one key, level, from 0 to 19", where="launcher_args"
        )
    return str(level)
