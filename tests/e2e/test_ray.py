"""A deployment's life on a Ray that lemnos starts on three hosts, with the real engine."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.testbeds.hosts import Hosts
from tests.testbeds.ray import PYTHON, hosts_with_ray
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.usefixtures("embedded"),
    pytest.mark.timeout(600),
]

NODES = ("n1", "n2", "n3")
FRANCE = ("chat", "--prompt", "The capital of France?", "--temperature", "0")
# All of a host's cores, so that two replicas are on two hosts: one of them is not the head.
CORES = len(os.sched_getaffinity(0))
ROOM = [
    *("--on", "ray", "--set", "ray.hosts=[n1,n2,n3]"),
    *("--set", f"ray.python={PYTHON}"),
    *("--set", f"ray.cpus={CORES}", "--set", "replicas=2"),
    *("--set", "rollout=stop-first"),
]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts_with_ray(tmp_path_factory.mktemp("ray"), "desk", *NODES) as made:
        yield made


@pytest.fixture
def life(
    boxes: Hosts, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on the desk; the hosts see its home, as with one on a file server."""
    made = Life(boxes.at("desk"), tmp_path, models_cache(pytestconfig))
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")


def rays(boxes: Hosts, host: str) -> list[str]:
    """What of Ray and the engine runs there."""
    words = ("raylet", "gcs_server", "ray::", "llamacpp_server", "/ray/")
    return [p for p in boxes.processes(host) if any(word in p for word in words)]


def engines(boxes: Hosts, host: str) -> list[str]:
    return [p for p in boxes.processes(host) if "llamacpp_server" in p]


def phase(life: Life) -> str:
    (shown,) = life.report("ps")
    return str(shown["phase"])


def test_a_life_on_hosts(boxes: Hosts, life: Life) -> None:
    began = time.monotonic()
    found = life.up(*ROOM)
    print(f"up to ready: {time.monotonic() - began:.1f} s")  # noqa: T201
    assert all(rays(boxes, host) for host in NODES)
    assert life.run(*FRANCE)
    assert "listening" in life.run("logs", "-n", "500")
    assert '"hosts"' in life.run("logs", "--role", "driver")
    assert life.up(*ROOM)["already_up"]

    with life.load(found["url"]) as told:
        _lose_the_raylet(boxes, life)
    assert len(failed(told)) < len(told) / 2, "the other replica served on"
    life.up("--concurrency", "2", *ROOM)
    life.run("rollback")
    assert [each["state"] for each in life.report("history")] == ["served", "served", "serves"]  # fmt: skip

    life.run("down")
    for host in NODES:
        until(functools.partial(_is_clean, boxes, host))
    assert files_left(life.home) == []
    assert not list(Path("/tmp").glob(f"lemnos-ray-{_of(life)}*"))


def _lose_the_raylet(boxes: Hosts, life: Life) -> None:
    """Ray on the replica's host is killed: noticed, and the replica and that host's Ray come back."""
    lost = next(host for host in NODES[1:] if engines(boxes, host))
    pid = boxes.run(lost, "pgrep", "-x", "raylet").split()[0]
    killed = time.monotonic()
    boxes.run(lost, "kill", "-9", pid)
    until(lambda: life.report("ps")[0]["restarts"] == 1, within_s=60)
    noticed = time.monotonic() - killed
    until(lambda: phase(life) == "ready", within_s=180)
    back = time.monotonic() - killed
    print(f"raylet on {lost} killed: noticed after {noticed:.1f} s, back after {back:.1f} s")  # noqa: T201  # fmt: skip
    assert "Ray lost" in life.report("ps")[0]["why"]
    until(lambda: any("raylet" in p for p in boxes.processes(lost)))


def _is_clean(boxes: Hosts, host: str) -> bool:
    return not rays(boxes, host)


def _of(life: Life) -> str:
    """Nothing of this home's is looked for by name: sessions carry a hash of its id."""
    from lemnos.launchers.ray.starting import session_hash

    owner = (life.home / "state/id").read_text().strip()
    return session_hash(f"lemnos:{owner}:smollm2-135m-instruct:")
