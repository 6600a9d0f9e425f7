"""A deployment's life on the fake PBS, with the real engine: jobs that hand over by ``depend=after``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.hardware.ports import free_port
from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.testbeds.fake_pbs import FakePbs, fake_pbs
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("embedded")]

ROOM = ["--on", "pbs", "--set", "pbs.cpus=2", "--set", "pbs.poll_s=1"]


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    with fake_pbs(tmp_path_factory.mktemp("pbs") / "p") as running:
        yield running


@pytest.fixture
def life(
    pbs: FakePbs, embedded: LocalModel, home: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    (home / "lemnos").mkdir()
    made = Life(
        ["env", f"PATH={pbs.bin}:{os.environ['PATH']}"],
        home / "lemnos",
        models_cache(pytestconfig),
        first=["--port", str(free_port("127.0.0.1"))],
    )
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")


def states(pbs: FakePbs) -> list[str]:
    return [job["job_state"] for job in pbs.jobs().values()]


def test_past_the_walltime_and_down_leaves_nothing(pbs: FakePbs, life: Life) -> None:
    short = ["--set", "pbs.time=40s", "--set", "pbs.drain_s=5"]
    found = life.up(*ROOM, *short)
    with life.load(found["url"]) as told:
        until(lambda: states(pbs).count("F") >= 1, within_s=120)
    assert failed(told) == []
    assert len({who for _, who in told}) >= 2
    after = [job.get("depend", "") for job in pbs.jobs().values()]
    assert any("after" in each for each in after), after
    assert "listening" in life.run("logs", "-n", "500")
    life.run("down")
    until(lambda: set(states(pbs)) == {"F"})
    assert files_left(life.home) == []


def test_an_unknown_queue_is_refused_in_words(pbs: FakePbs, life: Life) -> None:
    said = life.run(
        *("up", "smollm2", *life.first, *ROOM, "--set", "pbs.queue=nope"), code=2
    )
    assert "nope" in said and "queue" in said.lower()
    assert life.report("ps") == [] and files_left(life.home) == []
