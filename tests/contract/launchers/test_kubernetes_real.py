"""The contract, what is rendered, and bad input, with Kubernetes' own API server, controllers and scheduler.

Only where LEMNOS_KUBE_BIN names them: see tests/testbeds/kubernetes/real.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes import forwarding
from lemnos.launchers.kubernetes.render import BASE, kustomize
from tests.contract.launchers.bed import ENDS, POLITE, SERVER, WAITER, said
from tests.contract.launchers.kubernetes_bed import (
    bed_of,
    close,
    launcher_of,
    on_gpus,
    until_why,
)
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.kubernetes import NAMESPACE
from tests.testbeds.kubernetes.controllers import GPU
from tests.testbeds.kubernetes.real import Real, real, why_not
from tests.unit.launchers.kubernetes.test_examples import SPECS, base_of
from tests.unit.launchers.kubernetes.test_render import CASES, rendered

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.allow_hosts(["127.0.0.0/8", "10.0.0.0/8"]),
]
NAME = "box-engine-0"
SEEDS = {f"{p.parent.parent.name}/{p.stem}": p for p in SPECS}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with real(tmp_path_factory.mktemp("real")) as bed:
        yield bed


@pytest.fixture
def bed(cluster: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:  # fmt: skip
    made = bed_of(cluster, tmp_path / "a b", monkeypatch, tolerations=[{"key": GPU}])
    made.wait_s = 90
    yield made
    swept(made)
    for launcher in made.made:
        close(launcher)
    made.until(lambda: not [each for each in cluster.left() if "persistentvolumeclaim" not in each])  # fmt: skip
    assert cluster.store.refused == []


class TestKubernetes(LauncherSuite):
    pass


# ---------------------------------------------------------------- what is rendered


@pytest.fixture
def cordoned(cluster: Real) -> Iterator[Real]:
    """Nothing that is applied runs."""
    nodes = cluster.kubectl("get", "nodes", "-o", "name").split()
    cluster.kubectl("cordon", *nodes)
    yield cluster
    cluster.clear()
    cluster.kubectl("uncordon", *nodes)


@pytest.mark.parametrize("name", [*SEEDS, *CASES])
def test_what_is_rendered_is_taken(name: str, cordoned: Real, tmp_path: Path) -> None:
    """Without a warning, by one who has the rights of the file and no others; the second time nothing changes."""
    files = base_of(SEEDS[name]) if name in SEEDS else kustomize({"": rendered(name)})
    files.pop(BASE)
    for file, text in files.items():
        found = yaml.safe_load(text)
        found["metadata"]["namespace"] = NAMESPACE
        (tmp_path / file).write_text(yaml.safe_dump(found))
    apply = ("apply", "--server-side", "--field-manager=lemnos", "--validate=strict", "--warnings-as-errors", "-f", str(tmp_path))  # fmt: skip
    cordoned.kubectl(*apply, "--dry-run=server", as_admin=False)
    cordoned.kubectl(*apply, as_admin=False)
    get = ("get", "-f", str(tmp_path), "-o", "json")
    first = json.loads(cordoned.kubectl(*get, as_admin=False))["items"]
    cordoned.kubectl(*apply, as_admin=False)
    again = json.loads(cordoned.kubectl(*get, as_admin=False))["items"]
    assert [o["metadata"].get("generation") for o in first] == [o["metadata"].get("generation") for o in again]  # fmt: skip
    diff = ("diff", "--server-side", "--field-manager=lemnos", "-f", str(tmp_path))
    assert cordoned.kubectl(*diff, as_admin=False) == ""
    cordoned.kubectl("delete", "-f", str(tmp_path), "--wait=false", as_admin=False)


# ---------------------------------------------------------------- lives


def test_a_group_comes_up_and_is_made_again_as_a_whole(cluster: Real, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(on_gpus(bed.unit(launcher, "engine-0", SERVER, WAITER), 8, hosts=2))
    bed.told(launcher)
    status = launcher.status()["engine-0"]
    assert len(set(status.hosts)) == 2 and status.starts == 0
    assert [log.job for log in launcher.logs("engine-0")] == ["engine-0", "engine-0.1"]
    assert launcher.drift(on_gpus(bed.unit(launcher, "engine-0", SERVER, WAITER), 8, hosts=2)) == ""  # fmt: skip
    before = {pod["metadata"]["uid"] for pod in cluster.pods()}
    cluster.kill(f"{NAME}-0-1")
    bed.until(lambda: not before & {pod["metadata"]["uid"] for pod in cluster.pods()})
    bed.until(lambda: launcher.status()["engine-0"].starts)
    assert bed.told(launcher)


def test_a_rank_of_a_group_that_fails_at_the_start_ends_it(
    cluster: Real, bed: Bed
) -> None:
    launcher = launcher_of(bed)
    launcher.submit(on_gpus(bed.unit(launcher, "engine-0", POLITE, ENDS), 1, hosts=2))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "exit code 3" in launcher.status()["engine-0"].why
    bed.until(lambda: not cluster.pods())


def test_a_container_that_ended_after_it_served_is_started_again(
    cluster: Real, bed: Bed
) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    cluster.kill(cluster.pods()[0]["metadata"]["name"], "OOMKilled")
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    assert bed.told(launcher)["argv"] == []
    assert said(launcher).count("up []") == 2


def test_a_pod_that_only_kubectl_reaches(
    cluster: Real, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its forward goes through the API server, and is made again for the pod that comes after."""
    monkeypatch.setattr(forwarding, "reaches", lambda ip, port: False)
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    first = bed.told(launcher)
    url = launcher.status()["engine-0"].url
    assert url.startswith("http://127.0.0.1:") and not url.endswith(":8000")
    (pod,) = cluster.pods()
    cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1")
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    assert bed.told(launcher)["pid"] != first["pid"]
    assert launcher.status()["engine-0"].url == url


