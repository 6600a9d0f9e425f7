"""Which units have workloads, and what is asked about them seldom: why there are no pods, what a pull says."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from typing import Any

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.names import UNIT
from lemnos.launchers.kubernetes.parse import without_pods
from lemnos.launchers.kubernetes.pulls import given_up
from lemnos.launchers.kubernetes.words import own_words, refused

WORKLOADS = {
    "Deployment": "deployments.apps",
    "LeaderWorkerSet": "leaderworkersets.leaderworkerset.x-k8s.io",
    "DynamoGraphDeployment": "dynamographdeployments.nvidia.com",
    "RayCluster": "rayclusters.ray.io",
}
AROUND = {
    "Service": "services",
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "Job": "jobs.batch",
    "NetworkPolicy": "networkpolicies.networking.k8s.io",
    "Ingress": "ingresses.networking.k8s.io",
    "PodDisruptionBudget": "poddisruptionbudgets.policy",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers.autoscaling",
    "ComputeDomain": "computedomains.resource.nvidia.com",
    "ScaledObject": "scaledobjects.keda.sh",
    "ServiceMonitor": "servicemonitors.monitoring.coreos.com",
    "HTTPRoute": "httproutes.gateway.networking.k8s.io",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}
MADE = frozenset({*WORKLOADS.values(), *AROUND.values()} - {"persistentvolumeclaims"})
"""What ``down`` removes: all that lemnos makes, but the claims with weights."""
ASK_S = 5.0
"""Between questions about the same."""


class Owners:
    """Of the objects with the labels of ``selector``."""

    def __init__(self, client: Client, selector: str) -> None:
        self._client, self._selector = client, selector
        self._workloads: dict[str, tuple[str, str]] | None = None
        self._asked_at = 0.0
        self._kinds: list[str] = []
        self._told: dict[tuple[str, str], tuple[float, str]] = {}

    def known(self, pods: Collection[str] = ()) -> set[str]:
        """The units that have a workload. Asked again, at most every few seconds, while what is known does
        not fit to the pods that there are (their units)."""
        fits = self._workloads is not None and set(self._workloads) >= set(pods) - {""}
        empty = self._workloads is not None and set(self._workloads) - set(pods)
        due = time.monotonic() - self._asked_at >= ASK_S
        if self._workloads is None or ((not fits or empty) and due):
            self._ask()
        return set(self._workloads or ())

    def add(self, unit: str) -> None:
        """It has been applied; its kind may be new in the cluster."""
        self._kinds = []
        self._told.clear()
        self._workloads = {**(self._workloads or {}), unit: ("", "")}

    def drop(self, unit: str) -> None:
        """It has been removed."""
        (self._workloads or {}).pop(unit, None)

    def clear(self) -> None:
        """All have been removed."""
        self._workloads = {}

    def found(self, unit: str) -> list[tuple[str, str]]:
        """The objects of a unit by their labels, as (resource, name)."""
        kinds = sorted(self._client.resources() & MADE)
        chosen = f"{self._selector},{UNIT}={unit}"
        words = ("--selector", chosen, "--output=json")
        told = json.loads(self._client.of_kinds("get", kinds, *words))
        return [(resource_of(each), each["metadata"]["name"]) for each in told.get("items", [])]  # fmt: skip

    def why_no_pods(self, unit: str, name: str) -> str:
        """From its workload's conditions and events, in words."""
        return self._seldom(("no pods", unit), lambda: self._why_no_pods(name))

    def pull_failed(self, marker: str) -> str:
        """Why the Job that writes ``marker`` tries no more; empty while it may."""

        def ask() -> str:
            words = ("get", "jobs.batch", "--selector", self._selector)
            return given_up(self._client.json(*words).get("items", []), marker)

        return self._seldom(("pull", marker), ask)

    def last_word(self, pod: str, container: str) -> str:
        """The last line of a container's log."""

        def ask() -> str:
            words = ("logs", pod, f"--container={container}", "--tail=1")
            done = self._client.ask(*words)
            return done.out.strip() if done.code == 0 else ""

        return self._seldom((pod, container), ask)

    def _ask(self) -> None:
        if not self._kinds:
            self._kinds = sorted(self._client.resources() & set(WORKLOADS.values()))
        if not self._kinds:
            raise LemnosError("the cluster tells of no workloads", where="kubernetes")
        words = ("--selector", self._selector, "--output=json")
        told = json.loads(self._client.of_kinds("get", self._kinds, *words))
        self._workloads = {
            each["metadata"]["labels"][UNIT]: (resource_of(each), each["metadata"]["name"])
            for each in told.get("items", [])
            if UNIT in each["metadata"].get("labels", {})
        }  # fmt: skip
        self._asked_at = time.monotonic()

    def _why_no_pods(self, name: str) -> str:
        events = self._client.json("get", "events").get("items", [])
        about = [
            e for e in events
            if e.get("type") == "Warning" and _is_of(name, str(e.get("involvedObject", {}).get("name", "")))
        ]  # fmt: skip
        about.sort(key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))  # fmt: skip
        said = without_pods((), [str(e.get("message", "")) for e in about])
        if not said:
            return ""
        error = refused(said)
        known = own_words(said) not in error.what
        return f"has no pod: {error.what if known else own_words(said)}"

    def _seldom(self, about: tuple[str, str], ask: Any) -> str:
        at, said = self._told.get(about, (0.0, ""))
        if time.monotonic() - at < ASK_S and at:
            return said
        try:
            said = str(ask())
        except LemnosError:  # it is only a word more
            said = ""
        self._told[about] = (time.monotonic(), said)
        return said


def _is_of(name: str, other: str) -> bool:
    """Whether ``other`` is ``name``, or called after it: not ``chat-engine-10`` after ``chat-engine-1``."""
    return other == name or other.startswith(f"{name}-")


def resource_of(obj: Mapping[str, Any]) -> str:
    """``deployments.apps``, as kubectl names it."""
    return (WORKLOADS | AROUND)[obj["kind"]]
