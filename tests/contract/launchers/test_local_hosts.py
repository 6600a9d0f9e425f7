"""``on: local`` over other hosts, without a scheduler: the contract, and what only several hosts have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.launchers.base import Launcher
from lemnos.launchers.local import Local
from lemnos.transport.ssh import Ssh
from tests.contract.launchers.local_bed import Alone
from tests.contract.launchers.suite import LauncherSuite, swept
from tests.testbeds.hosts import Hosts, hosts

pytestmark = pytest.mark.bed

SMI = """#!/bin/sh
cat {directory}/gpus-of-$(hostname) 2>/dev/null
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts"), "n1", "n2", "n3") as made:
        yield made


@dataclasses.dataclass
class HostsBed(Alone):
    """Its launchers reach hosts as the test's own process can: through what is no network."""

    config: Path = Path()

    def launcher(self, name: str = "box", **spec_changes: Any) -> Launcher:
        site = self.site(name, **spec_changes)
        self.made.append(Local(site, lambda host: Ssh(host, self.config)))
        return self.made[-1]


@pytest.fixture
def bed(boxes: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostsBed]:  # fmt: skip
    made = HostsBed(
        tmp_path / "state",
        "local",
        keys={"local": {"hosts": ["n1", "n2", "n3"]}},
        config=boxes.ssh_from_here,
    )
    yield made
    swept(made)


class TestContract(LauncherSuite):
    """What every launcher does."""


def test_units_are_spread_and_come_back_through_ssh(bed: HostsBed) -> None:
    launcher = bed.launcher()
    for name in ("engine-0", "engine-1", "engine-2"):
        launcher.submit(bed.unit(launcher, name))
        assert bed.told(launcher, name)
    found = launcher.status()
    assert sorted(status.hosts[0] for status in found.values()) == ["n1", "n2", "n3"]
    assert all(status.url.startswith("http://127.0.0.1:") for status in found.values())
    assert {log.host for name in found for log in launcher.logs(name)} == {"n1", "n2", "n3"}  # fmt: skip
