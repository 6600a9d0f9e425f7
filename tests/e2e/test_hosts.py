"""A deployment's life on several hosts without a scheduler, and inside ``salloc``, with the real engine."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.testbeds.hosts import Hosts, hosts
from tests.testbeds.slurm import Slurm
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.usefixtures("embedded")]

TWO = ["--set", "local.hosts=[n1,n2]", "--set", "replicas=2"]
FRANCE = ("chat", "--prompt", "The capital of France?", "--temperature", "0")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts"), "desk", "n1", "n2") as made:
        yield made


@pytest.fixture
def life(
    boxes: Hosts, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on the desk; the hosts see its home, as with one on a file server."""
    made = Life(boxes.at("desk"), tmp_path, models_cache(pytestconfig))
    yield made
    boxes.boot(*({"n1", "n2"} - boxes.running.keys()))
    if made.report("ps"):
        made.run("down", "--all", "--now")


def engines(boxes: Hosts, host: str) -> list[str]:
    return [line for line in boxes.processes(host) if "llamacpp_server" in line]


def phase(life: Life) -> str:
    (shown,) = life.report("ps")
    return str(shown["phase"])


def test_two_replicas_on_two_hosts_and_down_leaves_nothing(
    boxes: Hosts, life: Life
) -> None:
    found = life.up(*TWO)
    assert [len(engines(boxes, host)) for host in ("desk", "n1", "n2")] == [0, 1, 1]
    (table,) = life.home.glob("state/deployments/*/targets.json")
    for host in ("n1", "n2"):
        assert f"http://{boxes.addresses[host]}:" in table.read_text()
    assert life.run(*FRANCE)
    with life.load(found["url"], every_s=0.2) as told:
        until(lambda: all("listening" in life.run("logs", "-n", "500", "--node", n) for n in ("n1", "n2")))  # fmt: skip
    assert failed(told) == []
    assert {who for _, who in told} == {"engine-0", "engine-1"}
    again = life.up(*TWO)
    assert again["already_up"]
    life.run("down")
    for host in ("desk", "n1", "n2"):
        until(functools.partial(_is_clean, boxes, host))
    assert files_left(life.home) == []


def _is_clean(boxes: Hosts, host: str) -> bool:
    found = boxes.processes(host)
    return not [p for p in found if "-m lemnos" in p or "run.sh" in p]


def test_when_a_host_dies_its_replica_comes_back_on_the_other(
    boxes: Hosts, life: Life
) -> None:
    found = life.up(*TWO)
    boxes.kill("n1")
    until(lambda: len(engines(boxes, "n2")) == 2, within_s=150)
    until(lambda: phase(life) == "ready", within_s=60)
    with life.load(found["url"], every_s=0.2) as told:
        assert life.run(*FRANCE)
    assert failed(told) == []
    boxes.boot("n1")
    life.run("down")
    for host in ("n1", "n2"):
        until(lambda: not engines(boxes, host))  # noqa: B023


def test_a_supervisor_that_was_killed_finds_its_replicas(
    boxes: Hosts, life: Life
) -> None:
    found = life.up(*TWO)
    before = [engines(boxes, host) for host in ("n1", "n2")]
    (shown,) = life.report("ps")
    boxes.run("desk", "kill", "-9", str(shown["supervisor_pid"]))
    with life.load(found["url"]) as told:
        again = life.up(*TWO)
        until(lambda: phase(life) == "ready")
    assert again["already_up"] and failed(told) == []
    assert [engines(boxes, host) for host in ("n1", "n2")] == before


def test_inside_salloc_the_allocation_is_the_room(
    cluster: Slurm, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    words = ["salloc", "--nodes=2", "--time=10", "--mem=4000", "--cpus-per-task=4"]
    command = [*cluster.at("login"), *words, "sh", "-c", "env; echo; exec cat"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert shell.stdout and shell.stdin
        lines = [line.rstrip("\n") for line in iter(shell.stdout.readline, "\n")]
        env = [line for line in lines if line.startswith("SLURM_")]
        words = [*cluster.at("login"), "env", *env]
        life = Life(words, tmp_path, models_cache(pytestconfig))
        found = life.up("--set", "replicas=2")
        assert [len(engines(cluster.hosts, n)) for n in ("login", "n1", "n2")] == [0, 1, 1]  # fmt: skip
        with life.load(found["url"]) as told:
            assert life.run(*FRANCE)
            (shown,) = life.report("ps")
            cluster.run("login", "kill", "-9", str(shown["supervisor_pid"]))
            # From a shell that is not the allocation's, too.
            outside = Life(cluster.at("login"), tmp_path, life.models)
            assert outside.up("--set", "replicas=2")["already_up"]
        assert failed(told) == []
        outside.run("down")
        for node in ("n1", "n2"):
            until(lambda: not engines(cluster.hosts, node))  # noqa: B023
        assert files_left(tmp_path) == []
        shell.stdin.close()
        shell.wait(60)
    cluster.clear()
