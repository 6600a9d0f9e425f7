"""A Slurm bed with accounting refuses what a real one refuses, and remembers jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbeds.fixtures import GENERATIONS
from tests.testbeds.slurm import Slurm
from tests.waiting import until

pytestmark = pytest.mark.bed


@pytest.fixture(scope="module", params=GENERATIONS)
def accounting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Slurm]:
    directory = tmp_path_factory.mktemp("slurm")
    with GENERATIONS[request.param](directory, nodes=1, accounting=True) as bed:
        yield bed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--account=other"], "Invalid account"),
        (["--account=none"], "Invalid account"),
        (["--qos=none"], "Invalid qos"),
    ],
)
def test_what_it_refuses(accounting: Slurm, words: list[str], said: str) -> None:
    assert said in accounting.run("login", "sbatch", *words, "--wrap=true", code=1)


def test_a_qos_holds_long_jobs_back(accounting: Slurm) -> None:
    job = accounting.submit("--qos=brief", "--time=10", "--wrap=true")
    ask = ("squeue", "--noheader", "--format=%r", f"--jobs={job}")
    until(lambda: accounting.run("login", *ask) == "QOSMaxWallDurationPerJobLimit\n")
    accounting.clear()


def test_an_ended_job_is_remembered(accounting: Slurm) -> None:
    job = accounting.submit("--gpus=1", "--output=/dev/null", "--wrap=exit 3")
    ask = ("sacct", "-nPXj", job, "-o", "State,ExitCode,Account,AllocTRES")
    until(lambda: "FAILED|3:0|lab|" in accounting.run("login", *ask))
    assert "gres/gpu=1" in accounting.run("login", *ask)
