"""What PBS makes of units: its queue, its nodes, its walltimes, its refusals."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.base import Launcher
from lemnos.launchers.pbs.launcher import Pbs
from lemnos.spec.unit import UnitStatus
from tests.contract.launchers.bed import (
    DEAF,
    ENDS,
    POLITE,
    SERVER,
    WAITER,
    said,
)
from tests.contract.launchers.pbs_bed import (
    REFUSED,
    after,
    bed_of,
    refuses,
    with_pbs,
)
from tests.contract.launchers.suite import Bed, swept
from tests.testbeds.fake_pbs import FakePbs, fake_pbs

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
HERE, THERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    with fake_pbs(tmp_path_factory.mktemp("pbs") / "p") as running:
        yield running


@pytest.fixture
def bed(pbs: FakePbs, tmp_path: Path) -> Iterator[Bed]:
    made = bed_of(pbs, tmp_path / "a b")
    yield made
    swept(made)


@pytest.fixture
def other(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., tuple[FakePbs, Bed]]]:
    """A PBS of the test's own, with options."""
    open_: list[Any] = []
    beds: list[Bed] = []

    def start(**options: Any) -> tuple[FakePbs, Bed]:
        context = fake_pbs(tmp_path_factory.mktemp("pbs") / "p", **options)
        running = context.__enter__()
        open_.append(context)
        beds.append(bed_of(running, tmp_path / "b"))
        return running, beds[-1]

    yield start
    for made in beds:
        for process in made.processes():
            process.kill()
    for context in open_:
        context.__exit__(None, None, None)


def job_of(launcher: Launcher, pbs: FakePbs, name: str = "engine-0") -> dict[str, Any]:
    job: dict[str, Any] = pbs.jobs()[launcher.status()[name].id]
    return job


def test_what_pbs_is_asked_for(bed: Bed, pbs: FakePbs) -> None:
    launcher = bed.launcher(
        **with_pbs(
            bed,
            nodes=2,
            gpus_per_node=4,
            cpus=3,
            memory="2G",
            account="a1",
            project="p1",
            queue="short",
            time="30m",
            rerunnable=False,
            qsub_args={"p": 5},
        )
    )
    launcher.submit(bed.unit(launcher).model_copy(update={"start_s": 60.0}))
    job = job_of(launcher, pbs)
    assert job["Resource_List"] == {
        "ncpus": 6,
        "ngpus": 8,
        "mem": "4gb",
        "nodect": 2,
        "place": "scatter",
        "select": "2:ncpus=3:ngpus=4:mem=2gb",
        "walltime": "00:31:00",
    }
    assert (job["Account_Name"], job["project"], job["queue"]) == ("a1", "p1", "short")
    assert (job["Job_Name"], job["Rerunable"]) == ("box-engine-0", "False")
    assert job["Variable_List"]["LEMNOS_JOB"] == "lemnos:test:box:engine-0"
    assert (
        job["Priority"] == 5 and job["Join_Path"] == "oe" and job["Mail_Points"] == "n"
    )


@pytest.mark.parametrize("reach", ["pbs_tmrsh", "ssh"])
def test_processes_on_two_hosts(
    bed: Bed, pbs: FakePbs, home: Path, tmp_path: Path, reach: str
) -> None:
    put_ssh(home, tmp_path / "ssh log")
    launcher = bed.launcher(**with_pbs(bed, nodes=2, reach=reach))
    unit = bed.unit(launcher, "engine-0", SERVER, POLITE, SERVER)
    launcher.submit(unit)
    bed.told(launcher)
    assert launcher.status()["engine-0"].hosts == (HERE, THERE)
    bed.until(lambda: "waits" in said(launcher))
    logs = {log.job: log for log in launcher.logs("engine-0")}
    assert [logs[name].host for name in logs][:3] == [HERE, THERE, THERE]
    assert f"on {THERE}" not in "".join(launcher.read(logs["engine-0"], 9))
    if reach == "ssh":
        assert THERE in (tmp_path / "ssh log").read_text()
    launcher.cancel("engine-0")
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "asked" in launcher.read(logs["engine-0.1"], 5), "other hosts are asked, too"
    bed.until(lambda: not bed.processes())


@pytest.mark.parametrize("reach", ["pbs_tmrsh", "ssh"])
def test_nothing_runs_on_where_the_first_host_is_lost(
    other: Callable[..., tuple[FakePbs, Bed]], home: Path, tmp_path: Path, reach: str
) -> None:
    pbs, bed = other()
    put_ssh(home, tmp_path / "ssh log")
    launcher = bed.launcher(**with_pbs(bed, nodes=2, reach=reach, rerunnable=False))
    launcher.submit(bed.unit(launcher, "engine-0", WAITER, DEAF))
    bed.until(lambda: "child" in said(launcher) and "waits" in said(launcher))
    pbs.lose(HERE)
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "lost" in launcher.status()["engine-0"].why
    if reach == "ssh":
        bed.until(lambda: not bed.processes())


