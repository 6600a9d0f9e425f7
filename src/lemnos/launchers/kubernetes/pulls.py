"""What the Job that pulls a model is at, which the pods of its engines wait for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lemnos.launchers.kubernetes.parse import History, Pod, status_of

PULL = "pull"
"""The role of its pods."""


def pods_of(pods: Sequence[Pod]) -> list[Pod]:
    """Those that pull, of the deployment's."""
    return [pod for pod in pods if pod.role == PULL and not (pod.deleted or pod.over)]


def why_not_yet(pods: Sequence[Pod]) -> str:
    """What holds ``pods_of`` up; empty where they pull, or there are none."""
    if not pods:
        return ""
    found = status_of("model", pods, History(), 1)
    return "" if found.state == "running" else f"the Job that pulls the model: {found.why}"  # fmt: skip


def given_up(jobs: Sequence[Mapping[str, Any]], marker: str) -> str:
    """Why no Job is left that would write ``marker``, in Kubernetes' words; empty where one may, and where
    there is none."""
    own = [_failure(job) for job in jobs if marker in _values(job)]
    return own[-1] if own and all(own) else ""


def has_failed(job: Mapping[str, Any]) -> bool:
    """Whether it will try no more."""
    return bool(_failure(job))


def _failure(job: Mapping[str, Any]) -> str:
    for each in (job.get("status") or {}).get("conditions") or ():
        if each.get("type") == "Failed" and each.get("status") == "True":
            return str(each.get("message") or each.get("reason") or "it failed")
    return ""


def _values(job: Mapping[str, Any]) -> set[str]:
    containers = job["spec"]["template"]["spec"]["containers"]
    return {v["value"] for c in containers for v in c.get("env", ()) if "value" in v}
