"""``on: local`` over other hosts, without a scheduler: the contract, and what only several hosts have."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.base import Launcher
from lemnos.launchers.local import Local
from lemnos.spec.plan import Secret
from lemnos.transport.base import Transport
from lemnos.transport.ssh import Ssh
from tests.contract.launchers.bed import KEY, SERVER, WAITER, said, status_of
from tests.contract.launchers.local_bed import Alone
from tests.contract.launchers.suite import LauncherSuite, swept
from tests.testbeds.hosts import Hosts, hosts
from tests.unit.deployments.test_prepare_gpu import planned

pytestmark = pytest.mark.bed

NAMES = ("n1", "n2", "n3")
SMI = """#!/bin/sh
for number in 0 1; do echo "$number, NVIDIA H100 80GB HBM3, 81559, 81000"; done
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three hosts with a driver that tells of two GPUs each."""
    directory = tmp_path_factory.mktemp("hosts")
    tools = tmp_path_factory.mktemp("sbin")
    (tools / "nvidia-smi").write_text(SMI)
    (tools / "nvidia-smi").chmod(0o755)
    with hosts(directory, *NAMES, files={str(tools): "/usr/local/sbin"}) as made:
        yield made


@dataclasses.dataclass
class HostsBed(Alone):
    """Its launchers reach hosts as the test's own process can: not by a network."""

    config: Path = Path()

    def launcher(self, name: str = "box", **spec_changes: Any) -> Launcher:
        made = Local(self.site(name, **spec_changes), self.reach)
        self.made.append(made)
        return made

    def reach(self, host: str) -> Transport:
        return Ssh(host, self.config)

    def cut(self, *hosts: str) -> None:
        """From now on nothing listens for SSH on these hosts, and only on these."""
        whole = self.config.read_text().partition("# whole\n")[2] or self.config.read_text()  # fmt: skip
        for host in NAMES:  # the shared connection would go on
            there = Ssh(host, self.config)
            with contextlib.suppress(LemnosError):
                there.run("true")
            there.close()
        closed = [f"Host {h}\n HostName 127.0.0.1\n Port 9\n ProxyCommand none\n" for h in hosts]  # fmt: skip
        self.config.write_text("".join(closed) + "Host *\n# whole\n" + whole)


@pytest.fixture
def bed(boxes: Hosts, tmp_path: Path) -> Iterator[HostsBed]:
    config = tmp_path / "ssh_config"
    config.write_text(boxes.ssh_from_here.read_text())
    keys = {"local": {"hosts": list(NAMES)}}
    made = HostsBed(tmp_path / "state", "local", keys=keys, config=config)
    yield made
    made.cut()
    swept(made)


class TestContract(LauncherSuite):
    """What every launcher does."""


def test_units_are_spread_and_come_back_through_ssh(bed: HostsBed) -> None:
    launcher = bed.launcher()
    for name in ("engine-0", "engine-1", "engine-2"):
        launcher.submit(bed.unit(launcher, name))
        assert bed.told(launcher, name)
    found = launcher.status()
    assert sorted(status.hosts[0] for status in found.values()) == list(NAMES)
    assert all(status.url.startswith("http://127.0.0.1:") for status in found.values())
    assert {log.host for name in found for log in launcher.logs(name)} == set(NAMES)
    other = bed.launcher("box-2")
    assert other.place(bed.plan("box-2"), "engine-0").names == ("n1",)
    assert other.place(bed.plan("box-2"), "engine-1").names == ("n2",), "all are counted"  # fmt: skip


def test_this_machine_may_be_one_of_the_hosts(bed: HostsBed) -> None:
    launcher = bed.launcher(local={"hosts": ["localhost", "n1"]})
    for name in ("engine-0", "engine-1"):
        launcher.submit(bed.unit(launcher, name))
        assert bed.told(launcher, name)
    found = bed.launcher(local={"hosts": ["localhost", "n1"]}).status()
    assert [found[name].hosts[0] for name in sorted(found)] == ["localhost", "n1"]
    assert found["engine-0"].pids and not found["engine-1"].pids
    launcher.cancel("engine-0", kill=True)
    launcher.cancel("engine-1")
    bed.until(lambda: not bed.processes())


def test_gpus_are_given_once_over_deployments(bed: HostsBed) -> None:
    wide = planned("glm-4.6", "2x2xH100", tensor=2, pipeline=2)
    one = planned("qwen3-8b", "1xH100")
    first = bed.launcher().place(wide, "engine-0")
    assert (first.names, first.devices) == (("n1", "n2"), ("0", "1"))
    assert len(set(first.hosts)) == 2 and first.inner_port == first.port + 1
    others = bed.launcher("box-2")
    with pytest.raises(LemnosError, match="n1: 0 of 2 GPUs are free"):
        others.place(wide, "engine-0")
    place = others.place(one, "engine-1")
    assert (place.names, place.devices) == (("n3",), ("0",))
    assert others.place(one, "engine-2").devices == ("1",)
    with pytest.raises(LemnosError, match="a host with 1 free GPUs is needed"):
        others.place(one, "engine-3")
    tall = planned("glm-4.6", "4x2xH100", tensor=2, pipeline=4)
    with pytest.raises(LemnosError, match="needs 4 hosts for a replica, and there are 3"):  # fmt: skip
        others.place(tall, "engine-4")