# ---------------------------------------------------------------- what it waits for


def test_no_gpus_are_free(bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher), 16)
    assert "have 16 GPUs free" in launcher.room(unit).why
    launcher.submit(unit)
    status = until_why(bed, launcher, "of 4 nodes takes it")
    assert status.state == "queued" and "4 have too little nvidia.com/gpu free" in status.why  # fmt: skip
    assert launcher.room(on_gpus(unit, 8)).free


def test_a_label_that_no_node_has(bed: Bed) -> None:
    launcher = launcher_of(bed, node_selector={"nvidia.com/gpu.product": "none"})
    launcher.submit(on_gpus(bed.unit(launcher), 1))
    why = until_why(bed, launcher, "of 4 nodes takes it").why
    assert "4 lack the label that is asked for" in why


def test_a_taint_that_is_not_tolerated(bed: Bed) -> None:
    launcher = launcher_of(bed, tolerations=[{"key": "other"}])
    launcher.submit(on_gpus(bed.unit(launcher), 1))
    why = until_why(bed, launcher, "of 4 nodes takes it").why
    assert "3 have a taint that is not tolerated" in why


def test_the_quota_is_used_up(cluster: Real, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher), 8)
    cluster.kubectl("create", "quota", "gpus", f"--hard=requests.{GPU}=4")
    bed.until(lambda: "the quota gpus has 4 GPUs left" in launcher.room(unit).why)
    launcher.submit(unit)
    assert until_why(bed, launcher, "quota gpus is used up").state == "queued"
    cluster.kubectl("delete", "quota", "gpus")


def test_a_quota_that_wants_memory_of_every_pod(cluster: Real, bed: Bed) -> None:
    cluster.kubectl("create", "quota", "room", "--hard=limits.memory=100Gi")
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    why = until_why(bed, launcher, "the namespace's quota wants").why
    assert "limits.memory" in why
    cluster.kubectl("delete", "quota", "room")


def test_pods_that_the_namespace_s_standard_refuses(cluster: Real, bed: Bed) -> None:
    label = "pod-security.kubernetes.io/enforce"
    cluster.kubectl("label", "namespace", NAMESPACE, f"{label}=restricted")
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    why = until_why(bed, launcher, "Pod Security").why
    assert "restricted" in why and "runAsNonRoot" in why
    cluster.kubectl("label", "namespace", NAMESPACE, f"{label}-")


def test_an_image_that_cannot_be_pulled(cluster: Real, bed: Bed) -> None:
    cluster.kubelet.bad_images.add("python")
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    why = launcher.status()["engine-0"].why
    cluster.kubelet.bad_images.clear()
    assert why.startswith("its image python cannot be pulled") and "not found" in why


# ---------------------------------------------------------------- what is refused


