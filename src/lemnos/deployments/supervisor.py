"""The supervisor: observes, asks ``lifecycle.tick``, does the effects, saves the state.

One process a deployment. It holds nothing that cannot be found again: killed and started
anew, it finds its units by their mark and goes on from the state in the store.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from lemnos import leases
from lemnos.deployments import lifecycle, probes, targets
from lemnos.deployments.files import Files, rotate, telling
from lemnos.deployments.fleet import Fleet
from lemnos.deployments.jobs import CROSS_S
from lemnos.deployments.stages import Stages
from lemnos.deployments.state import (
    GATEWAY,
    Cross,
    Effect,
    Failure,
    Finish,
    JobSeen,
    JobState,
    Note,
    Observed,
    Probe,
    ProbeEndpoint,
    Publish,
    Refuse,
    Rules,
    Signal,
    Start,
    State,
)
from lemnos.deployments.status import identity
from lemnos.deployments.units import has_own_gateway, health_path
from lemnos.engines.workers import is_group
from lemnos.errors import LemnosError
from lemnos.launchers.shape import replicas_of
from lemnos.records.store import Store
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.plan import Plan
from lemnos.spec.rooms import SchedulerSpec
from lemnos.spec.status import Phase

TICK_S = 0.5
"""Between ticks when nothing is going on; a finished probe or a signal ends the wait."""
BUSY_TICK_S = 0.05
"""Between ticks while something starts or stops."""
TROUBLE_S = 2.0
"""Before the next try, when a tick could not be done (a full disk, a locked database)."""
GIVE_UP_S = 15.0
"""A first start ends after so much trouble, since somebody waits; what serves goes on however long it lasts."""
CHORES_S = 10.0
"""Between looks at the logs' sizes, and at the queue."""
QUEUE_S = 300.0
"""Between questions to a scheduler how long its queue is."""
FILE_READS_S, POD_READS_S = 2.0, 15.0
"""In which a gateway has surely read its new table: a file of this machine, or what a kubelet copies."""
LOG_LIMIT = 64 * 1024**2


def supervise(name: str) -> None:
    """Supervise ``name`` until it is stopped or has failed. One supervisor at a time."""
    files = Files.of(name)
    with leases.lease(files.supervisor_lease, what=f"supervisor of {name}", wait_s=5):
        Supervisor(name, Store(), files).run()


