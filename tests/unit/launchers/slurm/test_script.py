"""The batch script, run with stand-ins for Slurm's clients: its own part of the work, in milliseconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemnos.launchers import late
from lemnos.launchers.slurm import render
from tests.contract.launchers.bed import KEY, evil
from tests.unit.launchers.slurm import units
from tests.waiting import until

# What the script calls: srun runs its step here, as its last two words say; signals to a job's steps are a file's.
STANDINS = {
    "srun": 'for word; do before=$last; last=$word; done\nsetsid "$before" "$last" &\necho $! >>"$STEPS"; wait $!\n',
    "scontrol": 'case "$*" in *hostnames*) echo n1;; *) echo "NodeName=n1 NodeAddr=127.0.0.1 Port=1";; esac\n',
    "scancel": 'while read -r step; do kill -TERM -"$step"; done <"$STEPS"\n',
}


class Cluster:
    """A node with the stand-ins, and ``engine-0`` written for it."""

    def __init__(
        self, root: Path, directory: Path, *argv: str, drain_s: float = 120.0
    ) -> None:
        self.root, self.directory = root, directory
        (root / "bin").mkdir(parents=True)
        for name, text in STANDINS.items():
            (root / "bin" / name).write_text(f"#!/bin/bash\n{text}")
            (root / "bin" / name).chmod(0o755)
        site = units.site(str(directory), slurm={"drain_s": drain_s})
        self.home = Path(site.unit_directory("engine-0"))
        self.home.mkdir(parents=True)
        (directory / "engine.key").write_text(KEY)
        unit = units.unit(site, argv=argv)
        for file, text in render.render(unit, site).files.items():
            (self.home / file).write_text(text)
        self.log = directory / "engine-0.log"

    def start(self, number: int = 7) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            ["bash", str(self.home / "batch.sh")],
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "STEPS": str(self.root / "steps"),
                "SLURM_JOB_ID": str(number),
                "SLURM_JOB_NODELIST": "n1",
                "SLURM_RESTART_COUNT": "2",
            },
            cwd="/",
        )
        return self.process

    @property
    def here(self) -> dict[str, object]:
        known: dict[str, object] = json.loads((self.home / "here.json").read_text())
        return known

    def said(self) -> str:
        return (self.directory / "engine-0.batch.log").read_text()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def test_it_registers_runs_and_tells_how_it_ended(root: Path) -> None:
    code = "import os; print(os.environ['KEY'] == 'K', os.environ['HOST'], flush=True); raise SystemExit(3)"
    cluster = Cluster(root, root / "a dir", sys.executable, "-I", "-S", "-c", code)
    (root / "a dir/engine.key").write_text("K\n")
    assert cluster.start().wait(30) == 3
    assert "True 127.0.0.1\n" in cluster.log.read_text()
    assert (cluster.home / "ended").read_text() == "7 2 3 engine-0\n"
    here = cluster.here
    assert (here["id"], here["attempt"], here["hosts"]) == ("7", 2, ["n1"])
    assert here["port"] == 20_000 + 32 * 7 and here["host"] == "127.0.0.1"
    assert here["inner_port"] == 20_000 + 32 * 7 + 1


def test_ports_that_are_taken_are_passed_over(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 20_000 + 32 * 9 + 5)):
        cluster = Cluster(root, root / "d", "true")
        assert cluster.start(9).wait(30) == 0
    assert cluster.here["port"] == 20_000 + 32 * 10


def test_told_to_end_it_asks_the_processes(root: Path) -> None:
    code = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(5))\nprint('up', flush=True)\nwhile True: signal.pause()"
    cluster = Cluster(root, root / "d", sys.executable, "-I", "-S", "-c", code)
    process = cluster.start()
    until(lambda: cluster.log.exists() and "up" in cluster.log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, "it ended as it was asked to"
    assert (cluster.home / "leaving").read_text().startswith("7 2 it was told to end")
    assert (cluster.home / "ended").read_text() == "7 2 5 engine-0\n"


def test_before_its_time_is_over_it_says_so_and_ends_by_itself(root: Path) -> None:
    code = "import signal\nprint('up', flush=True)\nwhile True: signal.pause()"
    cluster = Cluster(root, root / "d", sys.executable, "-I", "-S", "-c", code, drain_s=1)  # fmt: skip
    process = cluster.start()
    until(lambda: cluster.log.exists() and "up" in cluster.log.read_text())
    process.send_signal(signal.SIGUSR1)
    until(lambda: (cluster.home / "leaving").exists())
    assert "7 2 its time limit is near" in (cluster.home / "leaving").read_text()
    assert process.wait(30) == 0
    assert (cluster.home / "ended").read_text() == "7 2 143 engine-0\n"


def test_what_an_earlier_start_left_goes(root: Path) -> None:
    cluster = Cluster(root, root / "d", "true")
    (cluster.home / "leaving").write_text("7 1 old")
    assert cluster.start().wait(30) == 0
    assert not (cluster.home / "leaving").exists()


def test_a_log_that_cannot_be_written_ends_nothing(root: Path) -> None:
    cluster = Cluster(root, root / "d", "touch", str(root / "ran"))
    cluster.log.mkdir()
    (root / "d/engine-0.batch.log").mkdir()
    assert cluster.start().wait(30) == 0
    assert (root / "ran").exists()


def test_a_key_that_is_gone_is_said(root: Path) -> None:
    cluster = Cluster(root, root / "d", "true")
    (root / "d/engine.key").unlink()
    cluster.start().wait(30)
    assert "engine.key" in cluster.log.read_text()


no_null = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(no_null, max_size=4), no_null, st.data())
def test_nothing_that_was_written_is_executed(
    tmp_path: Path, words: list[str], odd: str, data: st.DataObject
) -> None:
    """Words arrive as they are, in whatever directory the scripts lie."""
    root = Path(mkdtemp(dir=tmp_path))  # a new one for each example
    hostile = data.draw(st.sampled_from(evil(root)))
    assert late.PORT  # no late value is among the words: they are hypothesis' own
    name = "".join(c for c in f"d{hostile}{odd}" if c.isprintable() and c != "/")
    directory = root / (name if len(name.encode()) < 200 else "d")
    cluster = Cluster(root, directory, "/usr/bin/printf", "%s\\0", "begin", *words, hostile)  # fmt: skip
    assert cluster.start().wait(30) == 0, cluster.said()
    output = cluster.log.read_bytes().split(b"\0")
    assert output[0].endswith(b"begin")
    assert [part.decode() for part in output[1:-1]] == [*words, hostile]
    assert not list(root.rglob("canary*"))
