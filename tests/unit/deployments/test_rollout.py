"""Revisions, successors, numbers: what serves while things change, and after a crash at any effect."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.deployments import rollout
from lemnos.deployments.state import GATEWAY, Rules, Start
from lemnos.spec.rooms import ScaleSpec
from lemnos.spec.status import Phase
from tests.unit.deployments.world import RESTART, RULES, World, ready_world


def test_a_new_revision_starts_beside_the_old_one_and_takes_over_when_it_works() -> (
    None
):
    world = ready_world()
    world.works["engine-1"] = False
    world.wants(2)
    world.settle(10)
    assert world.engines == {"engine-0": 1, "engine-1": 2}
    assert world.published == ("engine-0",) and world.state.phase == Phase.ready
    world.works["engine-1"] = True
    world.open = {"engine-0": 1}
    world.settle(6)
    assert (world.published, world.published_revision) == (("engine-1",), 2)
    assert world.state.revision == 2 and not world.state.trial
    assert "engine-0" in world.alive, "it has a request to finish"
    world.open = {}
    world.settle(5)
    assert world.engines == {"engine-1": 2}
    assert [job.name for job in world.state.jobs] == [GATEWAY, "engine-1"]
    assert world.state.phase == Phase.ready and world.state.restarts == 0


def test_the_old_revision_is_routed_to_until_every_new_replica_works() -> None:
    world = ready_world(engines=2)
    world.works["engine-3"] = False
    world.wants(2, replicas=2)
    world.settle(10)
    assert set(world.engines) == {"engine-0", "engine-1", "engine-2", "engine-3"}
    assert world.published == ("engine-0", "engine-1")
    world.works["engine-3"] = True
    world.settle(10)
    assert world.published == ("engine-2", "engine-3")
    assert set(world.engines) == {"engine-2", "engine-3"}


def test_a_revision_that_fails_leaves_the_old_one_serving_and_is_not_tried_again() -> (
    None
):
    world = ready_world()
    world.broken_revisions.add(2)
    world.wants(2)
    published = set()
    for _ in range(30):
        world.tick()
        published.add(world.published)
    assert published == {("engine-0",)}
    assert world.refused == [2] and world.revision == 1
    assert world.state.why == "revision 2: engine-1 ended with exit code 1"
    assert [(f.job, f.revision) for f in world.failures] == [("engine-1", 2)]
    assert world.engines == {"engine-0": 1} and world.state.phase == Phase.ready
    world.wants(3)
    world.settle(20)
    assert world.state.revision == 3, "another one is tried"


def test_a_revision_through_which_no_completion_comes_is_taken_back() -> None:
    world = ready_world()
    world.endpoint_works = False
    world.wants(2)
    world.settle(10)
    assert world.published_revision == 2 and "engine-0" in world.alive
    for _ in range(int(rollout.ROUTE_TIMEOUT_S) + 5):
        world.tick()
    assert world.refused == [2] and world.published == ("engine-0",)
    world.endpoint_works = True
    world.settle(5)
    assert world.state.phase == Phase.ready and world.engines == {"engine-0": 1}


def test_where_there_is_no_room_for_both_the_old_one_stops_first_and_comes_back_on_failure() -> (
    None
):
    world = ready_world()
    world.rollout = "stop-first"
    world.broken_revisions.add(2)
    world.wants(2)
    world.tick()
    assert not world.published
    for _ in range(60):
        world.tick()
        assert len(world.engines) <= 1, "both at once, without room for both"
    assert world.refused == [2]
    assert set(world.engines.values()) == {1} and world.state.phase == Phase.ready
    assert world.published == ("engine-2",)


def test_a_trial_that_is_not_wanted_any_more_is_given_up() -> None:
    world = ready_world()
    world.works["engine-1"] = False
    world.wants(2)
    world.settle(5)
    world.wants(1)
    world.settle(5)
    assert world.engines == {"engine-0": 1} and not world.state.trial
    assert world.state.phase == Phase.ready and not world.failures


def test_a_trial_gives_way_to_a_newer_revision() -> None:
    world = ready_world()
    world.works["engine-1"] = False
    world.wants(2)
    world.settle(5)
    world.wants(3)
    world.settle(20)
    assert world.state.revision == 3 and set(world.engines.values()) == {3}


def test_more_replicas_and_fewer() -> None:
    world = ready_world()
    world.replicas[1] = 3
    world.settle(10)
    assert list(world.published) == ["engine-0", "engine-1", "engine-2"]
    assert world.state.phase == Phase.ready
    world.replicas[1] = 1
    world.settle(10)
    assert world.published == ("engine-0",) and set(world.engines) == {"engine-0"}


def chained(walltime: float, lead: float = 60.0) -> World:
    rules = Rules(restart=RESTART, ready_timeout_s=60, drain_s=20, lead_s=lead)
    world = World(rules=rules)
    world.walltime = walltime
    world.until(Phase.ready)
    return world


def test_before_its_time_is_over_a_replica_has_a_successor_that_is_proven() -> None:
    world = chained(walltime=180)
    served = []
    for _ in range(800):
        world.tick()
        served.append(
            bool(world.published) and set(world.published) <= set(world.alive)
        )
        assert len(world.engines) <= 2
    assert all(served), "for a moment nobody served"
    assert world.state.restarts == 0 and world.state.phase == Phase.ready
    hands = [job for _, job in world.starts if job != GATEWAY]
    assert len(hands) >= 5 and len(hands) == len(set(hands))


def test_a_successor_that_cannot_start_is_tried_again_and_the_deployment_goes_on() -> (
    None
):
    world = chained(walltime=180)
    world.broken_revisions.add(1)
    for _ in range(190):
        world.tick()
    assert world.state.phase.value == "degraded" and not world.published
    assert any("its successor takes over" in note for note in world.notes)
    world.broken_revisions.clear()
    world.settle(20)
    assert world.state.phase == Phase.ready and len(world.engines) == 1


def test_one_that_is_told_to_leave_has_a_successor_at_once() -> None:
    world = chained(walltime=100_000)
    assert len(world.engines) == 1
    world.units["engine-0"]["leaving"] = "it is preempted"
    world.settle(10)
    assert set(world.engines) == {"engine-1"} and world.published == ("engine-1",)


def test_a_job_in_the_queue_has_all_the_time_it_needs() -> None:
    world = World()
    world.units["engine-0"] = {"state": "queued", "why": "waits for resources"}
    world.settle(500)
    assert (
        world.job("engine-0").status == "queued"
        and world.state.phase == Phase.launching
    )
    world.units.clear()
    world.until(Phase.ready)


def test_a_job_that_goes_back_to_the_queue_is_waited_for() -> None:
    world = ready_world()
    world.units["engine-0"] = {"state": "queued", "why": "its node failed"}
    world.settle(100)
    assert world.state.phase.value == "degraded" and not world.published
    assert any("back in the queue: its node failed" in note for note in world.notes)
    world.units.clear()
    world.settle(10)
    assert world.state.phase == Phase.ready
    assert world.state.restarts == 1
    assert world.state.why == "engine-0 is back in the queue: its node failed"
    assert [job for _, job in world.starts].count("engine-0") == 1


def test_one_that_its_owner_started_again_must_prove_itself_again() -> None:
    world = ready_world()
    world.works["engine-0"] = False
    world.units["engine-0"] = {"starts": 1}
    world.tick()
    assert world.job("engine-0").status == "starting" and not world.published
    world.works["engine-0"] = True
    world.until(Phase.ready)


def test_a_broken_replica_is_ended_as_a_whole_and_comes_back() -> None:
    world = ready_world()
    world.units["engine-0"] = {"broken": "engine-0.1 was killed by SIGKILL"}
    world.tick()
    world.units.clear()
    world.until(Phase.ready)
    assert world.state.restarts == 1
    assert world.failures[0].why == "engine-0.1 was killed by SIGKILL"


def test_what_nobody_knows_any_more_is_ended() -> None:
    world = ready_world()
    world.alive["engine-7"] = 1
    world.settle(2)
    assert "engine-7" not in world.alive and world.state.phase == Phase.ready


def test_replicas_come_and_go_with_the_queue() -> None:
    scale = ScaleSpec(min=1, max=3, queue=4, up_after_s=10, down_after_s=50)
    world = ready_world(rules=RULES.model_copy(update={"scale": scale}))
    world.waiting = 3
    world.settle(100)
    assert len(world.engines) == 1, "three wait: not enough for another"
    world.waiting = 40
    world.settle(60)
    assert len(world.engines) == 3
    world.waiting = 0
    world.settle(40)
    assert len(world.engines) == 3
    world.settle(200)
    assert len(world.engines) == 1 and world.state.phase == Phase.ready


def test_a_start_takes_its_predecessors_name_along() -> None:
    world = chained(walltime=180)
    found = []
    for _ in range(200):
        found += [e for e in world.tick() if isinstance(e, Start)]
    assert found[0].after == "engine-0" and found[0].job == "engine-1"


WHAT = (
    "none kill break mend restart stop crash clock revise rollback scale leave queue bad room"
).split()
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(WHAT),
        st.integers(0, 3),
        st.sampled_from([0.01, 0.5, 3.0, 30.0]),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(EVENTS, st.integers(1, 2), st.sampled_from([None, 100.0]))
def test_invariants_with_a_crash_at_every_effect(
    events: list[tuple[str, int, float]], engines: int, walltime: float | None
) -> None:
    rules = Rules(
        restart=RESTART, ready_timeout_s=60, drain_s=20, lead_s=walltime and 40
    )
    world = World(engines, rules)
    world.walltime = walltime
    for what, which, seconds in events:
        name = world.state.jobs[which % len(world.state.jobs)].name
        match what:
            case "kill":
                world.end(name)
            case "break":
                world.works[name] = False
                world.ignores_signals.add(name)
            case "mend":
                world.works.clear()
                world.broken_revisions.clear()
            case "restart":
                world.restarts_wanted += 1
            case "stop":
                world.wanted = "stopped"
            case "clock":
                world.now -= 100
            case "revise":
                world.wants(max(world.replicas) + 1, 1 + which % 2)
            case "rollback" if world.state.revision:
                world.wants(world.state.revision, world.replicas[world.state.revision])
            case "scale":
                world.replicas[world.revision] = 1 + which
            case "leave":
                world.units.setdefault(name, {})["leaving"] = "told so"
            case "queue" if name != GATEWAY:
                world.units[name] = {"state": "queued"}
            case "bad":
                world.broken_revisions.add(world.revision)
            case "room":
                world.rollout = "stop-first" if which % 2 else "side-by-side"
        world.tick(seconds, effects_done=which if what == "crash" else None)
        if what != "crash":
            _check(world)
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


def _check(world: World) -> None:
    state = world.state
    names = [job.name for job in state.jobs]
    assert len(names) == len(set(names)), "a name was used twice"
    if state.phase not in (Phase.ready, Phase.degraded):
        return
    ready = {job.name for job in state.jobs if job.status == "ready"}
    assert set(world.published) <= ready, "routed to one that is not ready"
    revisions = {job.revision for job in state.jobs if job.name in world.published}
    assert len(revisions) <= 1, "routed to two revisions at once"


@settings(max_examples=100)
@given(EVENTS, st.integers(1, 2))
def test_whatever_happened_it_serves_again_when_all_is_well(
    events: list[tuple[str, int, float]], engines: int
) -> None:
    world = ready_world(engines)
    for what, which, seconds in events:
        name = world.state.jobs[which % len(world.state.jobs)].name
        if what == "kill":
            world.end(name)
        elif what == "revise":
            world.wants(max(world.replicas) + 1, 1 + which % 2)
        elif what == "bad":
            world.broken_revisions.add(world.revision)
        elif what == "room":
            world.rollout = "stop-first" if which % 2 else "side-by-side"
        elif what == "scale":
            world.replicas[world.revision] = 1 + which
        world.tick(seconds, effects_done=which if what == "crash" else None)
    world.broken_revisions.clear()
    world.settle(150)
    assert world.state.phase == Phase.ready
    want = world.replicas[world.state.revision]
    assert len(world.published) == want == len(world.engines)
    assert set(world.engines.values()) == {world.state.revision} == {world.revision}