class Supervisor:
    """The edge around ``lifecycle.tick``."""

    def __init__(self, name: str, store: Store, files: Files) -> None:
        row = store.deployment(name)
        if row is None:
            raise LemnosError(f"no deployment '{name}'", fix="`lemnos up` makes one")
        self._name = name
        self._store = store
        # Whoever started it noted that already; systemd may have started it again since.
        store.update(name, supervisor=json.dumps(identity(os.getpid())))
        self._files = files
        self._keys = files.keys()
        self._url = str(row["url"])
        self._fleet = Fleet(name, store, files, self._url)
        self._probes = probes.Probes()
        self._stages = Stages()
        self._keys_seen: object = None
        self._leaves = False
        self._chores_at = 0.0
        self._queue_s, self._queue_asked_at = 0.0, 0.0
        self._open: dict[str, int] | None = None
        self._waiting: float | None = None
        saved = State.model_validate_json(row["state"]) if row["state"] else None
        if saved and (saved.revision or saved.trial):
            self._state = lifecycle.resume(saved)
        else:  # nothing yet, or an earlier version's: what runs is found by its name
            count = self._replicas(row, int(row["revision"]))
            self._state = lifecycle.begin(int(row["revision"]), count, time.time())

    def run(self) -> None:
        """Tick until it is over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        trouble, since = "", 0.0
        while not self._leaves:
            try:
                if self._tick():
                    return
                trouble = ""
            except (
                Exception
            ) as error:  # a full disk, or a mistake of ours: what serves goes on
                since = since if trouble else time.monotonic()
                if str(error) != trouble:
                    _tell(error)
                trouble = str(error)
                if not self._state.revision and time.monotonic() - since > GIVE_UP_S:
                    raise SystemExit(1) from None
                self._probes.wait(TROUBLE_S)
            self._probes.wait(BUSY_TICK_S if self._busy() else TICK_S)

    def _asked_to_stop(self, *_: object) -> None:
        """By a signal: the deployment is to end, but for systemd, which ends its units itself as the
        machine goes down, and is to find them wanted when it comes back."""
        if (
            self._fleet.plan(self._state.revision or self._state.trial).spec.on
            == "systemd"
        ):
            self._leaves = True
        else:
            self._store.update(self._name, desired="stopped")
        self._probes.wake()

    def _busy(self) -> bool:
        """Whether something starts or stops now, so that a person may be waiting."""
        moving = ("starting", "draining", "stopping")
        return any(job.status in moving for job in self._state.jobs)

    def _tick(self) -> bool:
        """One step; True when nothing is left to supervise."""
        row = self._store.deployment(self._name)
        if row is None:
            self._fleet.sweep()
            return True
        if self._files.restore(self._keys):  # somebody removed the directory
            self._state = lifecycle.resume(self._state)
        if not self._reachable(row):
            row = self._store.deployment(self._name) or row
        self._fleet.look(self._state)
        seen = self._observe(row)
        plan = self._fleet.plan(seen.revision)
        spec = plan.spec
        state, effects = lifecycle.tick(self._state, seen, self._rules(plan))
        over = False
        for effect in effects:
            self._do(effect)
            over = over or isinstance(effect, Finish)
        self._save(row, state)
        self._ask_for_numbers(spec)
        self._chores()
        return over

    def _reachable(self, row: dict[str, Any]) -> bool:
        """Whether the wanted revision can be started from here: a newer lemnos than this supervisor's may
        have written its plan, its login node may be gone. If not, what serves is wanted again."""
        revision, serving = int(row["revision"]), self._state.revision
        try:
            self._fleet.reach(revision)
        except LemnosError as error:
            if not serving or revision == serving:
                raise
            self._store.refuse_revision(self._name, revision, serving, str(error))
            return False
        return True

    def _observe(self, row: dict[str, Any]) -> Observed:
        jobs = {}
        for name, unit in self._fleet.seen.items():
            ok, error = self._probes.take(name)
            crossed, why = self._probes.take(_crossing(name))
            jobs[name] = JobSeen(
                unit=unit,
                probe=ok,
                probe_error=error,
                crossed=crossed,
                cross_error=why,
            )
        ok, error = self._probes.take("endpoint")
        revision = int(row["revision"])
        known = {revision, self._state.revision, self._state.trial} - {0}
        return Observed(
            now=time.time(),
            wanted=row["desired"],
            revision=revision,
            replicas={each: self._replicas(row, each) for each in known},
            rollout=self._fleet.rollout(revision, self._state),
            restarts_wanted=row["restarts_wanted"],
            jobs=jobs,
            open=self._open,
            waiting=self._waiting,
            endpoint=ok,
            endpoint_error=error,
        )

    def _replicas(self, row: dict[str, Any], revision: int) -> int:
        plan = self._fleet.plan(revision)
        return int(row["replicas"] or plan.spec.replicas or replicas_of(plan))

    def _rules(self, plan: Plan) -> Rules:
        spec = plan.spec
        room = _scheduler(spec)
        lead_s = None
        if room and room.chain:
            lead_s = room.handover_s or self._lead_s(room)
        return Rules(
            restart=spec.restart,
            ready_timeout_s=spec.ready_timeout_s,
            drain_s=room.drain_s if room else 30.0,
            unpublished_s=POD_READS_S if has_own_gateway(spec) else FILE_READS_S,
            cross_s=CROSS_S if is_group(plan) else None,
            lead_s=lead_s,
            scale=spec.scale,
        )

    def _lead_s(self, room: SchedulerSpec) -> float:
        """What a successor needs: the queue, its start twice over, and the drain of who leaves."""
        predicted = self._fleet.start_s(self._state)
        start_s = max(self._state.start_s, predicted)
        return self._queue_s + 2 * start_s + room.drain_s

    def _do(self, effect: Effect) -> None:
        match effect:
            case Start(job=job, revision=revision, after=after):
                self._stages.began(job, self._files.log(job))
                if job == GATEWAY and not self._files.targets.exists():
                    self._publish((), self._state.revision or self._state.trial)
                self._fleet.start(job, revision, after)
            case Signal(job=job, kill=kill):
                self._fleet.cancel(job, kill=kill)
            case Probe(job=job, completion=completion):
                self._probe(job, completion)
            case Cross(job=job):
                self._cross(job)
            case ProbeEndpoint():
                self._probe_endpoint()
            case Publish(engines=engines, revision=revision):
                self._publish(engines, revision)
            case Failure(job=job, revision=revision, why=why):
                lines = telling(self._fleet.said(job))
                self._store.add_failure(self._name, revision, job, why, lines)
            case Refuse(revision=revision, why=why):
                back = self._state.revision
                self._store.refuse_revision(self._name, revision, back, why)
            case Note(text=text):
                self._store.add_event(self._name, text)
            case Finish():
                self._fleet.sweep()

    def _probe(self, name: str, completion: bool) -> None:
        unit = self._fleet.seen.get(name)
        if name == GATEWAY:
            self._probes.start(name, lambda: probes.health(self._url))
            return
        if unit is None or not unit.url:
            return  # it runs, and has not said where yet
        url = unit.url
        plan = self._fleet.plan_of(name, self._state)
        if not completion:
            path = health_path(plan)
            self._probes.start(name, lambda: probes.health(url, path))
            return
        key, model = self._files.engine_key.read_text(), plan.served_name
        self._probes.start(name, lambda: probes.completion(url, model, key))

    def _cross(self, name: str) -> None:
        unit = self._fleet.seen.get(name)
        if unit is None or not unit.url:
            return
        url, wait_s = unit.url, probes.CROSS_TIMEOUT_S
        key = self._files.engine_key.read_text()
        model = self._fleet.plan_of(name, self._state).served_name
        self._probes.start(
            _crossing(name),
            lambda: probes.completion(url, model, key, timeout_s=wait_s),
        )

    def _probe_endpoint(self) -> None:
        state = self._state
        plan = self._fleet.plan(state.published_revision or state.trial)
        key = self._files.own_key.read_text() if plan.spec.endpoint.has_keys else None
        expected = state.published or ()
        self._probes.start(
            "endpoint",
            lambda: probes.completion(self._url, plan.served_name, key, expected),
        )

    def _publish(self, engines: tuple[str, ...], revision: int) -> None:
        plan = self._fleet.plan(revision)
        table = targets.table_for(
            plan,
            self._fleet.reached(engines),
            revision=targets.revision_at(self._files.targets) + 1,
            key_file=self._fleet.key_file(),
            keys=targets.keys_for(plan.spec.endpoint, self._files.own_key.read_text()),
            created=self._fleet.created(revision),
        )
        self._fleet.publish(table)
        targets.write_table(self._files.targets, table)

    def _ask_for_numbers(self, spec: DeploymentSpec) -> None:
        """Open requests while somebody drains; waiting ones where they decide how many replicas there are."""
        if any(job.status == "draining" for job in self._state.jobs):
            key = self._files.own_key.read_text() if spec.endpoint.has_keys else None
            self._probes.start("open", lambda: self._count_open(key))
        else:
            self._open = None
        if far := self._stages.far(self._state):
            self._probes.start("stage", lambda: self._ask_stage(far))
        if spec.scale:
            names = {GATEWAY}
            urls = [
                u.url for n, u in self._fleet.seen.items() if u.url and n not in names
            ]
            metric = self._fleet.waiting_metric(self._state)
            self._probes.start("waiting", lambda: self._count_waiting(urls, metric))
        else:
            self._waiting = None

    def _ask_stage(self, job: JobState) -> str:
        self._stages.ask(job, self._fleet)
        return ""

    def _count_open(self, key: str | None) -> str:
        self._open, error = probes.open_requests(self._url, key)
        return error

    def _count_waiting(self, urls: list[str], metric: str | None) -> str:
        time.sleep(1.0)  # in a thread of its own: once a second is enough
        key = self._files.engine_key.read_text()
        self._waiting = probes.waiting_requests(urls, metric, key)
        return ""

    def _save(self, row: dict[str, Any], state: State) -> None:
        stage = self._fleet.silence or self._stages.text(state, self._fleet)
        if state.revision != self._state.revision:
            self._store.revision_serves(self._name, state.revision)
        if state == self._state and stage == row["stage"]:
            return
        self._state = state
        self._store.update(
            self._name,
            state=state.model_dump_json(),
            phase=state.phase,
            stage=stage,
        )

    def _chores(self) -> None:
        """Keys that were added or removed hold from now on; logs do not grow for ever."""
        if not 0 <= time.time() - self._chores_at < CHORES_S:
            self._chores_at = time.time()
            for path in self._files.directory.glob("*.log"):
                if not path.name.endswith(".old.log"):
                    rotate(path, LOG_LIMIT)
            self._ask_the_queue()
        self._follow_keys()

    def _ask_the_queue(self) -> None:
        """How long a successor would have to wait, as the scheduler sees it now."""
        revision = self._state.revision
        if not revision or self._state.phase not in (Phase.ready, Phase.degraded):
            return
        if not _scheduler(self._fleet.plan(revision).spec):
            return
        if 0 <= time.time() - self._queue_asked_at < QUEUE_S:
            return
        self._queue_asked_at = time.time()
        try:
            starts_at = self._fleet.room(revision, self._state).starts_at
        except LemnosError as error:
            self._store.add_event(self._name, f"the queue could not be asked: {error}")
            return
        if starts_at is not None:
            self._queue_s = max(0.0, starts_at - time.time())

    def _follow_keys(self) -> None:
        plan = self._fleet.plan(self._state.revision or self._state.trial or 1)
        seen = targets.stamp_of(plan.spec.endpoint)
        if self._keys_seen is None:
            self._keys_seen = seen
        if seen == self._keys_seen or not self._files.targets.exists():
            return
        self._keys_seen = seen
        try:
            revision = self._state.published_revision
            self._publish(self._state.published or (), revision)
        except LemnosError as error:  # somebody edits it: the keys of before hold
            self._store.add_event(self._name, f"keys: {error}")


def _tell(error: Exception) -> None:
    """To the supervisor's log: a sentence, or for what nobody expected all that is known."""
    if isinstance(error, LemnosError):
        sys.stderr.write(f"error: {error}\n")
    else:
        traceback.print_exception(error)
    sys.stderr.flush()


def _crossing(name: str) -> str:
    """The name of a replica's probe by completions, which runs beside that of its health."""
    return f"{name} completion"


def _scheduler(spec: DeploymentSpec) -> SchedulerSpec | None:
    """The settings of the scheduler that runs the deployment, if one does."""
    rooms: dict[str, SchedulerSpec] = {"slurm": spec.slurm, "pbs": spec.pbs}
    return rooms.get(spec.on)


__all__ = ["Supervisor", "supervise"]
