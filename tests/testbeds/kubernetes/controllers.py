"""Controllers: what makes pods of workloads, puts them on nodes, and removes what nobody owns any more.

ReplicaSets and StatefulSets, which stand between in a real cluster, are left out: pods belong to their Deployment, their
LeaderWorkerSet or their Job.
"""

from __future__ import annotations

import copy
import json
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.testbeds.kubernetes.kubelet import Kubelet
from tests.testbeds.kubernetes.store import Json, ProblemError, Store, now

GPU = "nvidia.com/gpu"
MAKERS = ("deployments", "leaderworkersets", "jobs")


@dataclass
class Controllers:
    """All of them. ``step`` is called after every change until it changes nothing more."""

    store: Store
    kubelet: Kubelet
    asleep: bool = False
    """Nothing is made or scheduled meanwhile, as when the controller manager is away."""
    restarts: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        """One look at everything."""
        self._collect()
        if self.asleep:
            return
        for each in self.store.all("deployments"):
            self._deployment(each)
        if "leaderworkersets" in self.store.resources:
            for each in self.store.all("leaderworkersets"):
                self._group(each)
        for each in self.store.all("jobs"):
            self._job(each)
        for each in self.store.all("persistentvolumeclaims"):
            self.store.change("persistentvolumeclaims", each, status={"phase": "Bound"})
        for pod in self.store.all("pods"):
            if not pod["spec"].get("nodeName") and not gone(pod):
                self._schedule(pod)
            self.kubelet.see(self.store.objects.get(_key(pod), pod))
        self.kubelet.refresh()
        self.kubelet.resolve()

    # ------------------------------------------------------------ what makes pods

    def _deployment(self, owner: Json) -> None:
        if gone(owner):
            return
        spec = owner["spec"]
        own, hash_ = self._pods_of(owner), _hash(spec["template"])
        old = [p for p in own if p["metadata"]["labels"].get("pod-template-hash") != hash_]  # fmt: skip
        for pod in old:
            self.delete(pod)
        alive = [p for p in own if p not in old and not over(p)]
        wanted = spec.get("replicas", 1)
        for pod in alive[wanted:]:
            self.delete(pod)
        name, why = owner["metadata"]["name"], ""
        recreate = spec.get("strategy", {}).get("type") == "Recreate"
        waits = recreate and any(not over(pod) or gone(pod) for pod in old)
        for _ in range(0 if waits else wanted - len(alive)):
            suffix = uuid.uuid4().hex[:5]
            pod_name, own_labels = (
                f"{name}-{hash_}-{suffix}",
                {"pod-template-hash": hash_},
            )
            why = self._make(owner, pod_name, spec["template"], own_labels)
        ready = sum(is_ready(pod) for pod in alive)
        conditions = []
        if why:
            conditions = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": why}]  # fmt: skip
        status = {
            "replicas": len(alive),
            "readyReplicas": ready,
            "conditions": conditions,
            "observedGeneration": owner["metadata"]["generation"],
        }
        self.store.change("deployments", owner, status=status)

    def _group(self, owner: Json) -> None:
        """A LeaderWorkerSet of one group, which is made again as a whole."""
        if gone(owner):
            return
        spec, name = owner["spec"], owner["metadata"]["name"]
        size = spec["leaderWorkerTemplate"].get("size", 1)
        own = self._pods_of(owner)
        broken = [pod for pod in own if over(pod) or restarts(pod)]
        hash_ = _hash(spec["leaderWorkerTemplate"])
        broken += [p for p in own if p["metadata"]["labels"]["hash"] != hash_]
        if broken:
            for pod in own:
                self.delete(pod)
            return
        if own and len(own) < size:  # one of them is gone
            for pod in own:
                self.delete(pod)
            return
        template = spec["leaderWorkerTemplate"]
        # A name in a real cluster, which has DNS.
        address = self.kubelet.address(owner["metadata"]["namespace"], f"{name}-0")
        for index in range(0 if own else size):
            worker = template["workerTemplate"]
            chosen = worker if index else template.get("leaderTemplate", worker)
            labels = {
                "leaderworkerset.sigs.k8s.io/name": name,
                "leaderworkerset.sigs.k8s.io/group-index": "0",
                "leaderworkerset.sigs.k8s.io/worker-index": str(index),
                "hash": hash_,
            }
            env = {
                "LWS_LEADER_ADDRESS": address,
                "LWS_GROUP_SIZE": str(size),
                "LWS_WORKER_INDEX": str(index),
            }
            pod_name = f"{name}-0-{index}" if index else f"{name}-0"
            self._make(owner, pod_name, chosen, labels, env)

    def _job(self, owner: Json) -> None:
        if gone(owner) or owner.get("status", {}).get("succeeded"):
            return
        own = self._pods_of(owner)
        conditions = owner.get("status", {}).get("conditions", ())
        if any(c["type"] == "Failed" and c["status"] == "True" for c in conditions):
            for pod in own:
                self.delete(pod)
            return
        if any(p.get("status", {}).get("phase") == "Succeeded" for p in own):
            done = [{"type": "Complete", "status": "True"}]
            self.store.change("jobs", owner, status={"succeeded": 1, "conditions": done})  # fmt: skip
        elif not own:
            name = f"{owner['metadata']['name']}-{uuid.uuid4().hex[:5]}"
            self._make(owner, name, owner["spec"]["template"], {})

    def _make(
        self,
        owner: Json,
        name: str,
        template: Json,
        labels: dict[str, str],
        env: dict[str, str] | None = None,
    ) -> str:
        """A pod; or why not."""
        meta = copy.deepcopy(template.get("metadata", {}))
        meta["name"] = name
        meta["labels"] = meta.get("labels", {}) | labels
        meta["ownerReferences"] = [
            {
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
            }
        ]
        spec = copy.deepcopy(template["spec"])
        for each in (*spec.get("initContainers", []), *spec["containers"]):
            more = [{"name": k, "value": v} for k, v in (env or {}).items()]
            each["env"] = [*more, *each.get("env", [])]
        namespace = owner["metadata"]["namespace"]
        pod = {"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}
        if why := self._over_quota(namespace, name, gpus_of(pod)):
            self.event(owner, "FailedCreate", f"Error creating: {why}")
            return why
        try:
            self.store.create("pods", namespace, pod)
        except ProblemError as problem:
            return str(problem)
        return ""

    def _over_quota(self, namespace: str, name: str, asked: int) -> str:
        used = sum(gpus_of(p) for p in self.store.all("pods", namespace) if not over(p))
        for quota in self.store.all("resourcequotas", namespace):
            key = f"requests.{GPU}"
            limit = quota["spec"]["hard"].get(key)
            if limit is not None and used + asked > int(limit):
                return (
                    f'pods "{name}" is forbidden: exceeded quota: {quota["metadata"]["name"]}, '
                    f"requested: {key}={asked}, used: {key}={used}, limited: {key}={limit}"
                )
        return ""

    # ------------------------------------------------------------ nodes

    def _schedule(self, pod: Json) -> None:
        asked, wanted = gpus_of(pod), pod["spec"].get("nodeSelector") or {}
        nodes = [*self.store.all("nodes")]
        unmatched = short = 0
        for node in nodes:
            name = node["metadata"]["name"]
            labels = node["metadata"].get("labels", {})
            on = [p for p in self.store.all("pods") if p["spec"].get("nodeName") == name and not over(p)]  # fmt: skip
            free = int(node["status"]["allocatable"].get(GPU, 0)) - sum(map(gpus_of, on))  # fmt: skip
            if node["spec"].get("unschedulable") or not wanted.items() <= labels.items():  # fmt: skip
                unmatched += 1
            elif free < asked:
                short += 1
            else:
                new = copy.deepcopy(pod)
                new["spec"]["nodeName"] = name
                self.store.replace("pods", new)
                return
        reasons = []
        if short:
            reasons.append(f"{short} Insufficient {GPU}")
        if unmatched:
            reasons.append(f"{unmatched} node(s) didn't match Pod's node affinity/selector")  # fmt: skip
        message = f"0/{len(nodes)} nodes are available: {', '.join(reasons)}. no new claims to deallocate, preemption: 0/{len(nodes)} nodes are available"
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}  # fmt: skip
        self.store.change("pods", pod, status={"phase": "Pending", "conditions": [condition]})  # fmt: skip

    # ------------------------------------------------------------ endings

    def delete(self, pod: Json, grace: int | None = None) -> None:
        """Ask a pod to end."""
        now_ = self.store.objects.get(_key(pod))
        if now_ is None or (gone(now_) and grace is None):
            return
        new = copy.deepcopy(now_)
        default = new["spec"].get("terminationGracePeriodSeconds", 30)
        new["metadata"]["deletionTimestamp"] = now()
        new["metadata"]["deletionGracePeriodSeconds"] = default if grace is None else grace  # fmt: skip
        self.store.replace("pods", new)

    def _collect(self) -> None:
        """What has lost its owner goes; an owner that waits for what it owns goes after it."""
        uids = {o["metadata"]["uid"] for o in self.store.objects.values()}
        leaving = {o["metadata"]["uid"] for o in self.store.objects.values() if gone(o)}
        held: set[str] = set()
        for (plural, _, _), each in [*self.store.objects.items()]:
            owners = [
                o["uid"] for o in each["metadata"].get("ownerReferences", []) if "uid" in o
            ]  # fmt: skip
            if not owners:
                continue
            if any(uid not in uids or uid in leaving for uid in owners):
                held.update(uid for uid in owners if uid in leaving)
                if plural == "pods":
                    self.delete(each)
                else:
                    self.store.remove(plural, each)
        for (plural, _, _), each in [*self.store.objects.items()]:
            done = plural != "pods" and each["metadata"]["uid"] not in held
            if gone(each) and done:
                self.store.remove(plural, each)

    def event(self, about: Json, reason: str, message: str) -> None:
        """A warning about an object, once."""
        meta = about["metadata"]
        name = f"{meta['name']}.{zlib.crc32((reason + message).encode()):x}"
        if ("events", meta["namespace"], name) in self.store.objects:
            return
        obj = {
            "metadata": {"name": name},
            "involvedObject": {"kind": about["kind"], "name": meta["name"], "namespace": meta["namespace"]},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "count": 1,
            "lastTimestamp": now(),
        }  # fmt: skip
        self.store.create("events", meta["namespace"], obj)

    def _pods_of(self, owner: Json) -> list[Json]:
        uid = owner["metadata"]["uid"]
        return [
            pod
            for pod in self.store.all("pods", owner["metadata"]["namespace"])
            if any(o.get("uid") == uid for o in pod["metadata"].get("ownerReferences", []))
        ]  # fmt: skip


def gone(obj: Json) -> bool:
    """Whether somebody has deleted it."""
    return "deletionTimestamp" in obj["metadata"]


def over(pod: Json) -> bool:
    """Whether it will run no more."""
    return gone(pod) or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(pod: Json) -> int:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return sum(each["restartCount"] for each in statuses)


def gpus_of(pod: Json) -> int:
    total = 0
    for each in pod["spec"]["containers"]:
        resources = each.get("resources", {})
        asked = (
            resources.get("limits", {}).get(GPU)
            or resources.get("requests", {}).get(GPU)
            or 0
        )
        total += int(asked)
    return total


def _hash(template: Any) -> str:
    return f"{zlib.crc32(json.dumps(template, sort_keys=True).encode()):08x}"


def _key(obj: Json) -> tuple[str, str, str]:
    return "pods", obj["metadata"]["namespace"], obj["metadata"]["name"]
