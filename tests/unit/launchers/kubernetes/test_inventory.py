"""From nodes as the API server has them to a cluster, to facts for rendering, to what is free."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes.inventory import (
    cluster_of,
    facts_of,
    free_of,
    quantity,
    quota_left,
    why_not,
)

GPU = "nvidia.com/gpu"
H200 = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}


def node(name: str, gpus: int = 8, labels: dict[str, str] = H200, **spec: Any) -> dict[str, Any]:  # fmt: skip
    size = {GPU: str(gpus), "cpu": "95500m", "memory": "1056Gi"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {
            "allocatable": size,
            "capacity": size,
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"architecture": "amd64"},
        },
    }


def pod(on: str, gpus: int, phase: str = "Running") -> dict[str, Any]:
    asked = {"resources": {"limits": {GPU: str(gpus)}}}
    return {"spec": {"nodeName": on, "containers": [asked]}, "status": {"phase": phase}}


def test_nodes_that_are_alike_are_one_with_a_count() -> None:
    found = cluster_of([node("a"), node("b"), node("c", 0, {})], GPU)
    assert [(n.name, n.count, len(n.gpus)) for n in found.nodes] == [("a", 2, 8), ("c", 1, 0)]  # fmt: skip
    assert found.nodes[0].gpus[0].kind == "H200"
    assert (found.nodes[0].cores, found.nodes[0].memory_gib) == (95, 1056)
    assert found.nodes[0].architecture == "x86_64"


@pytest.mark.parametrize(
    ("product", "memory", "kind"),
    [
        ("NVIDIA-H100-80GB-HBM3", "81559", "H100"),
        ("NVIDIA-H200-SHARED", "143771", "H200"),
        ("nvidia-h100-80gb", "", "H100"),
        ("NVIDIA-Unheard-Of", "1", None),
    ],
)
def test_gpus_by_their_label(product: str, memory: str, kind: str | None) -> None:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory}
    (found,) = cluster_of([node("a", labels=labels)], GPU).nodes
    assert found.gpus[0].kind == kind
    assert bool(found.unknown) == (kind is None)


def test_nodes_that_take_no_pods_are_left_out() -> None:
    ill = node("b", taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])  # fmt: skip
    cordoned = node("c", unschedulable=True)
    silent = node("d")
    silent["status"]["conditions"][0]["status"] = "Unknown"
    assert [n.name for n in cluster_of([node("a"), ill, cordoned, silent], GPU).nodes] == ["a"]  # fmt: skip
    with pytest.raises(LemnosError, match="no node of the cluster takes pods"):
        cluster_of([ill], GPU)


def test_what_chooses_a_gpu_s_nodes_and_what_is_tolerated() -> None:
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    facts = facts_of([node("a", taints=[taint]), node("b", 0, {})], "H200", GPU)
    assert facts.selector == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert [(t.key, t.value, t.effect) for t in facts.tolerations] == [(GPU, "present", "NoSchedule")]  # fmt: skip
    assert facts.architecture == "amd64"
    assert facts_of([node("a")], "H100", GPU).selector == {}


def test_what_is_free() -> None:
    pods = [pod("a", 8), pod("b", 4), pod("b", 4, "Succeeded"), pod("else", 1)]
    free = free_of([node("a"), node("b"), node("c", 8, {})], pods, H200, GPU)
    assert free == {"a": 0, "b": 4}
    assert why_not([*free.values()], 1, 4) == ""
    assert why_not([*free.values()], 2, 4) == (
        "1 of 2 nodes have 4 GPUs free, and it takes 2; the most that one has free is 4"
    )


def test_the_tightest_quota() -> None:
    def quota(name: str, hard: str, used: str) -> dict[str, Any]:
        key = f"requests.{GPU}"
        return {"metadata": {"name": name}, "status": {"hard": {key: hard}, "used": {key: used}}}  # fmt: skip

    assert quota_left([quota("wide", "64", "8"), quota("narrow", "16", "12")], GPU) == ("narrow", 4)  # fmt: skip
    assert quota_left([{"metadata": {"name": "cpu"}, "status": {"hard": {"cpu": "4"}}}], GPU) is None  # fmt: skip


def test_quantities() -> None:
    told = ["95500m", "1056Gi", "8", "", None, "1e3", "2k"]
    assert [quantity(each) for each in told] == [95.5, 1056 * 2**30, 8, 0, 0, 0, 2000]
