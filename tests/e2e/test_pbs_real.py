"""A deployment's life on a real OpenPBS, with the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.pbs_life import life_of
from tests.testbeds.pbs import Pbs, pbs
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.usefixtures("embedded")]

ROOM = ["--on", "pbs"]
SMALL = ["pbs.cpus=2", "pbs.poll_s=1"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbs]:
    with pbs(tmp_path_factory.mktemp("pbs")) as bed:
        yield bed


@pytest.fixture
def life(real: Pbs, embedded: LocalModel) -> Iterator[Life]:
    made = life_of(real, Path(embedded.path).parents[3])
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")
    real.clear()


def settings(*more: str) -> list[str]:
    return [word for each in (*SMALL, *more) for word in ("--set", each)]


def engines(real: Pbs) -> list[str]:
    """What runs of the engine on the nodes."""
    lines = [line for node in real.nodes for line in real.hosts.processes(node)]
    return [line for line in lines if "llamacpp" in line]


def nodes_of(real: Pbs) -> list[str]:
    """Where jobs run."""
    running = [j for j in real.jobs().values() if j["job_state"] == "R"]
    return [job["exec_host"].split("/")[0] for job in running]


def test_up_serves_from_a_job_and_down_leaves_nothing(real: Pbs, life: Life) -> None:
    found = life.up(*ROOM, *settings("pbs.time=10m"))
    assert found["ready_s"] > 0
    assert len(real.queued()) == 1
    assert life.run("chat", "--prompt", "The capital of France?", "--temperature", "0")
    assert "listening" in life.run("logs", "-n", "500")
    assert "on n" in life.run("logs", "--role", "batch")
    again = life.up(*ROOM, *settings("pbs.time=10m"))
    assert again["already_up"]
    life.run("down")
    until(lambda: not real.queued(), within_s=30)
    assert files_left(life.own) == []
    assert engines(real) == []


@pytest.mark.timeout(420)
def test_past_the_walltime_without_a_failed_request(real: Pbs, life: Life) -> None:
    found = life.up(*ROOM, *settings("pbs.time=60s", "pbs.drain_s=10"))
    with life.load(found["url"]) as told:
        until(lambda: len(served(life)) > 1, within_s=200)
        until(lambda: life.report("ps")[0]["replicas"] == 1, within_s=100)
    assert failed(told) == []
    assert len({who for _, who in told}) >= 2, "nothing was handed over"
    assert life.report("ps")[0]["restarts"] == 0


def served(life: Life) -> list[str]:
    state = life.own / "state" / "deployments"
    return [path.stem for path in state.glob("*/engine-?.log")]


@pytest.mark.timeout(420)
def test_when_its_node_dies_a_replica_comes_back_elsewhere(
    real: Pbs, life: Life
) -> None:
    life.up(*ROOM, *settings("pbs.time=10m"))
    (node,) = nodes_of(real)
    real.kill_node(node)

    def elsewhere() -> bool:
        (shown,) = life.report("ps")
        running = nodes_of(real)
        ready = shown["phase"] == "ready" and shown["restarts"] > 0
        return ready and bool(running) and node not in running

    try:
        until(elsewhere, within_s=240)
        assert life.run("chat", "--prompt", "Hello", "--temperature", "0")
    finally:
        real.revive_node(node)


def test_a_supervisor_that_was_killed_finds_its_jobs(real: Pbs, life: Life) -> None:
    found = life.up(*ROOM, *settings("pbs.time=10m"))
    before = real.queued()
    (shown,) = life.report("ps")
    real.hosts.run("login", "kill", "-9", str(shown["supervisor_pid"]))
    with life.load(found["url"]) as told:
        again = life.up(*ROOM, *settings("pbs.time=10m"))
    assert again["already_up"] and failed(told) == []
    assert real.queued() == before


def test_a_job_deleted_by_somebody_comes_back_and_it_is_said(
    real: Pbs, life: Life
) -> None:
    life.up(*ROOM, *settings("pbs.time=10m"))
    (job,) = real.queued()
    real.ask("qdel", job)
    until(lambda: "engine-0 was deleted (qdel) by root" in life.run("history"))
    until(lambda: life.report("ps")[0]["replicas_ready"] == 1, within_s=90)
    until(lambda: job not in real.queued())


def test_what_pbs_refuses_is_said_in_words(real: Pbs, life: Life) -> None:
    for key, words in (
        ("pbs.queue=nope", "the queue 'nope' is unknown"),
        ("pbs.queue=closed", "takes no jobs"),
        ("pbs.select={no_such: x}", "no node that is up has no_such=x"),
    ):
        said = life.run("up", "smollm2", *ROOM, *settings(key), code=2)
        assert words in said, said
    assert life.report("ps") == [] and files_left(life.own) == []


def test_plans_know_when_they_could_start(real: Pbs, life: Life) -> None:
    """As with the fake one (test_plan_queue.py): a node is taken for 12 h, half of another for 9 h."""
    for gpus, walltime in ((8, "12:00:00"), (4, "9:00:00")):
        wanted = (f"-lselect=1:ngpus={gpus}:ncpus=1", f"-lwalltime={walltime}")
        silent = ("-j", "oe", "-o", "/dev/null", "--", "/bin/sleep", "1009")
        real.ask("qsub", *wanted, *silent, ada=True)
    until(lambda: len(nodes_of(real)) == 2)
    found = life.report("plan", "glm-4.5-air-fp8", *ROOM)
    assert found["headline"] == "H200 GPUs: 1, 2, 4, 8 now; 16 in 9 h; 24 in 12 h"
