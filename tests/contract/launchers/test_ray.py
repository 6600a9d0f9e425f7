"""Units as jobs of a real Ray that is joined: a head and two nodes, reached through SSH to the head."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import late
from lemnos.launchers.base import Launcher
from lemnos.launchers.registry import launcher_for
from lemnos.spec.unit import Unit
from lemnos.transport.ssh import Ssh
from tests.contract.launchers.bed import SERVER, WAITER, said, status_of
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.ray import Ray, ray

pytestmark = [pytest.mark.bed, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    with ray(tmp_path_factory.mktemp("ray")) as bed:
        yield bed


@pytest.fixture(scope="module")
def ssh(cluster: Ray) -> Iterator[Ssh]:
    made = Ssh("head", cluster.hosts.ssh_from_here)
    yield made
    made.close()


@pytest.fixture
def bed(ssh: Ssh, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path / "a b", "ray", ssh, wait_s=90.0)
    made.directory.mkdir()
    yield made
    swept(made)


class TestRay(LauncherSuite):
    pass


def gang(bed: Bed, launcher: Launcher, name: str, gpus: int, hosts: int = 2) -> Unit:
    """A process with an API and its followers, a host each, with GPUs."""
    unit = bed.unit(launcher, name, SERVER, *[WAITER] * (hosts - 1))
    place = unit.place.model_copy(
        update={"hosts": tuple(late.host(n) for n in range(hosts)), "gpus_per_host": gpus}
    )  # fmt: skip
    jobs = [job.model_copy(update={"host": late.host(n)}) for n, job in enumerate(unit.jobs)]  # fmt: skip
    return unit.model_copy(update={"place": place, "jobs": tuple(jobs)})


def test_ranks_have_their_gpus_on_a_node_each_and_others_wait(bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(gang(bed, launcher, "engine-0", gpus=5))
    told = bed.told(launcher)
    assert len(told["env"]["CUDA_VISIBLE_DEVICES"].split(",")) == 5
    status = launcher.status()["engine-0"]
    assert len(set(status.hosts)) == 2
    assert {log.host for log in launcher.logs("engine-0")} == {*status.hosts, ""}

    second = gang(bed, launcher, "engine-1", gpus=4)
    room = launcher.room(second)
    assert not room.free and "0 of the 2 nodes" in room.why
    launcher.submit(second)
    bed.until(lambda: "2 hosts with 4 GPU" in launcher.status()["engine-1"].why)
    assert launcher.status()["engine-1"].state == "queued"
    launcher.cancel("engine-1")
    bed.until(lambda: not status_of(launcher, "engine-1").alive)
    assert launcher.status()["engine-0"].state == "running"
    with pytest.raises(UsageError, match="GPU are needed, and 0 of this"):
        launcher.room(gang(bed, launcher, "engine-2", gpus=16))


def test_a_worker_that_is_killed_leaves_nothing(cluster: Ray, bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(gang(bed, launcher, "engine-0", gpus=1))
    assert bed.told(launcher)
    address = launcher.status()["engine-0"].hosts[1]
    node = next(n for n, a in cluster.hosts.addresses.items() if a == address)
    workers = cluster.hosts.run(node, "pgrep", "-f", "^ray::Host").split()
    cluster.hosts.run(node, "kill", "-9", *workers)
    bed.until(lambda: not status_of(launcher).alive)
    assert address in status_of(launcher).why
    bed.until(lambda: not bed.processes())


def test_a_lost_raylet_is_noticed_and_a_new_start_runs(cluster: Ray, bed: Bed) -> None:
    launcher = bed.launcher()
    unit = gang(bed, launcher, "engine-0", gpus=8)
    launcher.submit(unit)
    first = bed.told(launcher)["pid"]
    address = launcher.status()["engine-0"].hosts[0]
    node = next(n for n, a in cluster.hosts.addresses.items() if a == address)
    raylet = cluster.hosts.run(node, "pgrep", "-x", "raylet").split()
    killed = time.monotonic()
    cluster.hosts.run(node, "kill", "-9", *raylet)
    bed.until(lambda: not status_of(launcher).alive)
    print(f"raylet killed: noticed after {time.monotonic() - killed:.1f} s")  # noqa: T201
    bed.until(lambda: not bed.processes())
    launcher.submit(unit)
    bed.until(lambda: "that is too few" in status_of(launcher).why)
    cluster.restart(node)
    assert bed.told(launcher)["pid"] != first
    assert said(launcher).count("up []") == 1, "each start has its own log"


def test_a_head_that_went_away_ends_nothing(cluster: Ray, bed: Bed) -> None:
    """The last of this module: its cluster is gone afterwards."""
    launcher = launcher_for(bed.site())
    launcher.submit(bed.unit(launcher))
    bed.until(lambda: launcher.status()["engine-0"].url)
    cluster.kill_node("head")
    with pytest.raises(LemnosError):
        bed.until(lambda: not launcher.status()["engine-0"].alive)
    bed.until(lambda: not bed.processes())
