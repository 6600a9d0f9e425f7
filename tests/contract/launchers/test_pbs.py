"""Units as jobs of a PBS that runs them (the fake of ``tests/testbeds/fake_pbs``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.launchers.pbs_bed import bed_of
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.fake_pbs import FakePbs, fake_pbs


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    with fake_pbs(tmp_path_factory.mktemp("pbs") / "p") as running:
        yield running


@pytest.fixture
def bed(pbs: FakePbs, tmp_path: Path) -> Iterator[Bed]:
    made = bed_of(pbs, tmp_path / "a b")
    yield made
    swept(made)


class TestPbs(LauncherSuite):
    pass
