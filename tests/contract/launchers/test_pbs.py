"""Units as jobs of a PBS that runs them (the fake of ``tests/testbeds/fake_pbs``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.fake_pbs import FakePbs, fake_pbs


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    with fake_pbs(tmp_path_factory.mktemp("pbs") / "p") as running:
        yield running


@pytest.fixture
def bed(pbs: FakePbs, tmp_path: Path) -> Iterator[Bed]:
    keys = {"pbs": {"bin": str(pbs.bin), "poll_s": 0.05, "time": "1:00:00"}}
    made = Bed(tmp_path / "a b", "pbs", wait_s=60, keys=keys)
    yield made
    swept(made)


class TestPbs(LauncherSuite):
    pass
