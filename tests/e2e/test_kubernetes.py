"""A deployment's life on a cluster of the bed's own, through the real kubectl, with the real engine in its pods."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.kubernetes_life import life_of
from tests.testbeds.kubectl import with_forwards
from tests.testbeds.kubernetes import NAMESPACE, Cluster
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.usefixtures("embedded"),
    pytest.mark.allow_hosts(["127.0.0.0/8"]),
]


@pytest.fixture
def life(
    kube: Cluster, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on this machine, with a kubeconfig; the nodes have the model in a directory."""
    made = life_of(kube, tmp_path, models_cache(pytestconfig))
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")
    kube.clear()


def engines(kube: Cluster) -> list[str]:
    return [p["metadata"]["name"] for p in kube.pods(**{"lemnos.dev/role": "engine"})]


def test_up_serves_from_a_pod_and_down_leaves_nothing(
    kube: Cluster, life: Life
) -> None:
    found = life.up()
    assert found["ready_s"] > 0
    (pod,) = engines(kube)
    assert life.run("chat", "--prompt", "The capital of France?", "--temperature", "0")
    assert "listening" in life.run("logs", "-n", "500")
    again = life.up()
    assert again["already_up"] and engines(kube) == [pod]
    assert "as lemnos declared it" in life.run("ps", "--drift")
    service = f"{found['name']}-engine-0"
    spec = kube.do(lambda: kube.store.get("services", NAMESPACE, service)["spec"])
    kube.change("services", service, spec=spec | {"ports": []})
    assert "+" in life.report("ps", "--drift")["engine-0"]
    life.run("down")
    until(lambda: not kube.left())
    assert files_left(life.home) == []
    assert "listening" in (log_of(life, "engine-0")).read_text()


def test_a_new_revision_and_back_without_a_failed_request(
    kube: Cluster, life: Life
) -> None:
    found = life.up()
    with life.load(found["url"]) as told:
        life.up("--concurrency", "2")
        life.run("rollback")
    assert failed(told) == []
    assert len({who for _, who in told}) == 3
    history = life.report("history")
    assert [each["state"] for each in history] == ["served", "served", "serves"]


def test_a_pod_that_was_killed_is_brought_back_by_kubernetes(
    kube: Cluster, life: Life
) -> None:
    life.up()
    (pod,) = engines(kube)
    kube.kill(pod, "OOMKilled")

    def back() -> object:
        (found,) = kube.pods(**{"lemnos.dev/role": "engine"})
        (container,) = found["status"]["containerStatuses"]
        return container["restartCount"] == 1 and container["ready"] is True

    until(back, within_s=60)
    until(lambda: life.report("ps")[0]["phase"] == "ready", within_s=60)
    assert engines(kube) == [pod]
    assert life.run("chat", "--prompt", "Hello")
    assert life.report("history")[0]["failures"] == []


def test_a_supervisor_that_was_killed_finds_its_pods(kube: Cluster, life: Life) -> None:
    found = life.up()
    before = engines(kube)
    (shown,) = life.report("ps")
    os.kill(shown["supervisor_pid"], signal.SIGKILL)
    with life.load(found["url"]) as told:
        again = life.up()
    assert again["already_up"] and failed(told) == []
    assert engines(kube) == before


def log_of(life: Life, job: str) -> Path:
    (found,) = (life.home / "state" / "deployments").glob(f"*/{job}.log")
    return found


def test_the_gateway_is_a_pod_too(kube: Cluster, life: Life) -> None:
    """It is handed its table by a ConfigMap, and reached here by a forward on the endpoint's port."""
    life.words = ["env", f"PATH={with_forwards(life.home / 'bin')}{os.pathsep}{os.environ['PATH']}"]  # fmt: skip
    key = life.run("keys", "add", "me", "--keys-file", str(life.home / "keys.yaml"))
    gateway = ("--set", "kubernetes.gateway_image=lemnos:test")
    found = life.up(*gateway, "--set", f"endpoint.keys_file={life.home}/keys.yaml")
    roles = [p["metadata"]["labels"]["lemnos.dev/role"] for p in kube.pods()]
    assert sorted(roles) == ["engine", "gateway"]
    with life.load(found["url"], key=key.split()[-1]) as told:
        until(lambda: "engine-0" in life.run("logs", "--job", "gateway-0"), within_s=60)
    assert failed(told) == []
    life.run("down")
    until(lambda: not kube.left())
