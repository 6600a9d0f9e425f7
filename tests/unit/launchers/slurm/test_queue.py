"""How often Slurm is asked, and what happens when it answers late or not at all: with a transport that says
what real clients said (they are tried for real in tests/contract)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.site import Site
from lemnos.launchers.slurm import queue
from lemnos.launchers.slurm.client import Client
from lemnos.launchers.slurm.launcher import Slurm
from lemnos.transport.base import Done
from lemnos.transport.here import Here
from tests import samples
from tests.unit.launchers.slurm import units

RUNNING = "7|RUNNING|None|0|0|1000|1001|5000|n1|lemnos:me:box:engine-0|\n"
PARTITIONS = "PartitionName=gpu MaxTime=1-00:00:00 Default=YES State=UP\n"


class Told(Here):
    """Files are real; Slurm's clients say what ``answers`` has for their names."""

    def __init__(self, **answers: Done | Callable[[], Done]) -> None:
        self.answers: dict[str, Done | Callable[[], Done]] = {
            "sinfo": Done(0, "slurm 22.05.8", ""),
            "squeue": Done(0, "", ""),
            "scontrol": Done(0, PARTITIONS, ""),
            "scancel": Done(0, "", ""),
            "test": Done(0, "", "sbatch: Job 7 to start at 2026-11-21T17:01:03 using"),
            "sbatch": Done(0, "7\n", ""),
            **answers,
        }
        self.asked: list[str] = []

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        name = next((word for word in argv if word in self.answers), "")
        name = "test" if "--test-only" in argv else name
        if not name:
            return super().run(*argv, stdin=stdin, timeout_s=timeout_s)
        self.asked.append(name)
        answer = self.answers[name]
        return answer() if callable(answer) else answer


def site(directory: Path, told: Told, **keys: Any) -> Site:
    key = directory / "engine.key"
    key.write_text("k")
    plan = samples.plan("box", on="slurm", slurm={"poll_s": 10.0} | keys)
    return Site("box", plan.spec, told, str(directory), "/cache", key, "me")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the queue; a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(f"{queue.__name__}.time.monotonic", lambda: now[0])
    return now


def test_a_settled_queue_is_asked_every_poll(
    tmp_path: Path, clock: list[float]
) -> None:
    told = Told(squeue=Done(0, RUNNING, ""))
    seen = queue.Queue(Client(told), site(tmp_path, told))
    for _ in range(600):  # a minute, asked ten times a second
        seen.seen()
        clock[0] += 0.1
    new = told.asked.count("squeue")
    assert 25 <= new <= 40, "every second for half a minute, then every ten"
    for _ in range(6000):
        seen.seen()
        clock[0] += 0.1
    assert told.asked.count("squeue") - new == pytest.approx(60, abs=2)


def test_what_a_job_writes_makes_the_queue_be_asked(
    tmp_path: Path, clock: list[float]
) -> None:
    told = Told(squeue=Done(0, RUNNING, ""))
    seen = queue.Queue(Client(told), site(tmp_path, told))
    seen.seen()
    clock[0] += 100
    seen.seen()
    before = told.asked.count("squeue")
    home = tmp_path / "units/engine-0"
    home.mkdir(parents=True)
    (home / "ended").write_text("7 0 1 engine-0\n")
    clock[0] += 1.1
    assert seen.seen().papers["engine-0"].ended
    assert told.asked.count("squeue") == before + 1


def test_a_job_that_ends_without_a_word_is_asked_for_until_slurm_says_how(
    tmp_path: Path, clock: list[float]
) -> None:
    told = Told(squeue=Done(0, RUNNING, ""))
    seen = queue.Queue(Client(told), site(tmp_path, told))

    def state() -> str:
        return seen.seen().jobs["engine-0"].state

    assert state() == "RUNNING"
    told.answers["squeue"] = Done(0, RUNNING.replace("RUNNING", "COMPLETING"), "")
    clock[0] += 60
    assert state() == "RUNNING"
    told.answers["squeue"] = Done(0, RUNNING.replace("RUNNING", "CANCELLED"), "")
    clock[0] += 1.1
    assert state() == "CANCELLED"


