"""The lifecycle's decisions, and its invariants under any sequence of events."""

from __future__ import annotations

from lemnos.deployments import jobs
from lemnos.deployments.state import (
    GATEWAY,
    Cross,
    Probe,
    Signal,
    Start,
)
from lemnos.spec.status import Phase
from tests.unit.deployments.world import RESTART, RULES, World, ready_world


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
    later = world.tick(jobs.HEALTH_INTERVAL_S + 1)
    assert Probe(job="engine-0", completion=False) in later


def test_not_ready_until_a_completion_came_through_the_endpoint() -> None:
    world = World()
    world.endpoint_works = False
    for _ in range(20):
        world.tick()
    assert world.state.phase == Phase.routing
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
        world.tick(jobs.HEALTH_INTERVAL_S)
    world.end("engine-0")
    world.tick()
    assert world.job("engine-0").failures == 1


def test_an_engine_that_stops_answering_is_killed_and_brought_back() -> None:
    world = ready_world()
    world.ignores_signals.add("engine-0")
    world.works["engine-0"] = False
    while world.state.phase == Phase.ready:
        world.tick(jobs.HEALTH_INTERVAL_S)
    assert world.state.why == "engine-0 does not answer (no answer)"
    assert world.published == ()
    world.works["engine-0"] = True
    world.until(Phase.ready)
    assert world.state.restarts == 1


def test_one_missed_probe_is_forgiven() -> None:
    world = ready_world()
    for works in (False, True, False, True, False, True):
        world.works["engine-0"] = works
        world.tick(jobs.HEALTH_INTERVAL_S)
    assert world.state.phase == Phase.ready


def ready_group() -> World:
    """A replica of several roles that serves."""
    world = World(rules=RULES.model_copy(update={"cross_s": jobs.CROSS_S}))
    world.until(Phase.ready)
    return world


def crossings(world: World, seconds: float) -> list[float]:
    """When completions were asked for, in so many seconds of ticks."""
    asked = []
    for _ in range(int(seconds)):
        if Cross(job="engine-0") in world.tick():
            asked.append(world.now)
    return asked


def test_a_group_that_serves_is_asked_for_completions_and_others_are_not() -> None:
    asked = crossings(ready_group(), 4 * jobs.CROSS_S + 1)
    assert len(asked) == 4
    assert crossings(ready_world(), 4 * jobs.CROSS_S) == []


def test_a_group_through_which_nothing_passes_is_brought_back() -> None:
    """All of its parts are well, each for itself."""
    world = ready_group()
    world.crosses = False
    first, second, *_ = crossings(world, jobs.CROSS_S + jobs.HEALTH_INTERVAL_S + 3)
    assert second - first <= jobs.HEALTH_INTERVAL_S + 1, "sooner, once one failed"
    for _ in range(int(jobs.MISSED_PROBES * jobs.HEALTH_INTERVAL_S)):
        world.tick()
        if not world.published:
            break
    assert world.published == ()
    assert world.state.why == "engine-0 answers no completion (no answer)"
    world.crosses = True
    world.until(Phase.ready)
    assert world.state.restarts == 1


def test_one_completion_that_a_group_did_not_answer_is_forgiven() -> None:
    world = ready_group()
    for crosses in (False, True) * 4:
        world.crosses = crosses
        while Cross(job="engine-0") not in world.tick():
            pass
    assert world.state.phase == Phase.ready and not world.state.restarts


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
    for _ in range(int(jobs.GATEWAY_GRACE_S) - 2):
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
    for _ in range(int(jobs.ENGINE_GRACE_S) + 5):
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
    world.tick(effects_done=2)  # killed after the starts, before the state was saved
    assert set(world.alive) == {GATEWAY, "engine-0"}
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
    assert [jobs.backoff_s(n, RESTART) for n in (1, 2, 3, 4, 5, 99)] == [
        1,
        2,
        4,
        8,
        8,
        8,
    ]
