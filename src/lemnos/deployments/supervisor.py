"""The supervisor: observes, asks ``lifecycle.tick``, does the effects, saves the state.

One process a deployment. It holds nothing that cannot be found again: killed and started
anew, it finds its jobs by their mark and goes on from the state in the store.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lemnos import leases
from lemnos.deployments import lifecycle, probes, targets
from lemnos.deployments.files import Files, Tail
from lemnos.engines.base import engine_named
from lemnos.errors import LemnosError
from lemnos.gateway.ledger import default_path, sqlite_url
from lemnos.hardware.ports import free_port
from lemnos.launchers.processes import Processes, ProcessStatus
from lemnos.records.store import Store
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.status import Phase

TICK_S = 0.5
"""Between ticks when nothing is going on; a finished probe or a signal ends the wait."""
BUSY_TICK_S = 0.05
"""Between ticks while something starts or stops."""


def supervise(name: str) -> None:
    """Supervise ``name`` until it is stopped or has failed. One supervisor at a time."""
    files = Files.of(name)
    with leases.lease(files.supervisor_lease, what=f"supervisor of {name}"):
        Supervisor(name, Store(), files).run()


class Supervisor:
    """The edge around ``lifecycle.tick``."""

    def __init__(self, name: str, store: Store, files: Files) -> None:
        row = store.deployment(name)
        if row is None:
            raise LemnosError(f"no deployment '{name}'", fix="`lemnos up` makes one")
        self._name = name
        self._store = store
        self._files = files
        self._plan = Plan.model_validate_json(row["plan"])
        self._created = int(row["created"])
        self._url = str(row["url"])
        self._ports: dict[str, int] = json.loads(row["ports"])
        self._engine = engine_named(self._plan.engine)
        self._launcher = Processes(name)
        self._keys_file = _keys_file_of(self._plan)
        self._keys_seen = _stamp(self._keys_file)
        self._tails: dict[str, Tail] = {}
        self._probes = Probes()
        self._state = (
            lifecycle.resume(lifecycle.State.model_validate_json(row["state"]))
            if row["state"]
            else lifecycle.begin(self._plan.layout.replicas, time.time())
        )

    def run(self) -> None:
        """Tick until it is over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        while not self._tick():
            busy = self._state.phase in (Phase.launching, Phase.draining, Phase.failed)
            self._probes.wait(BUSY_TICK_S if busy else TICK_S)

    def _asked_to_stop(self, *_: object) -> None:
        self._store.update(self._name, desired="stopped")
        self._probes.wake()

    def _tick(self) -> bool:
        """One step; True when nothing is left to supervise."""
        row = self._store.deployment(self._name)
        if row is None:
            self._launcher.sweep()
            return True
        spec = self._plan.spec
        seen = self._observe(row, self._launcher.status())
        state, effects = lifecycle.tick(
            self._state, seen, spec.restart, spec.ready_timeout_s
        )
        over = False
        for effect in effects:
            self._do(effect)
            over = over or isinstance(effect, lifecycle.Finish)
        self._save(row, state)
        self._follow_keys()
        return over

    def _observe(
        self, row: dict[str, Any], statuses: dict[str, ProcessStatus]
    ) -> lifecycle.Observed:
        jobs = {}
        for job in self._state.jobs:
            status = statuses.get(job.name, ProcessStatus(alive=False))
            ok, error = self._probes.take(job.name)
            jobs[job.name] = lifecycle.JobSeen(
                alive=status.alive, ended=status.ended, probe=ok, probe_error=error
            )
        ok, error = self._probes.take("endpoint")
        return lifecycle.Observed(
            now=time.time(),
            wanted=row["desired"],
            restarts_wanted=row["restarts_wanted"],
            jobs=jobs,
            endpoint=ok,
            endpoint_error=error,
        )

    def _do(self, effect: lifecycle.Effect) -> None:
        match effect:
            case lifecycle.Start(job=job):
                self._start(job)
            case lifecycle.Signal(job=job, kill=kill):
                self._launcher.signal(job, kill=kill)
            case lifecycle.Probe(job=job, completion=completion):
                self._probe(job, completion)
            case lifecycle.ProbeEndpoint():
                has_keys = self._plan.spec.endpoint.has_keys
                key = self._files.own_key.read_text() if has_keys else None
                model = self._plan.served_name
                self._probes.start(
                    "endpoint", lambda: probes.completion(self._url, model, key)
                )
            case lifecycle.Publish(engines=engines):
                self._publish(engines)
            case lifecycle.Note(text=text):
                self._store.add_event(self._name, text)
            case lifecycle.Finish():
                self._launcher.sweep()

    def _start(self, name: str) -> None:
        log = self._files.log(name)
        self._tails[name] = Tail(log)
        if name == lifecycle.GATEWAY:
            if not self._files.targets.exists():
                self._publish(())
            self._launcher.submit(gateway_job(self._plan, self._url, self._files))
            return
        self._ports[name] = free_port("127.0.0.1")
        self._store.update(self._name, ports=json.dumps(self._ports))
        index = int(name.rpartition("-")[2])
        place, files = Place(port=self._ports[name]), self._files.of_engine(index)
        for job in self._engine.jobs(self._plan, index, place, files):
            self._launcher.submit(job)

    def _probe(self, name: str, completion: bool) -> None:
        if name == lifecycle.GATEWAY:
            self._probes.start(name, lambda: probes.health(self._url))
            return
        url = f"http://127.0.0.1:{self._ports[name]}"
        if not completion:
            self._probes.start(name, lambda: probes.health(url))
            return
        key = self._files.engine_key.read_text()
        model = self._plan.served_name
        self._probes.start(name, lambda: probes.completion(url, model, key))

    def _publish(self, engines: tuple[str, ...]) -> None:
        table = targets.table_for(
            self._plan,
            {name: self._ports[name] for name in engines},
            revision=targets.revision_at(self._files.targets) + 1,
            key_file=str(self._files.engine_key),
            keys=targets.keys_for(
                self._plan.spec.endpoint, self._files.own_key.read_text()
            ),
            created=self._created,
        )
        targets.write_table(self._files.targets, table)

    def _follow_keys(self) -> None:
        """Keys that were added or removed hold from now on."""
        seen = _stamp(self._keys_file)
        if seen == self._keys_seen or not self._files.targets.exists():
            return
        self._keys_seen = seen
        try:
            self._publish(self._state.published or ())
        except LemnosError as error:  # somebody edits it: the keys of before hold
            self._store.add_event(self._name, f"keys: {error}")

    def _save(self, row: dict[str, Any], state: lifecycle.State) -> None:
        stage = self._stage(row["stage"]) if state.phase == Phase.launching else ""
        if state == self._state and stage == row["stage"]:
            return
        self._state = state
        self._store.update(
            self._name,
            state=state.model_dump_json(),
            phase=state.phase,
            stage=stage,
        )

    def _stage(self, stage: str) -> str:
        """What the first engine says in its log that it is doing."""
        tail = self._tails.get("engine-0")
        for line in tail.lines() if tail else []:
            stage = self._engine.stage(line) or stage
        return stage