@pytest.mark.parametrize(("ended", "waits"), [("", True), ("7 0 3 engine-0\n", False)])
def test_a_job_whose_nodes_are_cleaned_for_long_has_ended(
    tmp_path: Path, clock: list[float], ended: str, waits: bool
) -> None:
    told = Told(squeue=Done(0, RUNNING, ""))
    seen = queue.Queue(Client(told), site(tmp_path, told))
    seen.seen()
    (tmp_path / "units/engine-0").mkdir(parents=True)
    (tmp_path / "units/engine-0/ended").write_text(ended)
    told.answers["squeue"] = Done(0, RUNNING.replace("RUNNING", "COMPLETING"), "")
    states = []
    for _ in range(5):
        clock[0] += 1.1
        states.append(seen.seen().jobs["engine-0"].state)
    assert (states[0] == "RUNNING") is waits
    assert states[-1] == "COMPLETING"


def test_an_answer_that_came_too_late_is_no_second_job(tmp_path: Path) -> None:
    late = Done(
        1,
        "",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    )
    told = Told(sbatch=late)
    at = site(tmp_path, told)
    launcher = Slurm(at)

    def accepted() -> Done:
        return Done(0, RUNNING if "sbatch" in told.asked else "", "")

    told.answers["squeue"] = accepted
    launcher.submit(units.unit(at))
    assert told.asked.count("sbatch") == 1
    assert (tmp_path / "units/engine-0/job").read_text() == "7"
    launcher.submit(units.unit(at))
    assert told.asked.count("sbatch") == 1


def test_a_refused_job_leaves_nothing(tmp_path: Path) -> None:
    told = Told(
        test=Done(
            1,
            "",
            "allocation failure: Invalid account or account/partition combination specified",
        )
    )
    at = site(tmp_path, told, account="nope")
    with pytest.raises(LemnosError, match="does not let you use the account 'nope'"):
        Slurm(at).submit(units.unit(at))
    assert not list(tmp_path.rglob("engine-0*"))
    assert "sbatch" not in told.asked


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            "squeue: error: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            "controller does not answer",
        ),
        (
            "slurm_load_jobs error: Socket timed out on send/recv operation",
            "controller does not answer",
        ),
    ],
)
def test_a_silent_controller_is_an_error_and_no_end(
    tmp_path: Path, said: str, what: str
) -> None:
    told = Told(squeue=Done(1, "", said))
    with pytest.raises(LemnosError, match=what):
        Slurm(site(tmp_path, told)).status()


def test_no_slurm_here(tmp_path: Path) -> None:
    told = Told(scontrol=Done(127, "", "sh: scontrol: not found"))
    with pytest.raises(
        LemnosError, match="there is no 'scontrol' on the PATH"
    ) as caught:
        Slurm(site(tmp_path, told)).place(samples.plan("box"), "engine-0")
    assert "via" in caught.value.fix


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    told = Told()
    at = site(tmp_path, told)
    (tmp_path / "units").write_text("in the way")
    with pytest.raises(LemnosError, match="cannot be written"):
        Slurm(at).submit(units.unit(at))
    assert "sbatch" not in told.asked


def test_scancel_of_what_is_gone_is_no_error() -> None:
    gone = "scancel: error: Kill job error on job id 27: Invalid job id specified"
    told = Told(scancel=Done(1, "", gone))
    Client(told).cancel([27])
    told.answers["scancel"] = Done(
        1, "", "scancel: error: Unable to contact slurm controller"
    )
    with pytest.raises(LemnosError, match="does not answer"):
        Client(told).cancel([27])


def test_old_clients_without_json_are_asked_in_plain_words() -> None:
    def sinfo() -> Done:
        if told.asked.count("sinfo") == 1:
            return Done(1, "", "sinfo: unrecognized option '--json'")
        return Done(0, "n1|gpu*|idle|16|16000|gpu:h100:8|x\n", "")

    told = Told(sinfo=sinfo)
    assert [node.name for node in Client(told).nodes()] == ["n1"]
