"""Leases, with real processes that contend and die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from lemnos import leases
from lemnos.errors import LemnosError
from tests.waiting import until

HOLD = (
    "import sys, time; from pathlib import Path; from lemnos.leases import lease\n"
    "with lease(Path(sys.argv[1]), what='the work'):\n"
    "    print('held', flush=True); time.sleep(600)\n"
)
COUNT = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
from lemnos.leases import lease
from lemnos.paths import replace_file

path, counter, crash = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "crash"
for _ in range(15):
    with lease(path, wait_s=60) as me:
        number = int(counter.read_text())
        counter.write_text(str(number + 1))
        if crash:  # leave the lease as a holder that was killed does
            dead = replace(me, started="another", nonce=f"dead {number}")
            replace_file(path, json.dumps(asdict(dead)).encode())
"""


def test_it_is_there_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    with leases.lease(path, what="w") as me:
        assert leases.read(path) == me and me.pid == os.getpid()
        assert leases.holder_alive(path)
        with pytest.raises(
            LemnosError, match=f"held by process {os.getpid()} on .* \\(w\\)"
        ):
            with leases.lease(path):
                pass
    assert list(tmp_path.iterdir()) == []
    assert not leases.holder_alive(path)


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(LemnosError, match=f"process {holder.pid}"):
            with leases.lease(path):
                pass
        holder.send_signal(signal.SIGKILL)
    assert path.exists() and not leases.holder_alive(path)
    with leases.lease(path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["release", "crash"])
def test_never_two_at_once(tmp_path: Path, ending: str) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    path = tmp_path / "x.lease"
    command = [sys.executable, "-c", COUNT, str(path), str(counter), ending]
    workers = [subprocess.Popen(command) for _ in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert counter.read_text() == "60"
    path.unlink(missing_ok=True)
    assert os.listdir(tmp_path) == ["counter"]


def foreign(path: Path, age_s: float) -> None:
    """A lease of another host, touched so long ago."""
    holder = {"host": "elsewhere", "pid": 1, "started": "1", "nonce": "n", "what": ""}
    path.write_text(json.dumps(holder))
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def test_another_hosts_lease_holds_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    foreign(path, leases.TTL_S / 2)
    seen: list[leases.Holder] = []
    with pytest.raises(LemnosError, match="on elsewhere"):
        with leases.lease(path, wait_s=0.3, waiting=seen.append):
            pass
    assert [holder.host for holder in seen] == ["elsewhere"]
    foreign(path, leases.TTL_S + 1)
    with leases.lease(path) as me:
        assert me.host == socket.gethostname()


def test_a_pid_that_was_given_away_again_is_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": "1",
        "nonce": "n",
    }
    path.write_text(json.dumps(holder))
    with leases.lease(path):
        pass


def test_a_broken_lease_counts_by_its_age(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    path.write_text("{")
    assert leases.read(path) is None
    with pytest.raises(LemnosError, match="held by another process"):
        with leases.lease(path):
            pass
    os.utime(path, (1, 1))
    with leases.lease(path):
        pass


def test_only_the_stale_one_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lease"
    foreign(path, 0)
    judged = leases.Holder(host="elsewhere", pid=2, started="2", nonce="o")
    # The newer one is not moved even for a moment, in which a third could make its own.
    monkeypatch.delattr(os, "rename")
    leases._discard(path, judged)
    assert leases.read(path)
    leases._discard(tmp_path / "none.lease", judged)


def test_another_host_that_was_quicker_keeps_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lease"
    foreign(path, 0)
    newer = leases.read(path)
    judged = leases.Holder(host="elsewhere", pid=2, started="2", nonce="o")
    answers = iter([judged])  # what was there a moment ago, then what is there now
    real = leases.read
    monkeypatch.setattr(leases, "read", lambda p: next(answers, None) or real(p))
    leases._discard(path, judged)
    assert real(path) == newer and os.listdir(tmp_path) == ["x.lease"]


def test_a_link_that_nfs_denies_having_made_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answered_twice(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", answered_twice)
    with leases.lease(tmp_path / "x.lease") as me:
        assert leases.read(tmp_path / "x.lease") == me


def test_a_process_that_cannot_be_seen_counts_by_its_leases_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(pid: int, _: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", denied)
    path = tmp_path / "x.lease"
    here = leases.Holder(socket.gethostname(), pid=2**22 + 1, started="1", nonce="n")
    path.write_text(json.dumps(asdict(here)))
    assert leases.holder_alive(path)
    os.utime(path, (1, 1))
    assert not leases.holder_alive(path)


def test_where_no_lease_can_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="no lease can be made here"):
        with leases.lease(tmp_path / "none" / "x.lease"):
            pass


def test_a_directory_that_is_gone_takes_its_lease_along(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    with leases.lease(directory / "x.lease"):
        shutil.rmtree(directory)


def test_processes_are_told_apart() -> None:
    mine = leases.process_started(os.getpid())
    assert mine and mine == leases.process_started(os.getpid())
    assert leases.process_started(1) != mine
    with subprocess.Popen(["true"]) as done:
        until(lambda: leases.process_started(done.pid) is None)  # a zombie is dead


def test_a_held_lease_is_kept_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TTL_S", 0.12)
    path = tmp_path / "x.lease"
    with leases.lease(path):
        os.utime(path, (1, 1))
        until(lambda: path.stat().st_mtime > 1)


def test_a_lease_that_was_taken_away_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    with leases.lease(path):
        foreign(path, 0)
    assert leases.read(path)