def _keys_file_of(plan: Plan) -> Path | None:
    """The file of clients' keys that is followed while the deployment runs."""
    name = plan.spec.endpoint.keys_file
    return Path(name) if name else None


def _stamp(path: Path | None) -> tuple[int, int]:
    try:
        stat = path.stat() if path else None
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns) if stat else (0, 0)


class Probes:
    """Probes that run beside the ticks, one of a name at a time."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._answers: dict[str, tuple[bool, str]] = {}
        self._woken = threading.Event()

    def start(self, name: str, probe: Callable[[], str]) -> None:
        """Run ``probe`` (returns "" or what is wrong), unless one of this name still runs."""
        if name in self._running:
            return
        self._running.add(name)
        # A daemon thread: one that hangs must not keep a finished supervisor alive.
        threading.Thread(target=self._run, args=(name, probe), daemon=True).start()

    def _run(self, name: str, probe: Callable[[], str]) -> None:
        try:
            error = probe()
        except Exception as failure:  # whatever it was, the probe did not succeed
            error = f"{type(failure).__name__}: {failure}"
        self._answers[name] = (not error, error)
        self._running.discard(name)
        self._woken.set()

    def take(self, name: str) -> tuple[bool | None, str]:
        """The answer since the last take; (None, "") if there is none."""
        return self._answers.pop(name, (None, ""))

    def wake(self) -> None:
        """End a wait."""
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until a probe has answered."""
        self._woken.wait(seconds)
        self._woken.clear()


def gateway_job(plan: Plan, url: str, files: Files) -> Job:
    """Pure: the gateway's job, listening where ``url`` says."""
    host = plan.spec.endpoint.host
    port = int(url.rpartition(":")[2])
    argv = (
        *(sys.executable, "-m", "lemnos.gateway"),
        *("--targets", str(files.targets)),
        *("--host", host),
        *("--port", str(port)),
        *("--ledger", sqlite_url(default_path())),
    )
    return Job(
        deployment=plan.name,
        role="gateway",
        command=Command(argv=argv),
        host=host,
        port=port,
        log=str(files.log(lifecycle.GATEWAY)),
    )
