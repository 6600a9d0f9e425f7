"""The units of a deployment, over its revisions: each asked through the launcher of its own plan."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

from lemnos.deployments.files import Files
from lemnos.deployments.state import GATEWAY, Rollout, State
from lemnos.deployments.units import (
    gateway_launcher,
    gateway_unit,
    launcher_of,
    unit_of,
)
from lemnos.engines.base import engine_named
from lemnos.errors import LemnosError
from lemnos.hardware.host import probe_host
from lemnos.launchers.base import GatewayRoom, Launcher
from lemnos.launchers.processes import Processes
from lemnos.launchers.shape import shape_of
from lemnos.records.store import Store
from lemnos.spec.plan import Plan
from lemnos.spec.targets import TargetTable
from lemnos.spec.unit import Room, Unit, UnitStatus


class Fleet:
    """What runs, by name, and the doing of what was decided."""

    def __init__(self, name: str, store: Store, files: Files, url: str) -> None:
        self._name, self._store, self._files, self._url = name, store, files, url
        self._plans: dict[int, tuple[Plan, float]] = {}
        self._launchers: dict[int, Launcher] = {}
        self._gateway: Launcher | None = None
        self._refused: dict[str, str] = {}
        self._rollouts: dict[int, Rollout] = {}
        self._silent: dict[Launcher, str] = {}
        self._revisions: dict[str, int] = {}
        self.seen: dict[str, UnitStatus] = {}
        """As the last look found them."""

    def plan(self, revision: int) -> Plan:
        """A revision's plan. Raises LemnosError where there is none."""
        return self._kept(revision)[0]

    def reach(self, revision: int) -> None:
        """Read a revision's plan, and reach its machine room. Raises LemnosError."""
        try:
            self.plan(revision)
        except LemnosError as error:
            raise LemnosError(
                f"{error.what} (its supervisor was started by another version)",
                fix="lemnos down, then up",
            ) from None
        self._launcher(revision)

    def created(self, revision: int) -> int:
        """Epoch seconds."""
        return int(self._kept(revision)[1])

    def plan_of(self, name: str, state: State) -> Plan:
        """The plan that the replica runs."""
        return self.plan(_revision_of(name, state))

    def look(self, state: State) -> None:
        """Ask every launcher what there is. One that does not answer leaves what was seen last:
        nothing has ended because nobody can be asked."""
        revisions = {job.name: job.revision for job in state.jobs}
        self._revisions = revisions
        current = state.revision or state.trial
        asked = {each for each in revisions.values() if each} | ({current} - {0})
        gateway = self._gateway_launcher(current) if current else None
        found: dict[str, UnitStatus] = {}
        for revision in sorted(asked):
            launcher = self._launcher(revision)
            told = self._asked(launcher)
            if told is None:
                told = {n: u for n, u in self.seen.items() if n in revisions}
            for name, unit in told.items():
                own = revisions.get(name, revision) == revision and name != GATEWAY
                if own or (name == GATEWAY and launcher is gateway):
                    found[name] = unit
        if gateway and gateway not in map(self._launcher, asked):
            told = self._asked(gateway)
            unit_seen = (self.seen if told is None else told).get(GATEWAY)
            if unit_seen:
                found[GATEWAY] = unit_seen
        asked_now = {gateway, *map(self._launcher, asked)}
        self._silent = {k: v for k, v in self._silent.items() if k in asked_now}
        for name, why in self._refused.items():
            if name not in found or not found[name].alive:
                found[name] = UnitStatus(state="ended", why=why)
        self.seen = found

    @property
    def silence(self) -> str:
        """Which launcher could not be asked now, and why; empty where all could."""
        return next(iter(self._silent.values()), "")

    def start(self, name: str, revision: int, after: str) -> None:
        """Start a unit. What cannot be started is seen as ended, and why."""
        self._refused.pop(name, None)
        try:
            if name == GATEWAY:
                current = revision or max(self._plans)
                unit = gateway_unit(self.plan(current), self._url, self._files)
                self._gateway_launcher(current).submit(unit)
            else:
                self._submit(name, revision, after)
            # Until its launcher tells of it: one that cannot be asked now has not lost it.
            self.seen[name] = UnitStatus(state="queued", why="was submitted just now")
        except LemnosError as error:
            self._refused[name] = f"cannot be started: {error}"
        except (
            Exception
        ) as error:  # a mistake of ours: said, and not made over and over
            self._refused[name] = f"cannot be started: {type(error).__name__}: {error}"
            traceback.print_exception(error)

    def cancel(self, name: str, *, kill: bool) -> None:
        """End a unit, wherever it is."""
        self._refused.pop(name, None)
        try:
            self._launcher_of(name).cancel(name, kill=kill)
        except LemnosError as error:
            self._store.add_event(self._name, f"{name} cannot be ended: {error}")

    def sweep(self) -> None:
        """Nothing is left of any revision."""
        for launcher in self._all():
            launcher.sweep()

    def said(self, name: str, lines: int = 200) -> list[str]:
        """The last lines of the unit's logs, the first job's last."""
        launcher = self._launcher_of(name)
        try:
            logs = launcher.logs(name)
            return [
                line for log in reversed(logs) for line in launcher.read(log, lines)
            ]
        except LemnosError:
            return []

    def publish(self, table: TargetTable) -> None:
        """Hand the table to a gateway that cannot read this machine's file."""
        if isinstance(self._gateway, GatewayRoom):
            self._gateway.publish(table.model_dump_json(indent=1))

    def reached(self, names: Sequence[str]) -> dict[str, str]:
        """name -> URL, as the gateway reaches those replicas that have said where they are."""
        seen = {n: self.seen[n] for n in names if n in self.seen}
        inner = isinstance(self._gateway, GatewayRoom)
        urls = {n: (u.inner_url if inner else u.url) for n, u in seen.items()}
        return {name: url for name, url in urls.items() if url}

    def key_file(self) -> str:
        """The engines' key, where the gateway reads it."""
        if isinstance(self._gateway, GatewayRoom):
            return self._gateway.key_file
        return str(self._files.engine_key)

    def rollout(self, revision: int, state: State) -> Rollout:
        """How the wanted revision would be started: beside the one that serves, where there is room."""
        if revision in (state.revision, state.trial) or not state.revision:
            return state.rollout
        if revision not in self._rollouts:
            self._rollouts[revision] = self._rollout(revision)
        return self._rollouts[revision]

    def room(self, revision: int, state: State) -> Room:
        """What the launcher says of one more replica. Raises LemnosError."""
        name = f"engine-{state.next_number}"
        return self._launcher(revision).room(self._unit(name, revision, "", dry=True))

    def start_s(self, state: State) -> float:
        """What starting a replica is predicted to take."""
        return shape_of(self.plan(state.revision or state.trial)).start_s

    def waiting_metric(self, state: State) -> str | None:
        """The engine's name for requests that wait."""
        engine = self.plan(state.revision or state.trial).engine
        return engine_named(engine).metrics.waiting

    def _rollout(self, revision: int) -> Rollout:
        plan = self.plan(revision)
        if plan.spec.rollout != "auto":
            return plan.spec.rollout
        launcher = self._launcher(revision)
        # A queue has room again when others' jobs end; a Ray cluster has what it has.
        if launcher.queues and plan.spec.on != "ray":
            return "side-by-side"
        if plan.embedded and not launcher.queues:
            enough = probe_host().free_bytes > plan.embedded.memory.total
            return "side-by-side" if enough else "stop-first"
        try:
            free = launcher.room(self._unit("engine-0", revision, "", dry=True)).free
        except LemnosError:
            free = False
        return "side-by-side" if free else "stop-first"

    def _submit(self, name: str, revision: int, after: str) -> None:
        launcher = self._launcher(revision)
        Processes(self._name).bury()  # before GPUs are chosen: it would hold some
        unit = self._unit(name, revision, after)
        try:
            launcher.submit(unit)
        except LemnosError:
            launcher.cancel(name, kill=True)
            raise

    def _unit(self, name: str, revision: int, after: str, *, dry: bool = False) -> Unit:
        plan, launcher = self.plan(revision), self._launcher(revision)
        place = launcher.place(plan, name, dry=dry)
        unit = unit_of(plan, name, revision, place, launcher.files(name))
        return unit.model_copy(update={"after": after})

    def _kept(self, revision: int) -> tuple[Plan, float]:
        if revision not in self._plans:
            self._plans[revision] = self._store.revision_plan(self._name, revision)
        return self._plans[revision]

    def _launcher(self, revision: int) -> Launcher:
        if revision not in self._launchers:
            self._launchers[revision] = launcher_of(self.plan(revision))
        return self._launchers[revision]

    def _gateway_launcher(self, revision: int) -> Launcher:
        if self._gateway is None:
            plan = self.plan(revision)
            made = gateway_launcher(plan)
            same = plan.spec.on == made.name
            self._gateway = self._launcher(revision) if same else made
        return self._gateway

    def _launcher_of(self, name: str) -> Launcher:
        if name == GATEWAY and self._gateway:
            return self._gateway
        revision = self._revisions.get(name) or max(self._launchers)
        return self._launcher(revision)

    def _all(self) -> list[Launcher]:
        extra = [self._gateway] if self._gateway else []
        return [*extra, *self._launchers.values()]

    def _asked(self, launcher: Launcher) -> dict[str, UnitStatus] | None:
        """What a launcher tells; None while it cannot. Said once, and once more when it can again."""
        try:
            told = launcher.status()
        except LemnosError as error:
            if launcher not in self._silent:
                self._store.add_event(
                    self._name, f"{launcher.name} cannot be asked: {error}"
                )
            self._silent[launcher] = f"{launcher.name} cannot be asked: {error.what}"
            return None
        if self._silent.pop(launcher, ""):
            self._store.add_event(self._name, f"{launcher.name} can be asked again")
        return told


def _revision_of(name: str, state: State) -> int:
    return next((j.revision for j in state.jobs if j.name == name), state.revision)


def clock(at: float) -> str:
    """An epoch second as people read it: ``14:20``, ``Mon 14:20`` on another day."""
    when, today = time.localtime(at), time.localtime()
    same = when[:3] == today[:3]
    return time.strftime("%H:%M" if same else "%a %H:%M", when)
