"""The nodes that the API server tells of: as a cluster, as facts for rendering, and what is free on them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lemnos.errors import LemnosError
from lemnos.hardware.catalogue import kind_of
from lemnos.launchers.kubernetes.names import NodeFacts
from lemnos.spec.cluster import Cluster, Node, NodeGpu
from lemnos.spec.clusters import Toleration

PRODUCTS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
"""Labels that name a node's GPUs: of NVIDIA's feature discovery (its operator brings it), of GKE."""
MEMORY = "nvidia.com/gpu.memory"
"""Of one GPU, in MiB."""
CLIQUE = "nvidia.com/gpu.clique"
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
# Taints of nodes that are not well: nothing of ours tolerates them.
_ILL = ("node.kubernetes.io/", "node-role.kubernetes.io/", "node.cloudprovider.kubernetes.io/")  # fmt: skip

Object = Mapping[str, Any]


def cluster_of(nodes: Iterable[Object], resource: str) -> Cluster:
    """The nodes that pods may run on, those that are alike as one with a count. ``resource``: the name of
    GPUs there. Raises LemnosError where there is none."""
    groups: dict[object, list[Node]] = {}
    for each in nodes:
        if is_usable(each):
            node = _node(each, resource)
            alike = node.model_copy(update={"name": ""})
            groups.setdefault(alike.model_dump_json(), []).append(node)
    if not groups:
        raise LemnosError(
            "no node of the cluster takes pods now",
            where="kubernetes",
            fix="'kubectl get nodes' shows why",
        )
    found = [g[0].model_copy(update={"count": len(g)}) for g in groups.values()]
    return Cluster(name="kubernetes", nodes=tuple(found))


def facts_of(nodes: Iterable[Object], kind: str, resource: str) -> NodeFacts:
    """How nodes with the catalogue's GPU ``kind`` are chosen, and what of them is to be tolerated."""
    having = [n for n in nodes if is_usable(n) and _kind(n) == kind and gpus_of(n, resource)]  # fmt: skip
    if not having:
        return NodeFacts()
    labels = Counter((label, value) for n in having if (told := _product(n)) for label, value in (told,))  # fmt: skip
    selector = dict([labels.most_common(1)[0][0]]) if labels else {}
    taints = {
        (t["key"], t.get("value"), t.get("effect"))
        for node in having
        for t in _taints(node)
        if t.get("effect") in ("NoSchedule", "NoExecute")
    }
    tolerations = [Toleration(key=k, value=v or None, effect=e) for k, v, e in sorted(taints, key=str)]  # fmt: skip
    kinds = {n.get("status", {}).get("nodeInfo", {}).get("architecture") for n in having}  # fmt: skip
    return NodeFacts(
        selector=selector,
        tolerations=tuple(tolerations),
        architecture=kinds.pop() if len(kinds) == 1 else None,
    )


def free_of(
    nodes: Iterable[Object],
    pods: Iterable[Object],
    selector: Mapping[str, str],
    resource: str,
) -> dict[str, int]:
    """GPUs that no pod has asked for, by node that ``selector`` takes."""
    free = {
        n["metadata"]["name"]: gpus_of(n, resource)
        for n in nodes
        if is_usable(n)
        and selector.items() <= (n["metadata"].get("labels") or {}).items()
    }
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if node in free and not over:
            free[node] -= asked_by(pod, resource)
    return free


def asked_by(pod: Object, resource: str) -> int:
    """GPUs that a pod asks for."""
    total = 0
    for each in pod.get("spec", {}).get("containers", ()):
        asked = each.get("resources") or {}
        told = (asked.get("limits") or {}).get(resource)
        total += round(quantity(told or (asked.get("requests") or {}).get(resource)))
    return total


def quota_left(quotas: Iterable[Object], resource: str) -> tuple[str, int] | None:
    """The tightest quota of GPUs: its name, and how many it still gives; None where there is none."""
    found = []
    for each in quotas:
        told = each.get("status") or {}
        hard = told.get("hard") or each.get("spec", {}).get("hard") or {}
        used = told.get("used") or {}
        for key in (f"requests.{resource}", f"limits.{resource}"):
            if key in hard:
                left = quantity(hard[key]) - quantity(used.get(key))
                found.append((round(left), each["metadata"]["name"]))
    return (min(found)[1], min(found)[0]) if found else None


def why_not(free: Sequence[int], hosts: int, gpus: int) -> str:
    """Why ``hosts`` nodes with ``gpus`` free GPUs each are not to be had now; empty if they are."""
    enough = sum(each >= gpus for each in free)
    if enough >= hosts:
        return ""
    most = max(free, default=0)
    return f"{enough} of {len(free)} nodes have {gpus} GPUs free, and it takes {hosts}; the most that one has free is {max(0, most)}"


def is_usable(node: Object) -> bool:
    """Whether new pods are put on it."""
    conditions = node.get("status", {}).get("conditions", ())
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    ill = any(t["key"].startswith(_ILL) for t in _taints(node))
    return ready and not ill and not node.get("spec", {}).get("unschedulable")


def gpus_of(node: Object, resource: str) -> int:
    """That pods may ask for."""
    return round(quantity(node.get("status", {}).get("allocatable", {}).get(resource)))


def quantity(text: object) -> float:
    """``95500m`` is 95.5, ``1056Gi`` bytes; 0 for nothing."""
    match = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(text or "0"))
    if not match:
        return 0.0
    return float(match[1]) * _UNITS.get(match[2], 0.0)


def _node(node: Object, resource: str) -> Node:
    size = node.get("status", {}).get("capacity", {})
    kind, product = _kind(node), _product(node)
    count = gpus_of(node, resource)
    name = product[1] if product else None
    unknown: tuple[str, ...] = ()
    if count and kind is None:
        unknown = (f"nobody says which GPUs the {count} of {node['metadata']['name']} are (label {PRODUCTS[0]})",)  # fmt: skip
    told = node.get("status", {}).get("nodeInfo", {}).get("architecture", "")
    return Node(
        name=node["metadata"]["name"],
        gpus=tuple(NodeGpu(kind=kind, name=name, index=i) for i in range(count)),
        architecture=_ARCHITECTURES.get(told, told) or None,
        cores=int(quantity(size.get("cpu"))) or None,
        memory_gib=round(quantity(size.get("memory")) / 2**30, 3) or None,
        nvlink_domain=(node["metadata"].get("labels") or {}).get(CLIQUE),
        unknown=unknown,
    )


def _kind(node: Object) -> str | None:
    """The catalogue's name, of ``NVIDIA-H100-80GB-HBM3`` or ``nvidia-h100-80gb``."""
    product = _product(node)
    if not product:
        return None
    memory = quantity((node["metadata"].get("labels") or {}).get(MEMORY)) / 1024
    # Shared GPUs have "-SHARED" behind their name, parts of one "-MIG-...".
    name = product[1].removesuffix("-SHARED").partition("-MIG-")[0]
    # GKE's have no maker's spelling: nvidia-h100-80gb, nvidia-l4, nvidia-h100-mega-80gb.
    short = re.sub(r"^nvidia-(tesla-)?|(-mega)?(-\d+gb)?$", "", name)
    for each in (name.replace("-", " "), short):
        if found := kind_of(each, memory or None):
            return found.name
    return None


def _product(node: Object) -> tuple[str, str] | None:
    labels = node["metadata"].get("labels") or {}
    return next(((each, labels[each]) for each in PRODUCTS if labels.get(each)), None)


def _taints(node: Object) -> Sequence[Object]:
    return node.get("spec", {}).get("taints") or ()
