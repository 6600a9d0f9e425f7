"""What happens to units on a cluster, and what lemnos says then; with the real kubectl."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.kubernetes.launcher import Kubernetes
from lemnos.spec.unit import UnitStatus
from tests.contract.launchers.bed import ENDS, POLITE, SERVER, WAITER, said
from tests.contract.launchers.kubernetes_bed import (
    PODS,
    bed_of,
    close,
    launcher_of,
    on_gpus,
    until_why,
)
from tests.contract.launchers.suite import Bed, swept
from tests.testbeds.kubernetes import Cluster, kubernetes
from tests.unit.launchers.kubernetes import units

pytestmark = [pytest.mark.bed, PODS]
NAME = "box-engine-0"


@pytest.fixture
def bed(
    kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bed]:
    made = bed_of(kube, tmp_path, monkeypatch)
    yield made
    kube.api.forbidden.clear()
    kube.api.denied.clear()
    kube.kubelet.bad_images.clear()
    swept(made)
    for launcher in made.made:
        close(launcher)
    kube.clear()


# ---------------------------------------------------------------- lives


def test_a_container_that_ended_after_it_served_is_started_again(
    kube: Cluster, bed: Bed
) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    kube.kill(kube.pods()[0]["metadata"]["name"], "OOMKilled")
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    assert bed.told(launcher)["argv"] == []
    assert said(launcher).count("up []") == 2, "the log before the restart is read, too"


def test_a_group_of_pods_comes_up_and_is_made_again_as_a_whole(
    kube: Cluster, bed: Bed
) -> None:
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher, "engine-0", SERVER, WAITER), 8, hosts=2)
    launcher.submit(unit)
    bed.told(launcher)
    status = launcher.status()["engine-0"]
    assert status.hosts == ("n1", "n2")
    assert [log.job for log in launcher.logs("engine-0")] == ["engine-0", "engine-0.1"]
    assert kube.named("leaderworkersets") == [NAME]
    before = {pod["metadata"]["uid"] for pod in kube.pods()}
    kube.kill(f"{NAME}-0-1")
    bed.until(lambda: not before & {pod["metadata"]["uid"] for pod in kube.pods()})
    bed.until(lambda: launcher.status()["engine-0"].starts)
    assert bed.told(launcher)
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: not kube.pods())


def test_a_group_that_ends_to_be_made_again_is_not_leaving(
    kube: Cluster, bed: Bed
) -> None:
    """Its last pod takes its time to end, and only then there are others."""
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVER}"
    launcher = launcher_of(bed)
    launcher.submit(on_gpus(bed.unit(launcher, "engine-0", deaf, WAITER), 8, hosts=2))
    bed.told(launcher)
    kube.kill(f"{NAME}-0-1")
    status = until_why(bed, launcher, "all of its pods are made again")
    assert (status.state, status.leaving) == ("queued", "")
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: not kube.pods())


def test_a_rank_of_a_group_that_fails_at_the_start_ends_it(
    kube: Cluster, bed: Bed
) -> None:
    launcher = launcher_of(bed)
    launcher.submit(on_gpus(bed.unit(launcher, "engine-0", POLITE, ENDS), 1, hosts=2))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "exit code 3" in launcher.status()["engine-0"].why
    bed.until(lambda: not kube.pods())
    assert "exit code 3" in launcher_of(bed).status()["engine-0"].why


def test_a_unit_that_ended_can_be_started_anew(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher, "engine-0", ENDS))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    launcher.submit(bed.unit(launcher))
    assert launcher.status()["engine-0"].alive
    assert bed.told(launcher)


def test_what_somebody_removed_is_not_there(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    kube.kubectl("delete", "deployment", NAME, "--grace-period=1")
    bed.until(lambda: "engine-0" not in launcher.status())


def test_a_preempted_pod_says_that_it_leaves(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)

    def preempt() -> None:
        pod = copy.deepcopy(next(iter(kube.store.all("pods"))))
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
        }
        pod["status"]["conditions"].append(condition)
        kube.store.replace("pods", pod)

    kube.do(preempt)
    bed.until(lambda: "preempted" in launcher.status()["engine-0"].leaving)


# ---------------------------------------------------------------- what it waits for


def test_no_gpus_are_free(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher), 16)
    room = launcher.room(unit)
    assert not room.free
    assert room.why == "0 of 3 nodes have 16 GPUs free, and it takes 1; the most that one has free is 8"  # fmt: skip
    launcher.submit(unit)
    status = until_why(bed, launcher, "none of 3 nodes takes it")
    assert status.state == "queued" and "3 have too little nvidia.com/gpu free" in status.why  # fmt: skip
    assert launcher.room(on_gpus(unit, 8)).free


def test_the_quota_is_used_up(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = on_gpus(bed.unit(launcher), 8)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "4"}}}  # fmt: skip
    kube.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    assert "the quota gpus has 4 GPUs left" in launcher.room(unit).why
    launcher.submit(unit)
    status = until_why(bed, launcher, "quota gpus is used up")
    assert status.state == "queued"


def test_an_image_that_cannot_be_pulled(kube: Cluster, bed: Bed) -> None:
    kube.kubelet.bad_images.add("python")
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    why = launcher.status()["engine-0"].why
    assert why.startswith("its image python cannot be pulled") and "not found" in why


def test_how_a_unit_ended_is_known_to_the_launcher_of_another_revision(
    kube: Cluster, bed: Bed
) -> None:
    """Each revision has a launcher, and each of them sees all pods: the first that sees the end buries the unit."""
    kube.kubelet.bad_images.add("python")
    own, other = launcher_of(bed), launcher_of(bed)
    own.submit(bed.unit(own))
    assert own.status()["engine-0"].alive
    bed.until(lambda: not other.status()["engine-0"].alive)
    bed.until(lambda: not own._pods.now()[0])
    bed.until(lambda: not own.status().get("engine-0", UnitStatus(state="ended")).alive)
    assert "cannot be pulled" in own.status()["engine-0"].why


# ---------------------------------------------------------------- what is refused


def refusal(launcher: Kubernetes, bed: Bed, kube: Cluster) -> LemnosError:
    """Of a submission, which leaves nothing."""
    unit = bed.unit(launcher, dry=True)
    before = kube.left()
    with pytest.raises(LemnosError) as caught:
        launcher.submit(unit)
    assert kube.left() == before
    assert not (Path(launcher._site.unit_directory("engine-0"))).exists()
    return caught.value


def test_a_model_that_cannot_be_pulled(kube: Cluster, bed: Bed) -> None:
    """The Job has given up: its pods are gone, and those that wait for it would wait for ever."""
    launcher = launcher_of(bed)
    unit = bed.unit(launcher).model_copy(update={"served": units.vllm().served})
    launcher.submit(unit)
    (job,) = kube.named("jobs")
    until_why(bed, launcher, "pulls the model")
    why = "Job has reached the specified backoff limit"
    failed = {"type": "Failed", "status": "True", "message": why}
    kube.change("jobs", job, status={"conditions": [failed]})
    status = until_why(bed, launcher, why)
    assert status.state == "ended"
    bed.until(lambda: not kube.pods())
    assert kube.named("deployments") == []
    launcher.submit(unit)  # when the token is there, say
    made = kube.do(lambda: kube.store.get("jobs", "llm", job))
    assert failed not in made.get("status", {}).get("conditions", ())
    bed.until(lambda: launcher.status()["engine-0"].state == "queued")


def test_what_you_may_not(kube: Cluster, bed: Bed) -> None:
    kube.api.forbidden.add(("patch", "deployments"))
    error = refusal(launcher_of(bed), bed, kube)
    assert error.what == "you may not patch deployments in the namespace llm"
    assert "--verb=patch --resource=deployments.apps" in error.fix


def test_pods_that_may_not_be_seen(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    kube.api.forbidden |= {("watch", "pods"), ("list", "pods")}
    kube.do(kube.api.cut)

    def told() -> str:
        try:
            launcher.status()
        except LemnosError as error:
            return error.what
        return ""

    assert "pods in the namespace llm" in bed.until(told)
    kube.api.forbidden.clear()
    bed.until(lambda: not told())
    assert launcher.status()["engine-0"].state == "running"


def test_kinds_that_may_not_be_seen_are_left_out(kube: Cluster, bed: Bed) -> None:
    """The cluster has KubeRay, and one is given the rights of a namespace's plain editor."""
    kube.api.forbidden |= {("list", "rayclusters"), ("list", "leaderworkersets")}
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    again = launcher_of(bed)
    assert again.status()["engine-0"].state == "running"
    again.sweep()
    assert kube.left() == []


