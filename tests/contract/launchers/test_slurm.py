"""The contract of launchers with two real generations of Slurm, over hosts of network namespaces."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lemnos.transport.base import Done
from lemnos.transport.here import Here
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.slurm import Slurm

pytestmark = pytest.mark.bed

ASK = """
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(direct.open(sys.argv[1], timeout=10).read().decode())
"""


class OnLogin(Here):
    """Commands as a user of the login node gives them; files are the same everywhere."""

    def __init__(self, cluster: Slurm) -> None:
        self._cluster = cluster

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        words = self._cluster.at("login")
        return super().run(*words, *argv, stdin=stdin, timeout_s=timeout_s)


@dataclass
class SlurmBed(Bed):
    """``cluster``: nodes n1, n2, n3, which only hosts of the bed can reach."""

    cluster: Slurm = field(kw_only=True)

    def get(self, url: str) -> dict[str, Any]:
        done = self.transport.run(sys.executable, "-I", "-S", "-c", ASK, url)
        if done.code:
            raise OSError(done.err)
        told: dict[str, Any] = json.loads(done.out)
        return told


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
    pass