def put_ssh(home: Path, log: Path) -> None:
    """An ssh on the PATH of jobs: a session of its own, whose input ends with the client."""
    (home / "bin").mkdir(exist_ok=True)
    ssh = home / "bin" / "ssh"
    ssh.write_text(
        "#!/bin/bash\nwhile [[ $1 == -o ]]; do shift 2; done\n"
        f"echo \"$1\" >>'{log}'\n"
        'mkfifo "$HOME/f.$$"; cat >"$HOME/f.$$" <&0 &\n'
        'PBS_FAKE_NODE=elsewhere setsid -w sh -c "$2" <"$HOME/f.$$"\n'
        'code=$?; rm "$HOME/f.$$"; kill $! 2>/dev/null; exit $code\n'
    )
    ssh.chmod(0o755)
    (home / ".bash_profile").write_text(f'PATH="{home}/bin:$PATH"\n')


def test_a_successor_depends_on_the_one_before(bed: Bed, pbs: FakePbs) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", WAITER))
    first = launcher.status()["engine-0"].id
    launcher.submit(after(bed.unit(launcher, "engine-1", WAITER), "engine-0"))
    assert job_of(launcher, pbs, "engine-1")["depend"] == f"after:{first}@login"
    bed.until(lambda: launcher.status()["engine-1"].state == "running")


def test_a_successor_of_one_that_is_gone_starts_by_itself(
    bed: Bed, pbs: FakePbs
) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", ENDS))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    launcher.submit(after(bed.unit(launcher, "engine-1", WAITER), "engine-0"))
    assert "depend" not in job_of(launcher, pbs, "engine-1")
    bed.until(lambda: launcher.status()["engine-1"].state == "running")


def test_the_end_of_its_time_is_said_before_it_comes(bed: Bed) -> None:
    launcher = bed.launcher(**with_pbs(bed, time="4s", drain_s=3))
    launcher.submit(bed.unit(launcher, "engine-0", POLITE))
    bed.until(lambda: launcher.status()["engine-0"].leaving)
    status = launcher.status()["engine-0"]
    assert status.state == "running" and status.leaving == "its time limit is near"
    assert status.ends_at and abs(status.ends_at - time.time()) < 60
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "its time was over" in launcher.status()["engine-0"].why
    assert "asked" in said(launcher)
    assert "exceeded limit" in said(launcher), "what PBS itself says is among the logs"


def test_who_else_cancelled_it_is_said(bed: Bed, pbs: FakePbs) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", POLITE))
    bed.until(lambda: "waits" in said(launcher))
    assert pbs.run("qdel", launcher.status()["engine-0"].id).returncode == 0
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "was deleted (qdel) by" in launcher.status()["engine-0"].why


def test_a_lost_node_puts_it_elsewhere(
    other: Callable[..., tuple[FakePbs, Bed]],
) -> None:
    pbs, bed = other()
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    first = bed.told(launcher)["pid"]
    pbs.lose(HERE)
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    bed.until(lambda: THERE in launcher.status()["engine-0"].url)
    assert bed.told(launcher)["pid"] != first
    assert launcher.status()["engine-0"].hosts == (THERE,)


def test_a_job_that_was_never_noted_is_found_by_its_mark(
    bed: Bed, pbs: FakePbs
) -> None:
    """The supervisor died between qsub and what it would have written then."""
    launcher = bed.launcher()
    unit = bed.unit(launcher)
    launcher.submit(unit)
    (Path(bed.site().unit_directory("engine-0")) / "job").unlink()
    count = len(pbs.jobs())
    again = bed.launcher()
    assert again.status()["engine-0"].alive
    again.submit(unit)
    assert len(pbs.jobs()) == count
    assert bed.told(again)["argv"] == []


def test_sweeping_finds_jobs_whose_files_are_gone(bed: Bed, pbs: FakePbs) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    job = launcher.status()["engine-0"].id
    shutil.rmtree(bed.directory / "box" / "units")
    assert bed.launcher().sweep() == 1
    bed.until(lambda: pbs.jobs()[job]["job_state"] == "F")
    bed.until(lambda: not bed.processes())