def test_a_rule_of_the_cluster(kube: Cluster, bed: Bed) -> None:
    kube.api.denied.add(NAME)
    error = refusal(launcher_of(bed), bed, kube)
    assert "policy.example.org" in error.what and "no cost centre" in error.what


def test_another_manager_s_field(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = bed.unit(launcher)
    launcher.submit(unit)
    assert launcher.drift(unit) == ""
    patch = '{"spec": {"replicas": 2}}'
    kube.kubectl("patch", "deployment", NAME, "--type=merge", "-p", patch, "--field-manager=ann")  # fmt: skip
    with pytest.raises(LemnosError) as caught:
        launcher.submit(unit)
    assert "'ann' manages .spec.replicas there" in caught.value.what
    assert caught.value.where == f"deployment-{NAME}"
    assert "--force-conflicts" in caught.value.fix
    assert NAME in kube.named("deployments"), "what ran before runs on"
    assert "-  replicas: 2" in launcher.drift(unit)


def test_drift_is_shown(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    unit = bed.unit(launcher)
    launcher.submit(unit)
    labels = kube.do(lambda: kube.store.get("services", "llm", NAME)["spec"])
    kube.change("services", NAME, spec=labels | {"ports": []})
    assert "+  ports:" in launcher.drift(unit).replace("ports: []", "ports:")


def test_no_such_namespace(kube: Cluster, bed: Bed) -> None:
    error = refusal(launcher_of(bed, namespace="none"), bed, kube)
    assert isinstance(error, UsageError) and error.where == "kubernetes.namespace"
    assert "'none'" in error.what


def test_no_such_context(bed: Bed) -> None:
    launcher = launcher_of(bed, context="nope")
    with pytest.raises(UsageError, match="no context 'nope'"):
        launcher.place(bed.plan(), "engine-0")
    close(launcher)
    bed.made.clear()


def test_no_such_kubeconfig(bed: Bed, tmp_path: Path) -> None:
    launcher = launcher_of(bed, kubeconfig=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="there is no kubeconfig"):
        launcher.place(bed.plan(), "engine-0")
    bed.made.clear()


def test_nobody_listens(kube: Cluster, bed: Bed, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(kube.config.read_text().replace(f":{kube.port}", ":9"))
    launcher = launcher_of(bed, kubeconfig=str(config))
    with pytest.raises(LemnosError, match="connection refused"):
        launcher.place(bed.plan(), "engine-0")
    with pytest.raises(LemnosError, match="connection refused"):
        launcher.status()
    close(launcher)
    bed.made.clear()


def test_nobody_knows_you(kube: Cluster, bed: Bed, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(kube.config.read_text().replace('"token": "bed"', '"token": "x"'))
    launcher = launcher_of(bed, kubeconfig=str(config))
    with pytest.raises(LemnosError, match="does not know you"):
        launcher.submit(bed.unit(launcher, dry=True))
    bed.made.clear()


def test_an_old_cluster(
    kube: Cluster, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube.api, "version", "v1.21.3")
    with pytest.raises(LemnosError, match=r"Kubernetes 1\.21, and lemnos needs"):
        launcher_of(bed).place(bed.plan(), "engine-0")


def test_no_kubectl(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = launcher_of(bed)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LemnosError, match="no 'kubectl' on the PATH"):
        launcher.place(bed.plan(), "engine-0")
    bed.made.clear()


def test_a_kind_that_the_cluster_does_not_know(
    bed: Bed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with kubernetes(tmp_path_factory.mktemp("bare"), custom=()) as bare:
        launcher = launcher_of(bed, kubeconfig=str(bare.config))
        unit = on_gpus(bed.unit(launcher, "engine-0", SERVER, WAITER), 8, hosts=2)
        for do in (launcher.room, launcher.submit):
            with pytest.raises(LemnosError, match="LeaderWorkerSet") as caught:
                do(unit)
            assert "kubectl apply --server-side -f https://" in caught.value.fix
        assert bare.left() == []
        launcher.sweep()
        close(launcher)
        bed.made.clear()


# ---------------------------------------------------------------- the watch


def test_the_watch_goes_on_where_it_was_cut(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    watches = sum("watch=1" in r for r in kube.api.requests)
    kube.do(kube.api.cut)
    bed.until(lambda: sum("watch=1" in r for r in kube.api.requests) > watches)
    kube.kill(kube.pods()[0]["metadata"]["name"])
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)


def test_a_version_that_is_too_old_leads_to_a_new_list(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    kube.api.expired = kube.store.version + 1
    kube.do(kube.api.cut)
    kube.kubectl("delete", "deployment", NAME, "--grace-period=1")
    bed.until(lambda: "engine-0" not in launcher.status())
    kube.api.expired = 0


def test_asking_for_the_state_asks_nobody(kube: Cluster, bed: Bed) -> None:
    launcher = launcher_of(bed)
    launcher.submit(bed.unit(launcher))
    bed.told(launcher)
    bed.until(lambda: launcher.status()["engine-0"].url)
    before = len(kube.api.requests)
    for _ in range(100):
        launcher.status()
    assert len(kube.api.requests) == before
