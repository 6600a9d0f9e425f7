"""Jobs on other hosts, with real processes: here as a host, and over a real sshd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.hosts import Hosts, free_range, listening, name_of, parse
from lemnos.launchers.processes import ProcessStatus
from lemnos.spec.plan import Command, Job, Secret
from lemnos.transport.base import Transport
from lemnos.transport.here import Here
from lemnos.transport.ssh import Ssh
from tests import sshd
from tests.contract.launchers.bed import DEAF, POLITE, Bed, check_script, evil, evils
from tests.waiting import until

WAITS = "import signal; print('waits', flush=True); signal.pause()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.serving(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(params=["here", pytest.param("ssh", marks=pytest.mark.bed)])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "here":
        yield Here()
        return
    if sshd.SSHD is None:
        pytest.skip("sshd is not installed (Debian: apt-get install openssh-server)")
    ssh = Ssh("box", request.getfixturevalue("server").config)
    yield ssh
    ssh.close()


@pytest.fixture
def hosts(transport: Transport, bed: Bed, tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts("box", bed.word, str(tmp_path / "it's"), {"n1": transport})
    yield made
    made.sweep()


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """For its word, by which all processes of the test are found."""
    made = Bed(tmp_path, on="local")
    yield made
    assert not made.processes()


def job(bed: Bed, code: str = WAITS, *words: str, rank: int = 0, index: int = 0, deployment: str = "box", env: dict[str, str] | None = None) -> Job:  # fmt: skip
    command = Command(
        argv=(sys.executable, "-I", "-S", "-c", code, *words),
        env={"LEMNOS_TEST_WORD": bed.word, **(env or {})},
    )
    log = bed.directory / f"lo gs/{deployment}-{index}.{rank}.log"
    return Job(deployment=deployment, role="engine", index=index, rank=rank, command=command, host="n1", port=1, log=str(log))  # fmt: skip


def said(job: Job) -> str:
    return Path(job.log).read_text() if Path(job.log).exists() else ""


def seen(hosts: Hosts) -> dict[str, ProcessStatus]:
    """The jobs of ``n1``, which answers."""
    found, silent = hosts.ask()
    assert not silent
    return found["n1"]


def started(hosts: Hosts, job: Job, word: str = "waits") -> None:
    hosts.submit(job, "n1")
    until(lambda: f"\n{word}" in said(job))


def test_a_job_runs_detached_and_is_found_again(
    hosts: Hosts, bed: Bed, transport: Transport
) -> None:
    one = job(bed)
    started(hosts, one)
    assert said(one).startswith("--- lemnos starts box/engine-0 at ")
    assert seen(hosts) == {"engine-0": ProcessStatus(alive=True)}
    (process,) = bed.processes()
    assert os.getsid(process.pid) != os.getsid(0)
    hosts.submit(one, "n1")
    assert bed.processes() == [process], "submitted twice it runs once"
    if isinstance(transport, Ssh):
        transport.close()  # as when the network was away
    again = Hosts("box", bed.word, str(bed.directory / "it's"), {"n1": transport})
    assert seen(again) == {"engine-0": ProcessStatus(alive=True)}
    again.signal("n1", "engine-0", kill=True)
    until(lambda: not bed.processes())
    assert seen(again)["engine-0"].ended == "was killed by SIGKILL"


def test_how_a_job_ended_is_kept(hosts: Hosts, bed: Bed) -> None:
    hosts.submit(job(bed, "raise SystemExit(3)"), "n1")
    started(hosts, job(bed, index=1))
    started(hosts, job(bed, POLITE, index=2))
    hosts.signal("n1", "engine-1")
    hosts.signal("n1", "engine-2")
    until(lambda: not any(each.alive for each in seen(hosts).values()))
    ended = {name: each.ended for name, each in seen(hosts).items()}
    assert ended == {
        "engine-0": "ended with exit code 3",
        "engine-1": "was killed by SIGTERM",
        "engine-2": "ended with exit code 0",
    }
    assert "asked" in said(job(bed, index=2))
    started(hosts, job(bed, "print('waits again', flush=True);" + WAITS), "waits again")
    assert seen(hosts)["engine-0"].alive, "a name may be used again"


def test_killing_takes_children_and_what_lost_its_mark(hosts: Hosts, bed: Bed) -> None:
    # A child in a session of its own, and one whose environment does not name us any more.
    lost = "import subprocess; subprocess.Popen(['sleep', '1000'], env={'LEMNOS_TEST_WORD': sys.argv[1]});"
    one = job(bed, f"import sys;{lost}\n{DEAF}", bed.word)
    started(hosts, one, "child")
    started(hosts, job(bed, index=1))
    assert len(bed.processes()) == 4
    hosts.signal("n1", "engine-0", kill=True)
    until(lambda: len(bed.processes()) == 1)
    assert seen(hosts)["engine-1"].alive


def test_killing_takes_what_a_job_left_when_it_ended(hosts: Hosts, bed: Bed) -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '1000'], env={'LEMNOS_TEST_WORD': sys.argv[1]})"
    hosts.submit(job(bed, code, bed.word), "n1")
    until(lambda: not seen(hosts)["engine-0"].alive)
    assert len(bed.processes()) == 1
    hosts.signal("n1", "engine-0", kill=True)
    until(lambda: not bed.processes())
    assert seen(hosts)["engine-0"].ended == "ended with exit code 0"


def test_a_number_that_is_another_process_now_is_left_alone(
    hosts: Hosts, bed: Bed
) -> None:
    started(hosts, job(bed))
    directory = Path(hosts.directory("n1", "engine-0"))
    hosts.signal("n1", "engine-0", kill=True)
    until(lambda: not bed.processes())
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        for name in ("pid", "leader"):
            _, start, boot = (directory / name).read_text().split()
            (directory / name).write_text(f"{other.pid} {start} {boot}\n")
        until(lambda: not seen(hosts)["engine-0"].alive)
        hosts.signal("n1", "engine-0")
        hosts.signal("n1", "engine-0", kill=True)
        assert other.poll() is None
        (directory / "code").unlink()
        assert seen(hosts)["engine-0"].ended == "ended (nobody saw how)"
        (directory / "leader").write_text(f"{other.pid} 1 another-boot\n")
        (directory / "pid").write_text(f"{other.pid} 1 another-boot\n")
        ended = seen(hosts)["engine-0"].ended
        assert ended == "ended as its host was started anew"
        other.kill()


def test_values_and_keys_arrive_and_nothing_is_executed(
    hosts: Hosts, bed: Bed, tmp_path: Path
) -> None:
    key = tmp_path / "it's the.key"
    key.write_text("s3cret $HOME\n")
    code = "import os, sys; print([os.environ['KEY'], sys.argv[1:], {k: v for k, v in os.environ.items() if 'CANARY' in k}]);"
    made = job(bed, code + WAITS, *evil(bed.directory), env=evils(bed))
    secrets = (Secret(key_file=str(key), env="KEY"),)
    made = made.model_copy(update={"command": made.command.model_copy(update={"secrets": secrets})})  # fmt: skip
    for name, text in hosts.scripts(made, "n1").items():
        check_script(tmp_path, name, text)
        assert "s3cret" not in text
    started(hosts, made)
    line = next(line for line in said(made).splitlines() if line.startswith("['s3cret"))
    assert line == repr(["s3cret $HOME", evil(bed.directory), evils(bed)])
    assert not list(bed.directory.rglob("canary*"))
    assert "s3cret" not in " ".join(bed.processes()[0].cmdline())


def test_sweeping_takes_one_deployment_and_its_scripts(
    hosts: Hosts, bed: Bed, transport: Transport, tmp_path: Path
) -> None:
    other = Hosts("box-2", bed.word, str(tmp_path / "other"), {"n1": transport})
    stranger = Hosts("box", "somebody", str(tmp_path / "stranger"), {"n1": transport})
    started(hosts, job(bed))
    started(hosts, job(bed, rank=1))
    started(other, job(bed, deployment="box-2"))
    started(stranger, job(bed, index=3))
    assert hosts.sweep() >= 2
    until(lambda: len(bed.processes()) == 2)
    assert seen(hosts) == {} and hosts.sweep() == 0
    assert not list(tmp_path.glob("it's/*/n1"))
    assert "waits" in said(job(bed))
    assert seen(other)["engine-0"].alive and seen(stranger)["engine-3"].alive
    other.sweep()
    stranger.sweep()
    hosts.signal("n1", "engine-99")
    hosts.signal("n1", "engine-99", kill=True)


def test_what_cannot_start_is_a_sentence(hosts: Hosts, bed: Bed) -> None:
    (bed.directory / "file").write_text("")
    bad = job(bed).model_copy(update={"log": str(bed.directory / "file/below.log")})
    with pytest.raises(LemnosError, match="cannot be started .cannot write .*below.log"):  # fmt: skip
        hosts.submit(bad, "n1")
    until(lambda: not seen(hosts)["engine-0"].alive)
    with pytest.raises(LemnosError, match="'n9' is none of the hosts"):
        hosts.submit(job(bed), "n9")


@pytest.mark.bed
@pytest.mark.skipif(sshd.SSHD is None, reason="sshd is not installed")
def test_a_host_that_does_not_answer_has_not_ended(
    server: sshd.Server, bed: Bed, tmp_path: Path
) -> None:
    silent = Ssh("nowhere", server.config)
    both = Hosts("box", bed.word, str(tmp_path / "x"), {"n1": Here(), "n2": silent})
    started(both, job(bed))
    found, unknown = both.ask()
    assert found["n1"]["engine-0"].alive and list(unknown) == ["n2"]
    with pytest.raises(LemnosError, match="nothing listens for SSH there"):
        both.sweep()
    until(lambda: not bed.processes())


def test_ports_are_those_that_nobody_has() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000\n"
        "   1: 0100007F:4E21 00000000:0000 01 00000000:00000000 00:00000000\n"
    )
    assert listening(text) == {20_000}
    first = free_range({20_000}, 16, "box/engine-0")
    assert first == free_range(set(), 16, "box/engine-0")
    assert first != free_range(set(), 16, "box/engine-1")
    assert free_range(set(range(first, first + 1)), 16, "box/engine-0") != first
    with pytest.raises(LemnosError, match="no 1 free ports"):
        free_range(set(range(65536)), 1, "x")


def test_what_the_status_script_prints_is_read() -> None:
    text = "engine-0 alive\nengine-1 ended 137\nengine-2 ended 0\nengine-3 gone\n"
    assert [seen.ended for seen in parse(text).values()] == [
        "",
        "was killed by SIGKILL",
        "ended with exit code 0",
        "ended (nobody saw how)",
    ]
    assert parse("x ended 255\n")["x"].ended == "was killed by signal 127"
    assert parse("") == {}


def test_many_jobs_are_asked_at_once(bed: Bed, tmp_path: Path) -> None:
    calls = []

    class Counts(Here):
        def run(self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0):  # type: ignore[no-untyped-def]  # fmt: skip
            calls.append(argv)
            return super().run(*argv, stdin=stdin, timeout_s=timeout_s)

    hosts = Hosts("box", bed.word, str(tmp_path / "x"), {"n1": Counts()})
    for index in range(3):
        hosts.submit(job(bed, index=index), "n1")
    calls.clear()
    assert len(seen(hosts)) == 3
    assert len(calls) == 1
    assert hosts.sweep() >= 3
    assert name_of(job(bed, rank=2)) == "engine-0.2"
