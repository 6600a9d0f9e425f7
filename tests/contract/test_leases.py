"""Leases, with real processes that contend and die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
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
COUNT = (
    "import sys; from pathlib import Path; from lemnos.leases import lease\n"
    "counter = Path(sys.argv[2])\n"
    "for _ in range(15):\n"
    "    with lease(Path(sys.argv[1]), wait_s=60):\n"
    "        n = int(counter.read_text()); counter.write_text(str(n + 1))\n"
)


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


def test_never_two_at_once(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "x.lease"), str(counter)]
    workers = [subprocess.Popen(command) for _ in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert counter.read_text() == "60"


def foreign(path: Path, age_s: float) -> None:
    """A lease of another host, touched so long ago."""
    holder = {"host": "elsewhere", "pid": 1, "started": 0.0, "nonce": "n", "what": ""}
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
        "started": 1.0,
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


def test_only_the_stale_one_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    foreign(path, 0)
    old = leases.read(path)
    path.write_text(path.read_text().replace('"n"', '"newer"'))
    leases._discard(path, old)
    kept = leases.read(path)
    assert kept and kept.nonce == "newer"
    leases._discard(tmp_path / "none.lease", None)


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
