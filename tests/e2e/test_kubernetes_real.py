"""A deployment's life with Kubernetes' own API server, controllers and scheduler, and the rights of deploy/kubernetes-rights.yaml.

Only where LEMNOS_KUBE_BIN names them: see tests/testbeds/kubernetes/real.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.kubernetes_life import life_of
from tests.testbeds.kubernetes.real import Real, real, why_not
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.usefixtures("embedded"),
    pytest.mark.allow_hosts(["127.0.0.0/8", "10.0.0.0/8"]),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with real(tmp_path_factory.mktemp("real")) as bed:
        yield bed


@pytest.fixture
def life(
    cluster: Real, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on this machine, with a kubeconfig; the nodes have the model in a directory."""
    made = life_of(cluster, tmp_path, models_cache(pytestconfig))
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")
    cluster.clear()
    assert cluster.store.refused == []


def engines(cluster: Real) -> list[str]:
    found = cluster.objects("pods", "-l", "lemnos.dev/role=engine")
    return [p["metadata"]["name"] for p in found if "deletionTimestamp" not in p["metadata"]]  # fmt: skip


def test_up_serves_and_scales_and_down_leaves_nothing(
    cluster: Real, life: Life
) -> None:
    found = life.up()
    (pod,) = engines(cluster)
    assert life.run("chat", "--prompt", "The capital of France?", "--temperature", "0")
    assert "listening" in life.run("logs", "-n", "500")
    follows = subprocess.Popen(
        [*life.words, *life._env(), sys.executable, "-m", "lemnos", "logs", "-f"],
        stdout=subprocess.PIPE, text=True, cwd=life.own,
    )  # fmt: skip
    assert follows.stdout
    assert any("listening" in line for line in follows.stdout)
    follows.kill()
    follows.wait()
    follows.stdout.close()
    again = life.up()
    assert again["already_up"] and engines(cluster) == [pod]
    assert "as lemnos declared it" in life.run("ps", "--drift")
    service = f"{found['name']}-engine-0"
    port = '{"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 81}]}}'
    cluster.kubectl("patch", "service", service, "-p", port, "--type=merge")
    assert "+" in life.report("ps", "--drift")["engine-0"]
    life.run("scale", "2")
    assert len(engines(cluster)) == 2
    life.run("scale", "1")
    until(lambda: len(engines(cluster)) == 1, within_s=60)
    life.run("down")
    until(lambda: not cluster.left(), within_s=60)
    assert files_left(life.home) == []


def test_revisions_without_a_failed_request(cluster: Real, life: Life) -> None:
    found = life.up()
    with life.load(found["url"]) as told:
        life.up("--concurrency", "2")
        cluster.kubelet.bad_images.add("none:1")
        said = life.run("up", "smollm2", "--context", "512", *life.first, "--set", "container.image=none:1", code=1)  # fmt: skip
        assert "its image none:1 cannot be pulled" in said and "serves on" in said
        life.run("rollback")
    assert failed(told) == []
    until(lambda: len(engines(cluster)) == 1, within_s=60)
    assert life.run("chat", "--prompt", "Hello")


def test_a_revision_that_the_api_server_refuses(cluster: Real, life: Life) -> None:
    found = life.up()
    with life.load(found["url"]) as told:
        said = life.run("up", "smollm2", "--context", "512", *life.first, "--set", "kubernetes.namespace=default", code=1)  # fmt: skip
    assert "you may not" in said and "in the namespace default" in said
    assert "serves on" in said
    assert failed(told) == []


def test_the_api_server_is_away_and_requests_go_on(cluster: Real, life: Life) -> None:
    found = life.up()
    before = engines(cluster)
    with life.load(found["url"]) as told:
        cluster.stop_api()
        try:
            until(
                lambda: "does not answer" in life.report("ps")[0]["stage"], within_s=60
            )
        finally:
            cluster.start_api()
        until(lambda: not life.report("ps")[0]["stage"], within_s=60)
    assert failed(told) == []
    assert engines(cluster) == before
    assert life.report("ps")[0]["phase"] == "ready"


def test_the_gateway_is_a_pod_too(cluster: Real, life: Life) -> None:
    """It is handed its table by a ConfigMap, and reached here by kubectl's own forward."""
    key = life.run("keys", "add", "me", "--keys-file", str(life.home / "keys.yaml"))
    gateway = ("--set", "kubernetes.gateway_image=lemnos:test")
    found = life.up(*gateway, "--set", f"endpoint.keys_file={life.home}/keys.yaml")
    with life.load(found["url"], key=key.split()[-1]) as told:
        until(lambda: "engine-0" in life.run("logs", "--job", "gateway-0"), within_s=60)
    assert told and failed(told) == []
    life.run("down")
    until(lambda: not cluster.left(), within_s=60)
