"""Inside a real ``salloc``, of both generations of Slurm."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from lemnos.launchers import allocation
from lemnos.launchers.allocation import Allocation
from tests.testbeds.fixtures import cluster  # noqa: F401
from tests.testbeds.slurm import Slurm

pytestmark = pytest.mark.bed


@pytest.fixture
def inside(cluster: Slurm) -> Iterator[tuple[Slurm, Allocation, dict[str, str]]]:  # noqa: F811
    """An allocation of two nodes, as its shell sees it."""
    words = ["salloc", "--nodes=2", "--gres=gpu:2", "--time=10", "--mem=1000"]
    shell = ["sh", "-c", "env; echo; exec cat"]
    command = [*cluster.at("login"), *words, *shell]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as salloc:  # fmt: skip
        assert salloc.stdout and salloc.stdin
        lines = iter(salloc.stdout.readline, "\n")
        env = dict(line.rstrip("\n").partition("=")[::2] for line in lines)
        found = allocation.detect(env, lambda path: None)
        assert found
        said = cluster.run("login", *allocation.question(found))
        yield (
            cluster,
            allocation.answered(found, said, time.time()),
            {k: v for k, v in env.items() if k.startswith("SLURM_")},
        )
        salloc.stdin.close()  # the shell ends, and the allocation with it
        salloc.wait(60)


def test_its_hosts_gpus_and_end_are_known(
    inside: tuple[Slurm, Allocation, dict[str, str]],
) -> None:
    _, found, _ = inside
    assert found.hosts == ("n1", "n2") and found.gpus_per_host == 2
    assert found.ends_at and 0 < found.ends_at - time.time() <= 600


def test_steps_run_where_they_should_with_all_that_was_given(
    inside: tuple[Slurm, Allocation, dict[str, str]],
) -> None:
    bed, found, env = inside
    script = 'hostname; echo "$CUDA_VISIBLE_DEVICES"; echo "$0"'
    for host in found.hosts:
        argv = ("sh", "-c", script, "a 'b' $(id) %n")
        words = allocation.command_for(found, host, "engine-0.1", argv)
        said = bed.run("login", *words, env=env)
        assert said == f"{host}\n0,1\na 'b' $(id) %n\n"