def test_a_pbs_without_history_or_with_odd_variables(
    other: Callable[..., tuple[FakePbs, Bed]],
) -> None:
    pbs, bed = other(history=False, broken_json=True)
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", ENDS))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "exit code 3" in launcher.status()["engine-0"].why
    launcher.submit(bed.unit(launcher, "engine-1"))
    assert bed.told(launcher, "engine-1")["argv"] == []
    with pytest.raises(json.JSONDecodeError):
        json.loads(pbs.run("qstat", "-f", "-F", "json").stdout)


def test_a_log_directory_that_vanishes_ends_nothing(bed: Bed) -> None:
    launcher = bed.launcher()
    unit = bed.unit(launcher)
    logs = bed.directory / "logs"
    job = unit.jobs[0].model_copy(update={"log": str(logs / "x" / "engine-0.log")})
    launcher.submit(unit.model_copy(update={"jobs": (job,)}))
    assert bed.told(launcher)
    shutil.rmtree(logs)
    assert bed.told(launcher)


def test_a_pbs_that_does_not_answer_is_an_error_and_no_end(
    other: Callable[..., tuple[FakePbs, Bed]],
) -> None:
    pbs, bed = other()
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    pbs.stop()
    with pytest.raises(LemnosError, match="PBS does not answer"):
        launcher.submit(bed.unit(launcher, "engine-1"))
    with pytest.raises(LemnosError, match="PBS does not answer"):
        launcher.status()
    assert not (bed.directory / "b" / "units" / "engine-1").exists()


@pytest.mark.parametrize(("keys", "where", "what"), REFUSED)
def test_what_qsub_refuses_leaves_nothing(
    bed: Bed, keys: dict[str, Any], where: str, what: str
) -> None:
    refuses(bed, keys, where, what)


def test_a_queue_that_is_unknown_is_told_with_its_neighbours(bed: Bed) -> None:
    launcher = bed.launcher(**with_pbs(bed, queue="shrt"))
    for ask in (launcher.room, launcher.submit):
        with pytest.raises(UsageError) as caught:
            ask(bed.unit(launcher))
        assert "'short'" in caught.value.fix and "workq" in caught.value.fix


def test_no_qsub_is_one_sentence(bed: Bed, tmp_path: Path) -> None:
    launcher = bed.launcher(**with_pbs(bed, bin=str(tmp_path)))
    with pytest.raises(
        LemnosError, match="there is no 'qselect' on the PATH"
    ) as caught:
        launcher.submit(bed.unit(launcher))
    assert "pbs.bin" in caught.value.fix
    bed.made.remove(launcher)  # nothing to sweep, and nothing to sweep it with


def test_room_now_later_and_never(other: Callable[..., tuple[FakePbs, Bed]]) -> None:
    _, bed = other()
    launcher = bed.launcher(**with_pbs(bed, nodes=2, gpus_per_node=8))
    unit = bed.unit(launcher, "engine-0", WAITER, WAITER)
    assert launcher.room(unit).free
    launcher.submit(unit)
    bed.until(lambda: launcher.status()["engine-0"].state == "running")
    room = launcher.room(unit)
    assert not room.free and "1 of the 2 nodes" in room.why and "ngpus" in room.why
    assert room.starts_at and 3000 < room.starts_at - time.time() < 3700
    launcher.submit(bed.unit(launcher, "engine-1", WAITER, WAITER))

    def waits() -> UnitStatus | None:
        status = launcher.status()["engine-1"]
        return status if status.why else None

    waiting = bed.until(waits)
    assert waiting and waiting.state == "queued"
    assert waiting.why == "waits for free nodes"
    huge = bed.launcher(**with_pbs(bed, gpus_per_node=16, cpus=1))
    with pytest.raises(UsageError, match="no node has 16 ngpus: the largest has 8"):
        huge.room(bed.unit(huge))


def test_the_nodes_are_the_inventory(
    other: Callable[..., tuple[FakePbs, Bed]],
) -> None:
    pbs, bed = other(words={"gpu_model": "h200"})
    pbs.lose(THERE)
    nodes = bed.launcher().inventory().nodes
    assert [node.name for node in nodes] == [HERE, "127.0.0.3"]
    assert [gpu.kind for gpu in nodes[0].gpus] == ["H200"] * 8
    assert nodes[0].cores == 16


def test_status_is_asked_no_more_often_than_wanted(bed: Bed, pbs: FakePbs) -> None:
    launcher = bed.launcher(**with_pbs(bed, poll_s=3600))
    assert isinstance(launcher, Pbs)
    assert launcher.status() == {}
    bed.launcher().submit(bed.unit(launcher, "engine-0", WAITER))
    assert launcher.status() == {}, "an answer is kept"
    launcher.submit(bed.unit(launcher, "engine-1", WAITER))
    assert set(launcher.status()) == {"engine-0", "engine-1"}
