"""The lifecycle's decisions, and its invariants under any sequence of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.deployments import lifecycle as life
from lemnos.deployments.lifecycle import (
    GATEWAY,
    Finish,
    JobSeen,
    Note,
    Observed,
    Probe,
    ProbeEndpoint,
    Publish,
    Signal,
    Start,
)
from lemnos.spec.deployment import RestartSpec
from lemnos.spec.status import Phase

RESTART = RestartSpec(backoff_s=1, max_backoff_s=8, steady_s=100)
TIMEOUT = 60.0


class World:
    """Jobs that do what the effects say; a test breaks them at will."""

    def __init__(self, engines: int = 1) -> None:
        self.now = 1000.0
        self.state = life.begin(engines, self.now)
        self.alive: set[str] = set()
        self.ended: dict[str, str] = {}
        self.works: dict[str, bool] = {}
        self.endpoint_works = True
        self.ignores_signals: set[str] = set()
        self.wanted = "running"
        self.restarts_wanted = 0
        self.published: tuple[str, ...] = ()
        self.finished: Phase | None = None
        self.answers: dict[str, bool] = {}
        self.starts: list[tuple[float, str]] = []
        self.notes: list[str] = []

    def tick(self, seconds: float = 1.0) -> list[life.Effect]:
        self.now += seconds
        endpoint = self.answers.pop("endpoint", None)
        jobs = {
            job.name: JobSeen(
                alive=job.name in self.alive,
                ended=self.ended.get(job.name, ""),
                probe=self.answers.pop(job.name, None),
            )
            for job in self.state.jobs
        }
        seen = Observed.model_validate(
            {
                "now": self.now,
                "wanted": self.wanted,
                "restarts_wanted": self.restarts_wanted,
                "jobs": jobs,
                "endpoint": endpoint,
            }
        )
        self.state, effects = life.tick(self.state, seen, RESTART, TIMEOUT)
        for effect in effects:
            self.apply(effect)
        return effects

    def apply(self, effect: life.Effect) -> None:
        match effect:
            case Start(job=job):
                assert job not in self.alive, "a job that runs was started again"
                self.alive.add(job)
                self.starts.append((self.now, job))
            case Signal(job=job, kill=kill):
                if kill or job not in self.ignores_signals:
                    self.alive.discard(job)
                    self.ended[job] = "was killed" if kill else "ended"
            case Probe(job=job):
                assert job in self.alive, "a job that does not run was probed"
                self.answers[job] = self.works.get(job, True)
            case ProbeEndpoint():
                gateway = GATEWAY in self.alive
                works = gateway and bool(self.published) and self.endpoint_works
                self.answers["endpoint"] = works
            case Publish(engines=engines):
                self.published = engines
            case Note(text=text):
                self.notes.append(text)
            case Finish(phase=phase):
                self.finished = phase

    def end(self, job: str, how: str = "was killed by SIGKILL") -> None:
        self.alive.discard(job)
        self.ended[job] = how

    def until(self, phase: Phase, ticks: int = 200) -> None:
        for _ in range(ticks):
            if self.state.phase == phase:
                return
            self.tick()
        raise AssertionError(f"still {self.state.phase}, not {phase}")

    def job(self, name: str) -> life.JobState:
        return next(job for job in self.state.jobs if job.name == name)


def ready_world(engines: int = 1) -> World:
    world = World(engines)
    world.until(Phase.ready)
    return world


def test_gateway_and_engine_start_together_and_become_ready() -> None:
    world = World()
    first = world.tick()
    assert [e.job for e in first if isinstance(e, Start)] == [GATEWAY, "engine-0"]
    world.until(Phase.ready)
    assert world.published == ("engine-0",)
    assert world.state.ready_at == world.now


def test_an_engine_is_ready_by_a_completion_and_later_probed_by_health() -> None:
    world = World()
    world.tick()
    probes = [e for e in world.tick() if isinstance(e, Probe)]
    assert Probe(job="engine-0", completion=True) in probes
    assert Probe(job=GATEWAY, completion=False) in probes
    world.until(Phase.ready)
    later = world.tick(life.HEALTH_INTERVAL_S + 1)
    assert Probe(job="engine-0", completion=False) in later


def test_not_ready_until_a_completion_came_through_the_endpoint() -> None:
    world = World()
    world.endpoint_works = False
    for _ in range(20):
        world.tick()
    assert world.state.phase == Phase.launching
    assert world.job("engine-0").status == "ready"
    world.endpoint_works = True
    world.until(Phase.ready)


def test_an_engine_that_ends_before_it_was_ever_ready_fails_the_start() -> None:
    world = World()
    world.works["engine-0"] = False
    world.tick()
    world.tick()
    world.end("engine-0", "ended with exit code 1")
    world.until(Phase.failed)
    assert world.state.why == "engine-0 ended with exit code 1"
    world.tick()
    assert world.finished == Phase.failed
    assert not world.alive
    assert len(world.starts) == 2


def test_a_start_that_takes_too_long_fails() -> None:
    world = World()
    world.works["engine-0"] = False
    world.until(Phase.failed)
    assert "not ready after 60 s" in world.state.why


def test_an_endpoint_that_never_answers_fails_the_start() -> None:
    world = World()
    world.endpoint_works = False
    world.until(Phase.failed)
    assert "not ready after 60 s" in world.state.why


def test_a_killed_engine_comes_back_after_growing_waits() -> None:
    world = ready_world()
    waits = []
    for _ in range(6):
        died = world.now
        world.end("engine-0")
        world.tick(0.01)
        assert world.published == ()
        assert world.state.phase == Phase.degraded
        world.until(Phase.ready)
        waits.append(world.starts[-1][0] - died)
    assert world.state.restarts == 6
    assert world.state.why == "engine-0 was killed by SIGKILL"
    assert waits[0] < waits[1] < waits[2] < waits[3]
    assert max(waits) <= RESTART.max_backoff_s + 2
    assert any("restart in 4 s" in note for note in world.notes)


def test_a_steady_time_begins_the_backoff_anew() -> None:
    world = ready_world()
    for _ in range(3):
        world.end("engine-0")
        world.tick()
        world.until(Phase.ready)
    assert world.job("engine-0").failures == 3
    for _ in range(20):
        world.tick(life.HEALTH_INTERVAL_S)
    world.end("engine-0")
    world.tick()
    assert world.job("engine-0").failures == 1


def test_an_engine_that_stops_answering_is_killed_and_brought_back() -> None:
    world = ready_world()
    world.ignores_signals.add("engine-0")
    world.works["engine-0"] = False
    while world.state.phase == Phase.ready:
        world.tick(life.HEALTH_INTERVAL_S)
    assert world.state.why == "engine-0 does not answer (no answer)"
    assert world.published == ()
    world.works["engine-0"] = True
    world.until(Phase.ready)
    assert world.state.restarts == 1


def test_one_missed_probe_is_forgiven() -> None:
    world = ready_world()
    for works in (False, True, False, True, False, True):
        world.works["engine-0"] = works
        world.tick(life.HEALTH_INTERVAL_S)
    assert world.state.phase == Phase.ready


def test_a_gateway_that_ends_comes_back_and_the_engine_stays() -> None:
    world = ready_world()
    world.end(GATEWAY)
    world.tick(0.01)
    assert world.state.phase == Phase.degraded
    assert "engine-0" in world.alive
    world.until(Phase.ready)
    assert [job for _, job in world.starts] == [GATEWAY, "engine-0", GATEWAY]


def test_with_two_replicas_the_other_one_keeps_serving() -> None:
    world = ready_world(engines=2)
    world.end("engine-1")
    world.tick(0.01)
    assert world.published == ("engine-0",)
    assert world.state.endpoint_ok
    world.until(Phase.ready)
    assert list(world.published) == ["engine-0", "engine-1"]


def test_down_ends_the_gateway_before_the_engines() -> None:
    world = ready_world()
    world.wanted = "stopped"
    world.ignores_signals.add(GATEWAY)
    assert [e for e in world.tick() if isinstance(e, Signal)] == [Signal(job=GATEWAY)]
    for _ in range(int(life.GATEWAY_GRACE_S) - 2):
        assert not [e for e in world.tick() if isinstance(e, Signal)]
    assert "engine-0" in world.alive
    for _ in range(6):
        world.tick()
    assert world.finished == Phase.stopped
    assert not world.alive


def test_an_engine_that_ignores_sigterm_is_killed() -> None:
    world = ready_world()
    world.ignores_signals.add("engine-0")
    world.wanted = "stopped"
    for _ in range(int(life.ENGINE_GRACE_S) + 5):
        world.tick()
    assert world.finished == Phase.stopped


def test_a_restart_that_was_asked_for_counts_as_no_failure() -> None:
    world = ready_world()
    world.restarts_wanted = 1
    world.tick()
    assert world.state.phase == Phase.degraded
    world.until(Phase.ready)
    assert world.state.restarts == 0
    assert world.job("engine-0").failures == 0
    assert [job for _, job in world.starts].count("engine-0") == 2


def test_a_restart_ends_a_long_wait() -> None:
    world = ready_world()
    for _ in range(5):
        world.end("engine-0")
        world.until(Phase.degraded)
        while world.job("engine-0").status == "waiting":
            world.tick()
        world.tick(0.01)
    world.end("engine-0")
    world.tick(0.01)
    assert world.job("engine-0").status == "waiting"
    world.restarts_wanted = 1
    world.tick(0.01)
    assert world.job("engine-0").status == "starting"


def test_a_supervisor_that_starts_again_adopts_what_runs() -> None:
    world = World()
    before = world.state
    world.tick()
    world.state = life.resume(
        before
    )  # killed after the starts, before the state was saved
    effects = world.tick()
    assert not [e for e in effects if isinstance(e, Start)]
    world.until(Phase.ready)


def test_a_clock_that_was_set_back_does_not_hold_up_a_restart() -> None:
    world = ready_world()
    world.end("engine-0")
    world.tick(0.01)
    world.now -= 10_000
    world.until(Phase.ready, ticks=10)


def test_backoff_doubles_up_to_its_limit() -> None:
    assert [life.backoff_s(n, RESTART) for n in (1, 2, 3, 4, 5, 99)] == [
        1,
        2,
        4,
        8,
        8,
        8,
    ]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["none", "kill", "break", "mend", "restart", "stop", "crash", "clock"]
        ),
        st.integers(0, 2),
        st.sampled_from([0.01, 0.5, 3.0, 30.0]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.integers(1, 2))
def test_invariants(events: list[tuple[str, int, float]], engines: int) -> None:
    world = World(engines)
    for what, which, seconds in events:
        name = world.state.jobs[which % len(world.state.jobs)].name
        saved = world.state
        match what:
            case "kill":
                world.end(name)
            case "break":
                world.works[name] = False
                world.ignores_signals.add(name)
            case "mend":
                world.works.clear()
            case "restart":
                world.restarts_wanted += 1
            case "stop":
                world.wanted = "stopped"
            case "clock":
                world.now -= 100
        world.tick(seconds)
        if what == "crash" and world.finished is None:
            world.state = life.resume(saved)
        serving = {j.name for j in world.state.jobs if j.status == "ready"}
        if what != "crash" and world.state.phase in (Phase.ready, Phase.degraded):
            assert set(world.published) <= serving, "routed to one not ready"
        if world.finished:
            assert not world.alive
            return
    world.wanted = "stopped"
    for _ in range(200):
        world.tick()
        if world.finished:
            break
    assert world.finished in (Phase.stopped, Phase.failed)
    assert not world.alive, "something is left running"
