"""The beds as fixtures, each started once a module. A module with needs of its own uses the
context managers that these are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.testbeds.slurm import Slurm, slurm
from tests.testbeds.slurm24 import slurm24
from tests.testbeds.systemd import Systemd, systemd

if TYPE_CHECKING:  # its web server takes long to import, and most tests need none
    from tests.testbeds.kubernetes import Cluster

GENERATIONS = {"22.05": slurm, "24.11": slurm24}


@pytest.fixture(scope="module", params=GENERATIONS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Slurm]:
    """Slurm, of both generations one after the other; see tests/testbeds/slurm.py."""
    with GENERATIONS[request.param](tmp_path_factory.mktemp("slurm")) as bed:
        yield bed


@pytest.fixture(scope="module")
def systemd_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """A host with systemd, which shares the temporary files of this run's tests, for root."""
    shared = [tmp_path_factory.getbasetemp()]
    with systemd(tmp_path_factory.mktemp("systemd"), shared=shared) as bed:
        yield bed


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that the real kubectl talks to; see tests/testbeds/kubernetes."""
    from tests.testbeds.kubernetes import kubernetes

    with kubernetes(tmp_path_factory.mktemp("kube")) as bed:
        yield bed
