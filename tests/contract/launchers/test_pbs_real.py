"""The contract of launchers with a real OpenPBS, over hosts of network namespaces, and what only it can tell."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError, UsageError
from tests.contract.launchers.bed import (
    DEAF,
    ENDS,
    POLITE,
    SERVER,
    WAITER,
    said,
    status_of,
)
from tests.contract.launchers.pbs_bed import REFUSED, after, refuses, with_pbs
from tests.contract.launchers.pbs_real_bed import Login, PbsBed
from tests.contract.launchers.suite import LauncherSuite, swept
from tests.testbeds.pbs import Pbs, pbs

pytestmark = pytest.mark.bed


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbs]:
    with pbs(tmp_path_factory.mktemp("pbs")) as bed:
        yield bed


@pytest.fixture
def bed(real: Pbs) -> Iterator[PbsBed]:
    keys = {"bin": str(real.bin), "poll_s": 0.5, "time": "1:00:00"}
    made = PbsBed(
        real.home / uuid.uuid4().hex[:8] / "a b",
        on="pbs",
        transport=Login(real.as_ada()),
        wait_s=90.0,
        keys={"pbs": keys},
        pbs=real,
    )
    try:
        yield made
        swept(made)
    finally:
        for process in made.processes():
            process.kill()
        real.clear()


class TestPbsReal(LauncherSuite):
    """What every launcher does."""


def test_what_pbs_is_asked_for(bed: PbsBed) -> None:
    keys = with_pbs(
        bed,
        nodes=2,
        gpus_per_node=4,
        cpus=3,
        memory="2G",
        account="a1",
        project="p1",
        queue="short",
        time="30m",
        select={"gpu_model": "h200"},
        rerunnable=False,
        qsub_args={"p": 5},
    )
    launcher = bed.launcher(**keys)
    unit = bed.unit(launcher).model_copy(update={"start_s": 60.0})
    launcher.submit(unit)
    job = bed.job(launcher)
    assert job["Resource_List"] == {
        "ncpus": 6,
        "ngpus": 8,
        "mem": "4gb",
        "nodect": 2,
        "place": "scatter",
        "select": "2:ncpus=3:ngpus=4:mem=2gb:gpu_model=h200",
        "walltime": "00:31:00",
    }
    assert (job["Account_Name"], job["project"], job["queue"]) == ("a1", "p1", "short")
    assert (job["Job_Name"], job["Rerunable"]) == ("box-engine-0", "False")
    assert job["Variable_List"]["LEMNOS_JOB"] == "lemnos:test:box:engine-0"
    assert job["Priority"] == 5 and job["Join_Path"] == "oe"
    assert job["Mail_Points"] == "n"


@pytest.mark.parametrize("reach", ["pbs_tmrsh", "ssh"])
def test_processes_on_two_nodes(bed: PbsBed, reach: str) -> None:
    launcher = bed.launcher(**with_pbs(bed, nodes=2, reach=reach))
    launcher.submit(bed.over_hosts(launcher, SERVER, POLITE))
    bed.told(launcher)
    hosts = launcher.status()["engine-0"].hosts
    assert len(hosts) == 2
    bed.until(lambda: "waits" in said(launcher))
    logs = {log.job: log for log in launcher.logs("engine-0")}
    assert (logs["engine-0"].host, logs["engine-0.1"].host) == hosts
    assert launcher.read(logs["engine-0.1"], 9)[0].partition(" at ")[0].endswith(f"on {hosts[1]}")  # fmt: skip
    launcher.cancel("engine-0")
    bed.until(lambda: not status_of(launcher).alive)
    assert "asked" in launcher.read(logs["engine-0.1"], 5), "other nodes are asked, too"
    bed.until(lambda: not bed.processes())


@pytest.mark.parametrize("reach", ["pbs_tmrsh", "ssh"])
def test_killing_reaches_every_node(bed: PbsBed, reach: str) -> None:
    launcher = bed.launcher(**with_pbs(bed, nodes=2, reach=reach))
    launcher.submit(bed.over_hosts(launcher, WAITER, DEAF))
    bed.until(lambda: "child" in said(launcher) and "waits" in said(launcher))
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: not status_of(launcher).alive)
    bed.until(lambda: not bed.processes())


def test_a_successor_depends_on_the_one_before(bed: PbsBed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", WAITER))
    first = launcher.status()["engine-0"].id
    launcher.submit(after(bed.unit(launcher, "engine-1", WAITER), "engine-0"))
    assert bed.job(launcher, "engine-1").get("depend") in (None, f"after:{first}@login")
    bed.until(lambda: launcher.status()["engine-1"].state == "running")
    assert launcher.status()["engine-0"].alive


def test_a_successor_of_one_that_is_gone_starts_by_itself(bed: PbsBed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", ENDS))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    launcher.submit(after(bed.unit(launcher, "engine-1", WAITER), "engine-0"))
    assert "depend" not in bed.job(launcher, "engine-1")
    bed.until(lambda: launcher.status()["engine-1"].state == "running")


def test_the_end_of_its_time_is_said_before_it_comes(bed: PbsBed) -> None:
    launcher = bed.launcher(**with_pbs(bed, time="10s", drain_s=8))
    launcher.submit(bed.unit(launcher, "engine-0", POLITE))
    bed.until(lambda: launcher.status()["engine-0"].leaving)
    status = launcher.status()["engine-0"]
    assert status.state == "running" and status.leaving == "its time limit is near"
    assert status.ends_at and abs(status.ends_at - time.time()) < 60
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "its time was over" in launcher.status()["engine-0"].why
    assert "asked" in said(launcher)
    assert "exceeded limit" in said(launcher), "what PBS itself says is among the logs"


def test_who_else_cancelled_it_is_said(bed: PbsBed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", POLITE))
    bed.until(lambda: "waits" in said(launcher))
    bed.pbs.ask("qdel", launcher.status()["engine-0"].id)
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "was deleted (qdel) by" in launcher.status()["engine-0"].why


def test_a_lost_node_puts_it_elsewhere(bed: PbsBed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    first = bed.told(launcher)["pid"]
    (node,) = launcher.status()["engine-0"].hosts
    bed.pbs.kill_node(node)
    try:
        bed.until(lambda: launcher.status()["engine-0"].starts == 1)
        bed.until(lambda: launcher.status()["engine-0"].url)
        assert bed.told(launcher)["pid"] != first
        assert launcher.status()["engine-0"].hosts != (node,)
    finally:
        bed.pbs.revive_node(node)


def test_a_job_on_a_lost_node_that_may_not_run_again(bed: PbsBed) -> None:
    launcher = bed.launcher(**with_pbs(bed, nodes=2, rerunnable=False))
    launcher.submit(bed.over_hosts(launcher, WAITER, WAITER))
    bed.until(lambda: said(launcher).count("waits") == 2)
    node = launcher.status()["engine-0"].hosts[0]
    bed.pbs.kill_node(node)
    try:
        bed.until(lambda: not launcher.status()["engine-0"].alive)
        assert "lost" in launcher.status()["engine-0"].why
        bed.until(lambda: not bed.processes())
    finally:
        bed.pbs.revive_node(node)


def test_a_job_that_was_never_noted_is_found_by_its_mark(bed: PbsBed) -> None:
    """The supervisor died between qsub and what it would have written then."""
    launcher = bed.launcher()
    unit = bed.unit(launcher)
    launcher.submit(unit)
    (Path(bed.site().unit_directory("engine-0")) / "job").unlink()
    again = bed.launcher()
    assert again.status()["engine-0"].alive
    again.submit(unit)
    assert len(bed.pbs.queued()) == 1
    assert bed.told(again)["argv"] == []


def test_a_pbs_without_history(bed: PbsBed) -> None:
    bed.pbs.configure("set server job_history_enable = False")
    try:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", ENDS))
        bed.until(lambda: not launcher.status()["engine-0"].alive)
        assert "exit code 3" in launcher.status()["engine-0"].why
        launcher.submit(bed.unit(launcher, "engine-1"))
        assert bed.told(launcher, "engine-1")["argv"] == []
        assert bed.launcher().sweep() == 1
    finally:
        bed.pbs.configure("set server job_history_enable = True")


def test_variables_that_break_its_json(bed: PbsBed) -> None:
    """Of another job of ours, too."""
    odd = "ODD=a\\x\tb\x01 €,LEMNOS_JOB=lemnos:test:box:engine-9"
    silent = ("-j", "oe", "-o", "/dev/null", "--", "/bin/sleep", "300")
    job = bed.pbs.ask("qsub", "-v", odd, *silent, ada=True)
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    assert bed.told(launcher)["argv"] == []
    assert job.strip()
    assert launcher.sweep() == 2


def test_a_directory_that_is_not_shared(bed: PbsBed) -> None:
    launcher = bed.launcher(**with_pbs(bed, select={"host": "n3"}))
    bed.directory.mkdir(exist_ok=True)
    bed.pbs.hosts.hide("n3", bed.directory)
    try:
        launcher.submit(bed.unit(launcher, "engine-0", WAITER))
        bed.until(lambda: launcher.status()["engine-0"].broken)
        assert "LEMNOS_HOME" in launcher.status()["engine-0"].broken
        launcher.cancel("engine-0")
        bed.until(lambda: not status_of(launcher).alive)
    finally:
        bed.pbs.hosts.run("n3", "umount", str(bed.directory))


def test_a_pbs_that_does_not_answer_is_an_error_and_no_end(bed: PbsBed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    bed.pbs.hosts.run("login", "pkill", "-STOP", "pbs_server")
    try:
        bed.transport.limit_s = 3.0
        again = bed.launcher()
        with pytest.raises(LemnosError):
            again.status()
    finally:
        bed.pbs.hosts.run("login", "pkill", "-CONT", "pbs_server")
        bed.transport.limit_s = 60.0
    assert bed.until(lambda: again.status()["engine-0"].url)


@pytest.mark.parametrize(("keys", "where", "what"), REFUSED)
def test_what_qsub_refuses_leaves_nothing(
    bed: PbsBed, keys: dict[str, Any], where: str, what: str
) -> None:
    refuses(bed, keys, where, what)


def test_room_now_later_and_never(bed: PbsBed) -> None:
    launcher = bed.launcher(**with_pbs(bed, nodes=2, gpus_per_node=8))
    unit = bed.unit(launcher, "engine-0", WAITER, WAITER)
    assert launcher.room(unit).free
    launcher.submit(unit)
    bed.until(lambda: launcher.status()["engine-0"].state == "running")
    room = launcher.room(unit)
    assert not room.free and "1 of the 2 nodes" in room.why and "ngpus" in room.why
    assert room.starts_at and 3000 < room.starts_at - time.time() < 3700
    launcher.submit(bed.unit(launcher, "engine-1", WAITER, WAITER))
    bed.until(lambda: "waits for" in launcher.status()["engine-1"].why)
    assert launcher.status()["engine-1"].state == "queued"
    assert launcher.status()["engine-1"].why == "waits for free nodes"
    huge = bed.launcher(**with_pbs(bed, gpus_per_node=16, cpus=1))
    with pytest.raises(UsageError, match="no node has 16 ngpus: the largest has 8"):
        huge.room(bed.unit(huge))
    huge.submit(bed.unit(huge, "engine-7"))
    bed.until(lambda: "waits for ngpus" in huge.status()["engine-7"].why)


def test_a_queue_that_is_stopped_says_so(bed: PbsBed) -> None:
    launcher = bed.launcher(**with_pbs(bed, queue="stopped"))
    launcher.submit(bed.unit(launcher))
    bed.until(lambda: "its queue is stopped" in launcher.status()["engine-0"].why)
    launcher.cancel("engine-0")
    bed.until(lambda: not status_of(launcher).alive)
    assert "was deleted" in launcher.status()["engine-0"].why


def test_the_nodes_are_the_inventory(bed: PbsBed) -> None:
    nodes = bed.launcher().inventory().nodes
    assert [node.name for node in nodes] == ["n1", "n2", "n3"]
    assert [gpu.kind for gpu in nodes[0].gpus] == ["H200"] * 8
    assert nodes[0].cores == 16
