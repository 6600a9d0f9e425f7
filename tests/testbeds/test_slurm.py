"""The Slurm beds do what a cluster does, in both generations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.testbeds.slurm import Slurm
from tests.waiting import until

pytestmark = pytest.mark.bed


@pytest.fixture(autouse=True)
def clear(cluster: Slurm) -> Iterator[None]:
    yield
    cluster.clear()


def _sleeping(bed: Slurm, *words: str) -> str:
    """A job that sleeps, as soon as it runs."""
    job = bed.submit(*words, "--output=/dev/null", "--wrap=sleep 1003")
    until(lambda: bed.state(job) == "RUNNING")
    return job


def test_a_batch_job_gets_the_gpus_of_its_own(cluster: Slurm) -> None:
    said = cluster.directory / "said"
    script = (
        f"{sys.executable} -c 'import lemnos'; echo $(hostname) $CUDA_VISIBLE_DEVICES"
    )
    other = _sleeping(cluster, "--gpus=3", "--nodelist=n2")
    job = cluster.submit("--gpus=2", "--nodelist=n2", f"--output={said}", f"--wrap={script}")  # fmt: skip
    until(lambda: cluster.state(job) == "COMPLETED")
    assert said.read_text() == "n2 3,4\n"
    assert cluster.state(other) == "RUNNING"


def test_steps_run_on_every_node(cluster: Slurm) -> None:
    printed = cluster.run(
        "login", "srun", "--nodes=3", "--gpus-per-node=8", "--mem=1G", "hostname"
    )
    assert sorted(printed.split()) == ["n1", "n2", "n3"]


def test_clients_run_from_the_test_itself(
    cluster: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
    job = _sleeping(cluster, "--job-name=from here")
    asked = subprocess.run(["squeue", "--json"], capture_output=True, text=True, check=True)  # fmt: skip
    jobs = {str(found["job_id"]): found for found in json.loads(asked.stdout)["jobs"]}
    assert jobs[job]["name"] == "from here"
    refused = subprocess.run(["sbatch", "-p", "none", "--wrap=true"], capture_output=True, text=True, check=False)  # fmt: skip
    assert refused.returncode == 1 and "invalid partition" in refused.stderr
    # What is said on the standard input arrives, as scripts do.
    given = subprocess.run(["sbatch", "--parsable", "--output=/dev/null"], input="#!/bin/sh\ntrue\n", capture_output=True, text=True, check=True)  # fmt: skip
    until(lambda: cluster.state(given.stdout.strip()) == "COMPLETED")


def test_what_left_its_session_ends_with_its_job(cluster: Slurm) -> None:
    if cluster.proctrack != "cgroup":
        pytest.skip("this kernel has no freezer for proctrack/cgroup")
    wrap = "setsid --fork sleep 1004; sleep 1004"
    job = cluster.submit("--nodelist=n1", "--output=/dev/null", f"--wrap={wrap}")
    until(lambda: cluster.hosts.processes("n1").count("sleep 1004") == 2)
    cluster.run("login", "scancel", job)
    until(lambda: "sleep 1004" not in cluster.hosts.processes("n1"))


def test_a_node_without_power_is_noticed_and_its_job_runs_again(cluster: Slurm) -> None:
    job = _sleeping(cluster, "--nodelist=n3", "--requeue")
    cluster.kill_node("n3")
    until(lambda: cluster.node_state("n3").startswith("down"), within_s=90)
    assert cluster.state(job) == "PENDING"
    cluster.revive_node("n3")
    until(lambda: cluster.state(job) == "RUNNING", within_s=60)
    assert "Restarts=1" in cluster.run("login", "scontrol", "show", "job", job)


def test_urgent_jobs_requeue_cheap_ones(cluster: Slurm) -> None:
    cheap = _sleeping(cluster, "--partition=cheap", "--nodes=3", "--exclusive")
    urgent = _sleeping(cluster, "--partition=urgent", "--exclusive")
    until(lambda: cluster.state(cheap) == "PENDING")
    cluster.run("login", "scancel", urgent)
    until(lambda: cluster.state(cheap) == "RUNNING", within_s=60)


def test_jobs_that_wait_say_why(cluster: Slurm) -> None:
    cluster.reserve("kept", "n2")
    try:
        waiting = {
            cluster.submit("--partition=down", "--wrap=true"): "PartitionDown",
            cluster.submit("--partition=short", "--time=5", "--wrap=true"): "PartitionTimeLimit",
            cluster.submit("--nodelist=n2", "--wrap=true"): "ReqNodeNotAvail",
            _sleeping(cluster, "--reservation=kept"): "None",
        }  # fmt: skip
        for job, reason in waiting.items():
            ask = ("squeue", "--noheader", "--format=%r", f"--jobs={job}")
            until(lambda ask=ask, reason=reason: reason in cluster.run("login", *ask))  # type: ignore[misc]
    finally:
        cluster.clear()
        cluster.run("login", "scontrol", "delete", "reservation=kept")
