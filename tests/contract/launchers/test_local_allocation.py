"""``on: local`` inside an allocation: the contract, within ``salloc`` of a real Slurm and within a job of
the fake PBS."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError
from tests.contract.launchers.bed import ASK, WAITER, said, status_of
from tests.contract.launchers.local_bed import Alone
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.fake_pbs import FakePbs, fake_pbs
from tests.testbeds.fixtures import cluster  # noqa: F401
from tests.testbeds.slurm import Slurm
from tests.unit.deployments.test_prepare_gpu import planned
from tests.waiting import until


@dataclasses.dataclass
class Allocated(Alone):
    """Its hosts' network is theirs alone: requests are sent from the login node."""

    cluster: Slurm | None = None

    def get(self, url: str) -> dict[str, Any]:
        assert self.cluster
        try:
            told = self.cluster.run("login", *self.python, "-c", ASK, url)
        except AssertionError as error:
            raise OSError(*error.args) from None
        answer: dict[str, Any] = json.loads(told)
        return answer


@pytest.fixture(scope="module")
def salloc(cluster: Slurm) -> Iterator[tuple[Slurm, dict[str, str]]]:  # noqa: F811
    """What the shell has that ``salloc`` gave, with two nodes and two GPUs on each."""
    words = ["salloc", "--nodes=2", "--gres=gpu:2", "--time=30", "--mem=2000"]
    command = [*cluster.at("login"), *words, "sh", "-c", "env; echo; exec cat"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert shell.stdout and shell.stdin
        lines = iter(shell.stdout.readline, "\n")
        env = dict(line.rstrip("\n").partition("=")[::2] for line in lines)
        yield cluster, {k: v for k, v in env.items() if k.startswith("SLURM_")}
        shell.stdin.close()  # the shell ends, and the allocation with it
        shell.wait(60)


@pytest.mark.bed
class TestSlurm(LauncherSuite):
    """Within salloc, on the login node."""

    @pytest.fixture
    def bed(
        self,
        salloc: tuple[Slurm, dict[str, str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Allocated]:
        slurm, env = salloc
        monkeypatch.setenv("PATH", f"{slurm.bin}:{os.environ['PATH']}")
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        made = Allocated(tmp_path / "state", "local", wait_s=60, cluster=slurm)
        yield made
        swept(made)

    def test_it_uses_all_hosts_and_their_gpus_until_its_end(
        self, bed: Allocated
    ) -> None:
        launcher = bed.launcher()
        for name in ("engine-0", "engine-1"):
            launcher.submit(bed.unit(launcher, name))
            assert bed.told(launcher, name)
        found = launcher.status()
        assert sorted(status.hosts for status in found.values()) == [("n1",), ("n2",)]
        ends_at = found["engine-0"].ends_at
        assert ends_at and 0 < ends_at - time.time() <= 30 * 60

    def test_a_plan_over_two_hosts_gets_both_with_their_gpus(
        self, bed: Allocated
    ) -> None:
        launcher = bed.launcher()
        wide = planned("glm-4.6", "2x2xH100", tensor=2, pipeline=2)
        place = launcher.place(wide, "engine-0")
        assert place.names == ("n1", "n2") and place.devices == ("0", "1")
        assert all(address.startswith("10.99.") for address in place.hosts)
        assert place.inner_port == place.port + 1
        with pytest.raises(LemnosError, match="0 of 2 GPUs are free"):
            launcher.place(wide, "engine-1")

    def test_another_shell_finds_the_allocation(
        self, bed: Allocated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", WAITER))
        bed.until(lambda: "waits" in said(launcher))
        for name in [n for n in os.environ if n.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        again = bed.launcher()
        assert again.status()["engine-0"].alive
        again.cancel("engine-0", kill=True)
        bed.until(lambda: not bed.processes())
        bed.until(lambda: not status_of(again).alive)


@pytest.mark.bed
def test_when_it_is_over_nothing_is_left_to_end(
    cluster: Slurm,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("--parsable", "--nodes=1", "--mem=500", "--wrap=sleep 600")
    job = cluster.submit(*words)
    until(lambda: cluster.state(job) == "RUNNING")
    monkeypatch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    node = cluster.run("login", "squeue", "-h", "-o", "%N", "-j", job).strip()
    bed = Allocated(tmp_path / "state", "local", wait_s=60, cluster=cluster)
    monkeypatch.setenv("SLURM_JOB_NODELIST", node)
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", WAITER))
    bed.until(bed.processes)
    alone = bed.launcher(local={"allocation": False})
    assert alone.place(bed.plan(), "engine-1").hosts == ("127.0.0.1",)
    cluster.run("login", "scancel", job)
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: "CO" not in cluster.state(job))
    with pytest.raises(LemnosError, match=f"the allocation {job} is over"):
        launcher.place(bed.plan(), "engine-0")
    assert launcher.sweep() == 0
    assert not bed.processes()


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    nodes = ["127.0.0.2", "127.0.0.3"]  # none is the machine that we are on
    with fake_pbs(tmp_path_factory.mktemp("pbs") / "p", nodes=nodes) as running:
        yield running


@pytest.mark.allow_hosts(["127.0.0.2", "127.0.0.3"])
class TestPbs(LauncherSuite):
    """Within a job of the fake PBS, as ``qsub -I`` gives a shell on its first host."""

    @pytest.fixture
    def bed(
        self, pbs: FakePbs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Bed]:
        shell = tmp_path / "shell.sh"
        shell.write_text(f"#!/bin/sh\nenv > {tmp_path}/env.part\nmv {tmp_path}/env.part {tmp_path}/env\nexec sleep 600\n")  # fmt: skip
        job = pbs.run("qsub", "-l", "select=2:ncpus=1", "-l", "place=scatter", str(shell))  # fmt: skip
        until((tmp_path / "env").exists)
        monkeypatch.setenv("PATH", f"{pbs.bin}:{os.environ['PATH']}")
        lines = (tmp_path / "env").read_text().splitlines()
        env = dict(line.partition("=")[::2] for line in lines)
        for name in [name for name in env if name.startswith("PBS_")]:
            monkeypatch.setenv(name, env[name])
        made = Alone(tmp_path / "a b", "local")
        yield made
        swept(made)
        pbs.run("qdel", job.stdout.strip())
