"""Units as jobs of a real Ray that is joined: a head and two nodes, reached through SSH to the head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.transport.ssh import Ssh
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