def test_a_unit_over_two_hosts_runs_ends_and_is_seen_as_one(bed: HostsBed) -> None:
    launcher = bed.launcher()
    wide = planned("glm-4.6", "2x2xH100", tensor=2, pipeline=2)
    unit = bed.unit(launcher, "engine-0", SERVER, WAITER)
    place = launcher.place(wide, "engine-0")
    jobs = [
        job.model_copy(update={"host": host, "port": 0 if rank else place.port})
        for rank, (job, host) in enumerate(zip(unit.jobs, place.hosts, strict=True))
    ]
    program = (*bed.python, "-c", SERVER, place.hosts[0], str(place.port))
    command = jobs[0].command.model_copy(update={"argv": program})
    jobs[0] = jobs[0].model_copy(update={"command": command})
    unit = unit.model_copy(update={"jobs": tuple(jobs), "place": place})
    launcher.submit(unit)
    assert bed.told(launcher)
    assert launcher.status()["engine-0"].hosts == ("n1", "n2")
    assert [log.host for log in launcher.logs("engine-0")] == ["n1", "n2"]
    bed.launcher().cancel("engine-0", kill=True)
    bed.until(lambda: not status_of(launcher).alive)
    assert not bed.processes()


def test_a_silent_host_ends_nothing_until_it_is_given_up(bed: HostsBed) -> None:
    launcher = bed.launcher()
    for name in ("engine-0", "engine-1"):
        launcher.submit(bed.unit(launcher, name))
        bed.told(launcher, name)
    before = launcher.status()
    assert before["engine-0"].hosts == ("n1",)
    bed.cut("n1")
    others_of = launcher._others  # type: ignore[attr-defined]
    bed.until(lambda: launcher.status() and "n1" in others_of.silent)
    assert launcher.status() == before, "nothing is known to have ended"
    late = bed.launcher().status()["engine-0"]
    assert late.alive and late.broken == "cannot be reached: n1 does not answer"
    with pytest.raises(LemnosError, match="nothing listens for SSH"):
        launcher.cancel("engine-0")
    assert launcher.status()["engine-0"].alive, "asked in vain, it is not given up"
    with pytest.raises(LemnosError, match="ended when it answers again"):
        launcher.cancel("engine-0", kill=True)
    why = "was given up: n1 does not answer"
    assert launcher.status()["engine-0"].why == why
    bed.until(lambda: bed.launcher().status()["engine-0"].why == why)
    again = bed.unit(launcher, "engine-0")
    assert again.place.names == ("n3",), "where fewest are, and somebody answers"
    launcher.submit(again)
    told = bed.told(launcher)
    assert len(bed.processes()) == 3
    with pytest.raises(LemnosError, match="nothing listens for SSH"):
        bed.launcher("box-2", local={"hosts": ["n1"]}).place(bed.plan(), "engine-0")
    bed.cut()
    bed.until(lambda: launcher.status() and len(bed.processes()) == 2)
    assert bed.told(launcher)["pid"] == told["pid"]
    assert launcher.status()["engine-1"] == before["engine-1"]


def test_back_on_the_same_host_what_was_given_up_is_gone(bed: HostsBed) -> None:
    launcher = bed.launcher(local={"hosts": ["n1"]})
    launcher.submit(bed.unit(launcher))
    pid = bed.told(launcher)["pid"]
    bed.cut("n1")
    with pytest.raises(LemnosError):
        launcher.cancel("engine-0", kill=True)
    bed.cut()
    again = bed.launcher(local={"hosts": ["n1"]})
    again.submit(bed.unit(again))
    assert bed.told(again)["pid"] != pid
    assert len(bed.processes()) == 1


def test_sweeping_is_finished_when_a_host_is_back(bed: HostsBed) -> None:
    launcher = bed.launcher()
    for name in ("engine-0", "engine-1"):
        launcher.submit(bed.unit(launcher, name, WAITER))
    bed.until(lambda: len(bed.processes()) == 2)
    bed.cut("n2")
    with pytest.raises(LemnosError, match="what runs there is not ended"):
        launcher.sweep()
    assert len(bed.processes()) == 1
    bed.cut()
    bed.launcher().sweep()
    bed.until(lambda: not bed.processes())


def test_an_earlier_revisions_hosts_are_swept_too(bed: HostsBed) -> None:
    before = bed.launcher(local={"hosts": ["n3"]})
    before.submit(bed.unit(before, "engine-0", WAITER))
    now = bed.launcher(local={"hosts": ["n1"]})
    assert now.status()["engine-0"].hosts == ("n3",)
    assert now.place(bed.plan(), "engine-1").names == ("n1",)
    now.sweep()
    bed.until(lambda: not bed.processes())


def test_a_host_that_shares_no_directory_has_key_log_and_nothing_afterwards(
    bed: HostsBed, boxes: Hosts
) -> None:
    launcher = bed.launcher(local={"hosts": ["n2"]})
    directory = bed.directory / "box"
    boxes.hide("n2", directory)
    try:
        key_file = launcher.files("engine-0").key_file
        keyed = f"{bed.site().unit_directory('engine-0')}/engine.yaml"
        secrets = (
            Secret(key_file=key_file, env="ENGINE_KEY"),
            Secret(key_file=key_file, file=keyed, text="{key}"),
        )
        launcher.submit(bed.unit(launcher, secrets=secrets))
        assert bed.told(launcher)["env"]["ENGINE_KEY"] == KEY
        assert "up []" in said(launcher)
        assert boxes.run("n2", "cat", keyed) == KEY
        assert not (directory / "engine-0.log").exists()
        launcher.sweep()
        left = boxes.run("n2", "find", str(directory), "-mindepth", "1")
        assert left.split() == [f"{directory}/engine-0.log"]
        assert (directory / "engine.key").exists(), "ours is ours"
    finally:
        boxes.run("n2", "umount", str(directory))


def test_a_slow_host_holds_nobody_up(bed: HostsBed, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    monkeypatch.setattr("lemnos.launchers.watch.PATIENCE_S", 0.0)
    assert launcher.status()["engine-0"].alive, "as it was seen last"
