"""The contract of launchers with two real generations of Slurm, over hosts of network namespaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.base import Launcher
from lemnos.launchers.slurm import queue
from lemnos.transport.base import Done
from lemnos.transport.here import Here
from tests.contract.launchers.bed import SERVER, WAITER, status_of
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.slurm import Slurm, slurm

pytestmark = pytest.mark.bed


class OnLogin(Here):
    """Commands as a user of the login node gives them; files are the same everywhere."""

    def __init__(self, cluster: Slurm) -> None:
        self._cluster = cluster
        self.limit_s = 60.0

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        words = self._cluster.at("login")
        return super().run(
            *words, *argv, stdin=stdin, timeout_s=min(timeout_s, self.limit_s)
        )


@dataclass
class SlurmBed(Bed):
    """``cluster``: nodes n1, n2, n3, which only hosts of the bed can reach."""

    cluster: Slurm = field(kw_only=True)

    transport: OnLogin = field(kw_only=True)

    def slurm(self, **keys: Any) -> dict[str, Any]:
        """The bed's keys of ``slurm``, and these."""
        own: dict[str, Any] = self.keys["slurm"]
        return own | keys

    def log(self, launcher: Launcher, name: str) -> list[str]:
        """The lines of one of ``engine-0``'s logs."""
        logs = {log.job: log for log in launcher.logs("engine-0")}
        return list(launcher.read(logs[name], 100))

    def queue(self) -> list[str]:
        """The jobs in the queue."""
        return self.cluster.run("login", "squeue", "--noheader").splitlines()

    def get(self, url: str) -> dict[str, Any]:
        return self.get_there(url)


@pytest.fixture
def bed(cluster: Slurm, tmp_path: Path) -> Iterator[SlurmBed]:
    made = SlurmBed(
        tmp_path,
        on="slurm",
        transport=OnLogin(cluster),
        wait_s=60.0,
        keys={"slurm": {"partition": "gpu", "poll_s": 1.0}},
        cluster=cluster,
    )
    try:
        yield made
    finally:
        swept(made)
        cluster.clear()