def test_what_you_may_not(cluster: Real, bed: Bed) -> None:
    cluster.kubectl("delete", "rolebinding", "lemnos")
    try:
        with pytest.raises(LemnosError) as caught:
            launcher_of(bed).submit(bed.unit(launcher_of(bed), dry=True))
    finally:
        cluster.kubectl("create", "rolebinding", "lemnos", "--role=lemnos", "--user=ann")  # fmt: skip
    assert caught.value.what == "you may not list deployments in the namespace llm"
    assert "--verb=list --resource=deployments.apps" in caught.value.fix
    assert "--user=ann" in caught.value.fix


@pytest.mark.parametrize(
    "words",
    [
        ("scale", "deployment", NAME, "--replicas=2"),
        ("patch", "deployment", NAME, "--type=merge", "-p", '{"spec": {"replicas": 2}}'),
    ],
    ids=["scale", "patch"],
)  # fmt: skip
def test_another_manager_s_field(words: tuple[str, ...], cluster: Real, bed: Bed) -> None:  # fmt: skip
    launcher = launcher_of(bed)
    unit = bed.unit(launcher)
    launcher.submit(unit)
    assert launcher.drift(unit) == ""
    cluster.kubectl(*words)
    with pytest.raises(LemnosError) as caught:
        launcher.submit(unit)
    assert ".spec.replicas there" in caught.value.what
    assert "'kubectl" in caught.value.what
    assert caught.value.where == f"deployment-{NAME}"
    assert launcher.drift(unit)


def test_two_fields_of_another_manager(cluster: Real, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = bed.unit(launcher)
    launcher.submit(unit)
    other = cluster.objects("deployments")[0]
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": 2,
            "selector": other["spec"]["selector"],
            "template": {"metadata": {"labels": other["spec"]["template"]["metadata"]["labels"]}, "spec": {"containers": [{"name": "engine", "image": "other"}]}},
        },
    }  # fmt: skip
    cluster.kubectl("apply", "--server-side", "--field-manager=ann", "--force-conflicts", "-f", "-", stdin=json.dumps(theirs))  # fmt: skip
    with pytest.raises(LemnosError) as caught:
        launcher.submit(unit)
    assert "'ann' manages" in caught.value.what
    assert ".spec.replicas" in caught.value.what and ".image" in caught.value.what


def test_no_such_namespace(bed: Bed) -> None:
    launcher = launcher_of(bed, namespace="none")
    with pytest.raises(LemnosError) as caught:
        launcher.submit(bed.unit(launcher, dry=True))
    assert "namespace" in str(caught.value) and "none" in str(caught.value)
    close(launcher)
    bed.made.clear()


def test_a_priority_that_there_is_not(bed: Bed) -> None:
    launcher = launcher_of(bed, priority_class="none")
    launcher.submit(bed.unit(launcher))
    assert "PriorityClass" in until_why(bed, launcher, "has no pod").why


# ---------------------------------------------------------------- a server that goes away


def test_the_api_server_is_away_for_a_while(cluster: Real, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    pid = bed.told(launcher)["pid"]
    cluster.stop_api()

    def told() -> str:
        try:
            launcher.status()
        except LemnosError as error:
            return error.what
        return ""

    try:
        assert "the API server does not answer" in bed.until(told)
    finally:
        cluster.start_api()
    bed.until(lambda: not told())
    assert bed.told(launcher)["pid"] == pid
    cluster.kill(cluster.pods()[0]["metadata"]["name"])
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)


def test_a_version_that_is_too_old(cluster: Real) -> None:
    """What the watch is told when it would go on from before the server's start, which it has forgotten."""
    cluster.stop_api()
    cluster.start_api()
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1&resourceVersion=1&timeoutSeconds=2"  # fmt: skip
    told = json.loads(cluster.kubectl("get", "--raw", path).splitlines()[0])
    assert told["type"] == "ERROR" and told["object"]["code"] == 410


def test_a_kind_that_the_cluster_does_not_know(cluster: Real, bed: Bed) -> None:
    """Last: it is gone then."""
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher, "engine-0", SERVER, WAITER), 8, hosts=2)
    cluster.kubectl("delete", "crd", "leaderworkersets.leaderworkerset.x-k8s.io")
    for do in (launcher.room, launcher.submit):
        with pytest.raises(LemnosError, match="LeaderWorkerSet") as caught:
            do(unit)
        assert "kubectl apply --server-side -f https://" in caught.value.fix
