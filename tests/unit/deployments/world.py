"""Jobs that do what the lifecycle's effects say; a test breaks them at will."""

from __future__ import annotations

from typing import Any

from lemnos.deployments import lifecycle as life
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
from lemnos.spec.deployment import RestartSpec
from lemnos.spec.status import Phase
from lemnos.spec.unit import UnitStatus

RESTART = RestartSpec(backoff_s=1, max_backoff_s=8, steady_s=100)
RULES = Rules(restart=RESTART, ready_timeout_s=60, drain_s=20)


class World:
    """A machine room without a machine. Time goes by in ticks."""

    def __init__(self, engines: int = 1, rules: Rules = RULES) -> None:
        self.now = 1000.0
        self.rules = rules
        self.state: State = life.begin(1, engines, self.now)
        self.revision = 1
        self.replicas = {1: engines}
        self.rollout = "side-by-side"
        self.alive: dict[str, int] = {}
        """Name -> the revision that it was started as."""
        self.units: dict[str, dict[str, Any]] = {}
        """Name -> more of its UnitStatus."""
        self.walltime: float | None = None
        self.ended: dict[str, str] = {}
        self.works: dict[str, bool] = {}
        self.broken_revisions: set[int] = set()
        """Those whose replicas end at once."""
        self.endpoint_works = True
        self.ignores_signals: set[str] = set()
        self.wanted = "running"
        self.restarts_wanted = 0
        self.open: dict[str, int] | None = {}
        self.waiting: float | None = None
        self.published: tuple[str, ...] = ()
        self.published_revision = 0
        self.finished: Phase | None = None
        self.answers: dict[str, bool] = {}
        self.crosses = True
        """Whether a completion crosses all roles of a replica."""
        self.crossed: dict[str, bool] = {}
        self.starts: list[tuple[float, str]] = []
        self.notes: list[str] = []
        self.failures: list[Failure] = []
        self.refused: list[int] = []

    def seen(self) -> Observed:
        """What the supervisor would observe now."""
        jobs = {}
        for name in {*self.alive, *self.ended}:
            if name in self.alive:
                unit = {"state": "running", **self.units.get(name, {})}
            else:
                unit = {"state": "ended", "why": self.ended[name]}
            jobs[name] = JobSeen(
                unit=UnitStatus(**unit),
                probe=self.answers.pop(name, None),
                crossed=self.crossed.pop(name, None),
            )
        return Observed.model_validate(
            {
                "now": self.now,
                "wanted": self.wanted,
                "revision": self.revision,
                "replicas": self.replicas,
                "rollout": self.rollout,
                "restarts_wanted": self.restarts_wanted,
                "jobs": jobs,
                "open": self.open,
                "waiting": self.waiting,
                "endpoint": self.answers.pop("endpoint", None),
            }
        )

    def tick(
        self, seconds: float = 1.0, effects_done: int | None = None
    ) -> list[Effect]:
        """One tick after ``seconds``; with ``effects_done`` the supervisor is killed after so many."""
        self.now += seconds
        for name, unit in self.units.items():
            if name in self.alive and unit.get("ends_at", self.now + 1) <= self.now:
                self.end(name, "reached its time limit")
        state, effects = life.tick(self.state, self.seen(), self.rules)
        for effect in effects[:effects_done]:
            self.apply(effect)
        if effects_done is None:
            self.state = state
        else:
            self.state = life.resume(self.state)
            self.answers.clear()
        return effects

    def apply(self, effect: Effect) -> None:
        """Do it."""
        match effect:
            case Start(job=job, revision=revision):
                assert job not in self.alive, "a job that runs was started again"
                self.starts.append((self.now, job))
                if revision in self.broken_revisions:
                    self.ended[job] = "ended with exit code 1"
                    return
                self.alive[job] = revision
                self.ended.pop(job, None)
                if self.walltime and job != GATEWAY:
                    self.units[job] = {"ends_at": self.now + self.walltime}
            case Signal(job=job, kill=kill):
                if job in self.alive and (kill or job not in self.ignores_signals):
                    self.end(job, "was killed" if kill else "ended")
            case Probe(job=job):
                assert job in self.alive, "a job that does not run was probed"
                self.answers[job] = self.works.get(job, True)
            case Cross(job=job):
                assert job in self.alive, "a job that does not run was asked"
                self.crossed[job] = self.crosses
            case ProbeEndpoint():
                works = GATEWAY in self.alive and bool(self.published)
                self.answers["endpoint"] = works and self.endpoint_works
            case Publish(engines=engines, revision=revision):
                self.published, self.published_revision = engines, revision
            case Note(text=text):
                self.notes.append(text)
            case Failure():
                self.failures.append(effect)
            case Refuse(revision=revision):
                self.refused.append(revision)
                self.revision = self.state.revision
            case Finish(phase=phase):
                self.finished = phase

    def end(self, job: str, how: str = "was killed by SIGKILL") -> None:
        """It is gone."""
        self.alive.pop(job, None)
        self.ended[job] = how

    def wants(self, revision: int, replicas: int = 1) -> None:
        """Somebody wants another revision."""
        self.revision = revision
        self.replicas[revision] = replicas

    def until(self, phase: Phase, ticks: int = 200) -> None:
        """Tick until the deployment is in ``phase``."""
        for _ in range(ticks):
            if self.state.phase == phase:
                return
            self.tick()
        raise AssertionError(f"still {self.state.phase}, not {phase}")

    def settle(self, ticks: int = 60) -> None:
        """Tick for so long that whatever was to happen has."""
        for _ in range(ticks):
            self.tick()

    def job(self, name: str) -> JobState:
        return next(job for job in self.state.jobs if job.name == name)

    @property
    def engines(self) -> dict[str, int]:
        """The replicas that run, with the revision of each."""
        return {
            name: revision for name, revision in self.alive.items() if name != GATEWAY
        }


def ready_world(engines: int = 1, rules: Rules = RULES) -> World:
    """A world whose first revision serves."""
    world = World(engines, rules)
    world.until(Phase.ready)
    return world