class TestSlurm(LauncherSuite):
    """What every launcher does."""

    def test_a_unit_over_two_nodes(self, bed: SlurmBed) -> None:
        launcher = bed.launcher(slurm=bed.slurm(nodes=2, gpus_per_node=2))
        unit = bed.over_hosts(launcher, SERVER, SERVER)
        launcher.submit(unit)
        told = bed.told(launcher)
        status = launcher.status()["engine-0"]
        assert len(status.hosts) == 2 and told["env"]["SLURMD_NODENAME"] == status.hosts[0]  # fmt: skip
        assert told["env"]["CUDA_VISIBLE_DEVICES"] == "0,1"
        bed.until(lambda: bed.log(launcher, "engine-0.1"))
        other = bed.log(launcher, "engine-0.1")
        assert other[0].endswith(f"on {status.hosts[1]}"), other
        logs = {log.job: log.host for log in launcher.logs("engine-0")}
        assert logs["engine-0.1"] == status.hosts[1]

    def test_gpus_as_tres_and_some_of_them_for_each_process(
        self, bed: SlurmBed
    ) -> None:
        keys = bed.slurm(gpus_by="tres", gpu_type="h100", gpus_per_node=4)
        launcher = bed.launcher(slurm=keys)
        unit = bed.unit(launcher, "engine-0", SERVER, WAITER)
        jobs = [
            job.model_copy(update={"command": job.command.model_copy(update={"env": job.command.env | {"CUDA_VISIBLE_DEVICES": "2,3"}})})
            for job in unit.jobs
        ]  # fmt: skip
        launcher.submit(unit.model_copy(update={"jobs": tuple(jobs)}))
        assert bed.told(launcher)["env"]["CUDA_VISIBLE_DEVICES"] == "2,3"

    def test_a_crash_between_submitting_and_noting_it(self, bed: SlurmBed) -> None:
        launcher = bed.launcher()
        unit = bed.unit(launcher)
        launcher.submit(unit)
        (Path(bed.site().unit_directory("engine-0")) / "job").unlink()
        again = bed.launcher()
        again.submit(unit)
        assert len(bed.queue()) == 1
        assert bed.told(again)["argv"] == []

    def test_somebody_else_cancels_it(self, bed: SlurmBed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher))
        bed.told(launcher)
        bed.cluster.run("login", "scancel", launcher.status()["engine-0"].id)
        why = "was cancelled by somebody else, not by lemnos"
        bed.until(lambda: launcher.status()["engine-0"].why == why)

    def test_its_time_ends(self, bed: SlurmBed) -> None:
        """One minute, told at its start: Slurm signals up to a minute early."""
        launcher = bed.launcher(slurm=bed.slurm(time="60s", drain_s=20))
        launcher.submit(bed.unit(launcher))
        bed.told(launcher)
        leaving = bed.until(lambda: launcher.status()["engine-0"].leaving)
        assert leaving == "its time limit is near"
        assert launcher.status()["engine-0"].ends_at
        bed.until(lambda: not status_of(launcher).alive)
        assert not bed.processes()

    def test_a_preempted_job_says_that_it_leaves(self, bed: SlurmBed) -> None:
        launcher = bed.launcher(slurm=bed.slurm(partition="cheap", exclusive=True, nodes=3))  # fmt: skip
        launcher.submit(bed.unit(launcher))
        bed.told(launcher)
        bed.cluster.submit("--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 60")  # fmt: skip

        def gone() -> bool:
            status = status_of(launcher)
            return bool(status.leaving) or status.state != "running"

        bed.until(gone)

    def test_a_node_dies_and_the_job_runs_elsewhere(self, bed: SlurmBed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher))
        bed.told(launcher)
        (node,) = launcher.status()["engine-0"].hosts
        bed.cluster.kill_node(node)
        try:

            def elsewhere() -> bool:
                status = launcher.status()["engine-0"]
                assert status.alive, status.why
                return status.starts == 1 and bool(status.url)

            bed.until(elsewhere)
            assert launcher.status()["engine-0"].hosts != (node,)
            assert bed.told(launcher)["env"]["SLURMD_NODENAME"] != node
        finally:
            bed.cluster.revive_node(node)

    def test_a_directory_that_is_not_shared(
        self, bed: SlurmBed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "REGISTER_S", 2.0)
        launcher = bed.launcher(slurm=bed.slurm(nodelist="n3"))
        bed.cluster.hosts.hide("n3", bed.directory)
        launcher.submit(bed.unit(launcher, "engine-0", WAITER))

        def said() -> str:
            status = launcher.status()["engine-0"]
            return status.broken or ("" if status.alive else status.why)

        why = bed.until(said)
        bed.cluster.run("n3", "umount", str(bed.directory))
        assert "n3 does not see" in why and "LEMNOS_HOME" in why

    def test_what_the_room_refuses(self, bed: SlurmBed) -> None:
        cases: list[tuple[dict[str, Any], str, str]] = [
            ({"partition": "gpuu"}, "unknown partition 'gpuu'", "Did you mean 'gpu'?"),
            ({"constraint": "h900"}, "no node has the features 'h900'", "sinfo"),
            ({"reservation": "none"}, "no reservation 'none'", "scontrol"),
            ({"gpu_type": "b300", "gpus_per_node": 1}, "", "sinfo"),
            ({"gpus_per_node": 99}, "gpu:99", "plan for fewer"),
            ({"nodelist": "n77"}, "a node that there is not", "sinfo"),
        ]
        for keys, what, fix in cases:
            launcher = bed.launcher(slurm=bed.slurm(**keys))
            with pytest.raises(LemnosError) as caught:
                launcher.submit(bed.unit(launcher, dry=True))
            assert what in caught.value.what and fix in caught.value.fix, caught.value
            with pytest.raises(LemnosError):
                launcher.room(bed.unit(launcher, dry=True))
            assert not Path(bed.site().unit_directory("engine-0")).exists()
        assert not bed.queue()

    def test_when_it_could_start(self, bed: SlurmBed) -> None:
        launcher = bed.launcher(slurm=bed.slurm(exclusive=True, nodes=3))
        unit = bed.unit(launcher)
        assert launcher.room(unit).free
        assert not bed.names() - {"box", "box/engine.key"}, "asking writes nothing"
        bed.cluster.submit("--exclusive", "--time=60", "--output=/dev/null", "--wrap=sleep 600")  # fmt: skip
        bed.until(lambda: not launcher.room(unit).free)
        room = launcher.room(unit)
        assert room.starts_at and room.starts_at - time.time() > 60 and room.why
        down = bed.launcher(slurm=bed.slurm(partition="down"))
        assert "runs no jobs now" in down.room(bed.unit(down)).why

    def test_what_waits_says_why(self, bed: SlurmBed) -> None:
        launcher = bed.launcher(slurm=bed.slurm(partition="down"))
        launcher.submit(bed.unit(launcher))
        bed.until(lambda: "runs none now" in launcher.status()["engine-0"].why)
        assert launcher.status()["engine-0"].state == "queued"
        launcher.cancel("engine-0")
        bed.until(lambda: not status_of(launcher).alive)
        assert "was cancelled by lemnos" in launcher.status()["engine-0"].why

    def test_time_over_the_partitions(self, bed: SlurmBed) -> None:
        launcher = bed.launcher(slurm=bed.slurm(partition="short", time="10m", drain_s=5))  # fmt: skip
        unit = bed.unit(launcher)
        rendered = launcher.render(unit)
        assert "#SBATCH --time=00:01:00" in rendered.files["batch.sh"]
        assert "all that partition short gives" in rendered.notes[0]

    def test_a_controller_that_does_not_answer(self, bed: SlurmBed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher))
        bed.told(launcher)
        bed.cluster.run("login", "pkill", "-STOP", "slurmctld")
        try:
            bed.transport.limit_s = 3.0
            again = bed.launcher()
            with pytest.raises(LemnosError):
                again.status()
        finally:
            bed.cluster.run("login", "pkill", "-CONT", "slurmctld")
            bed.transport.limit_s = 60.0
        assert bed.until(lambda: again.status()["engine-0"].url)


@pytest.fixture(scope="module")
def accounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("accounted"), nodes=1, accounting=True) as bed:
        yield bed


def test_where_accounts_are_kept_names_are_said(
    accounted: Slurm, tmp_path: Path
) -> None:
    bed = SlurmBed(
        tmp_path,
        on="slurm",
        transport=OnLogin(accounted),
        wait_s=60.0,
        keys={"slurm": {"poll_s": 1.0}},
        cluster=accounted,
    )
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    accounted.run("login", "scancel", launcher.status()["engine-0"].id)
    why = "was cancelled by root"
    bed.until(lambda: launcher.status()["engine-0"].why == why)
    swept(bed)
