"""From what the API server tells of pods to a unit's status. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lemnos.launchers.kubernetes.names import RANK, ROLE, UNIT
from lemnos.launchers.kubernetes.words import code_in_words, unschedulable, words
from lemnos.spec.unit import UnitStatus

INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
PULL_TRIES = 2
"""So often the kubelet has tried to pull an image when it is called not pullable."""
INIT_TRIES = 3
"""The same of a container that prepares a pod, and may have failed by the network."""

BRIEF_S = 2.0
"""A container that ended sooner has done nothing; times are whole seconds there."""


@dataclass(frozen=True)
class Container:
    """One of a pod."""

    name: str
    image: str = ""
    ready: bool = False
    restarts: int = 0
    state: str = ""
    """``waiting``, ``running``, ``terminated``; empty while nothing is known."""
    reason: str = ""
    message: str = ""
    code: int | None = None
    """With which it ended, now or, while it waits, the last time."""
    end: str = ""
    """The reason of that end: ``OOMKilled``, ``Error``."""
    brief: bool = False
    """Its first run ended within ``BRIEF_S``: it came up, and not further."""


@dataclass(frozen=True)
class Pod:
    """What matters of a pod."""

    name: str
    uid: str
    unit: str = ""
    role: str = ""
    rank: int = 0
    version: int = 0
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    deleted: bool = False
    unscheduled: str | None = None
    """The scheduler's message, while no node takes it."""
    disrupted: str = ""
    """Why it was told to go."""
    served: bool = False
    """It is ready, or was."""
    inits: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it will not run any more."""
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True)
class History:
    """What was seen of a unit's pods, and is not in them any more."""

    served: bool = False
    pods: frozenset[str] = frozenset()
    """The uids of all that there were."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By uid, of those that are gone too."""
    pulls: Mapping[str, int] = field(default_factory=dict)
    """Tries to pull an image that failed, by uid."""
    pulling: frozenset[str] = frozenset()
    """The uids whose last try had just failed, when they were seen last."""
    end: str = ""
    """How a part ended last."""
    failed: str = ""
    """How a part ended first by itself, and which, before any of it had served."""


def pod_of(obj: Mapping[str, Any]) -> Pod:
    """A pod as the API server has it."""
    meta, spec, status = obj["metadata"], obj.get("spec", {}), obj.get("status", {})
    labels = meta.get("labels", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {})
    rank = labels.get(INDEX) or labels.get(RANK, "0")
    version = meta.get("resourceVersion", "0")
    return Pod(
        name=meta["name"],
        uid=meta.get("uid", ""),
        unit=labels.get(UNIT, ""),
        role=labels.get(ROLE, ""),
        rank=int(rank) if rank.isdecimal() else 1,  # "workers", of a group
        version=int(version) if version.isdecimal() else 0,
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        phase=status.get("phase", "Pending"),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        deleted="deletionTimestamp" in meta,
        unscheduled=scheduled.get("message", "") if scheduled.get("status") == "False" else None,
        disrupted=disrupted.get("reason", "") if disrupted.get("status") == "True" else "",
        served=_has_served(conditions),
        inits=tuple(_container(c) for c in status.get("initContainerStatuses") or ()),
        containers=tuple(_container(c) for c in status.get("containerStatuses") or ()),
    )  # fmt: skip


def folded(history: History, pod: Pod) -> History:
    """``history`` with what ``pod`` tells now."""
    restarts = sum(each.restarts for each in pod.containers)
    images = words().images
    fails = any(c.reason == images[0] for c in (*pod.inits, *pod.containers))
    backs = any(c.reason in images[1:] for c in (*pod.inits, *pod.containers))
    pulls, pulling = dict(history.pulls), history.pulling - {pod.uid}
    if (fails and pod.uid not in history.pulling) or (backs and not pulls.get(pod.uid)):
        pulls[pod.uid] = pulls.get(pod.uid, 0) + 1
    if fails:
        pulling |= {pod.uid}
    ended = next((c for c in pod.containers if c.code is not None), None)
    # Other ranks, and other containers of a pod, have no probe: they are ready as soon as they run.
    beside = [each for each in pod.containers if each is not _first(pod)]
    brief = history.pods <= {pod.uid} and any(each.brief for each in beside)
    served = not brief and (history.served or (pod.served and pod.rank == 0))
    failed = history.failed
    if ended and not (served or failed or pod.deleted or pod.disrupted or pod.over):
        failed = _failure(ended, pod)
    return replace(
        history,
        served=served,
        failed=failed,
        pods=history.pods | {pod.uid},
        restarts={**history.restarts, pod.uid: restarts},
        pulls=pulls,
        pulling=pulling,
        end=_how(ended, pod) if ended else history.end,
    )


def status_of(
    name: str, pods: Sequence[Pod], history: History, hosts: int
) -> UnitStatus:
    """The status of the unit ``name``, which has ``hosts`` pods when it is whole; without its URL."""
    pods = sorted(pods, key=lambda pod: (pod.rank, pod.name))
    alive = [pod for pod in pods if not pod.deleted and not pod.over]
    told = {
        "id": pods[0].name if pods else "",
        "hosts": tuple(pod.node for pod in pods if pod.node),
        "starts": _starts(pods, history),
    }
    if hosts == 1:  # of a pool, one that runs is enough
        alive = [pod for pod in alive if _runs(name, pod, history)] or alive
    if why := _never(alive, history):
        return UnitStatus(state="ended", why=why, **told)
    if not alive:
        return _without(pods, history, told)
    told["hosts"] = tuple(pod.node for pod in alive if pod.node)
    told["id"] = alive[0].name
    if why := _waits(name, alive, history):
        return UnitStatus(state="queued", why=why, **told)
    if len(alive) < hosts:
        why = f"{len(alive)} of its {hosts} pods are there"
        if history.end:
            why += f"; one before {history.end}"
        return UnitStatus(state="queued", why=why, **told)
    lost = [pod for pod in alive if pod.reason == "NodeLost"]
    broken = f"its node {lost[0].node} does not answer" if lost else ""
    gone = [pod.disrupted for pod in alive if pod.disrupted]
    leaving = words().leaving.get(gone[0], f"it is told to go ({gone[0]})") if gone else ""  # fmt: skip
    return UnitStatus(state="running", broken=broken, leaving=leaving, **told)


def api_pod(pods: Sequence[Pod]) -> Pod | None:
    """The one whose API is ready to be asked: the first rank's."""
    for pod in pods:
        alive = not pod.deleted and not pod.over and pod.rank == 0
        if alive and pod.ip and pod.containers and _first(pod).ready:
            return pod
    return None


def without_pods(conditions: Sequence[Mapping[str, Any]], events: Sequence[str]) -> str:
    """Why an owner has no pods: its conditions' words, or the newest of its events."""
    for each in conditions:
        if each.get("type") == "ReplicaFailure" and each.get("status") == "True":
            return str(each.get("message", ""))
    return events[-1] if events else ""


def _has_served(conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Ready now, or not ready since a moment after its containers could first be started: it was
    between. (A pod that never was ready is so since its first condition.)"""
    ready, first = conditions.get("Ready", {}), conditions.get("Initialized", {})
    if ready.get("status") == "True":
        return True
    since, began = (c.get("lastTransitionTime") or "" for c in (ready, first))
    return bool(since and began and first.get("status") == "True" and since > began)


def _container(told: Mapping[str, Any]) -> Container:
    state = next(iter(told.get("state") or {}), "")
    now = (told.get("state") or {}).get(state) or {}
    last = (told.get("lastState") or {}).get("terminated") or {}
    end = now if state == "terminated" else last
    return Container(
        name=told["name"],
        image=told.get("image", ""),
        ready=bool(told.get("ready")),
        restarts=told.get("restartCount", 0),
        state=state,
        reason=now.get("reason", ""),
        message=now.get("message", ""),
        code=end.get("exitCode"),
        end=end.get("reason", ""),
        brief=told.get("restartCount", 0) <= 1 and _lasted_s(end) < BRIEF_S,
    )


def _lasted_s(end: Mapping[str, Any]) -> float:
    """Of a run that has ended; for ever where that is not told."""
    try:
        began, ended = (datetime.fromisoformat(end[k]) for k in ("startedAt", "finishedAt"))  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return math.inf
    return (ended - began).total_seconds()


def _never(alive: Sequence[Pod], history: History) -> str:
    """Why the unit will not come up by itself; empty if it may."""
    table = words()
    for pod in alive:
        for each in (*pod.inits, *pod.containers):
            if each.state == "waiting" and each.reason in table.never:
                return f"{table.never[each.reason]}: {each.message or each.reason}"
            if each.reason in table.images and history.pulls.get(pod.uid, 0) >= PULL_TRIES:  # fmt: skip
                return f"its image {each.image or ''} cannot be pulled: {_why_no_image(each)}"
        for each in pod.inits:
            if each.restarts >= INIT_TRIES:
                return f"what prepares it ({each.name}) {_how(each, pod)}"
    return "" if history.served else history.failed


def _runs(name: str, pod: Pod, history: History) -> bool:
    return not _never([pod], history) and not _waits(name, [pod], history)


def _waits(name: str, alive: Sequence[Pod], history: History) -> str:
    """For what the unit waits; empty if it runs."""
    table = words()
    for pod in alive:
        if pod.unscheduled is not None:
            return unschedulable(pod.unscheduled)
        for each in pod.inits:
            if each.state == "running":
                return f"its container '{each.name}' prepares it"
        for each in (*pod.inits, *pod.containers):
            if each.reason in table.images:
                return f"its image {each.image} cannot be pulled, and is tried again: {_why_no_image(each)}"
        for each in pod.containers:
            if each.code is not None and each.state != "running":
                return f"Kubernetes starts it again: {_part(name, each, pod)} {_how(each, pod)}"  # fmt: skip
            if each.state == "waiting":
                said = table.waits.get(each.reason, each.reason)
                return f"{said} on {pod.node}" if pod.node else said
        if not pod.containers or pod.phase == "Pending":
            on = f" on {pod.node}" if pod.node else ""
            return f"its pod is being started{on}"
    return ""


def _without(pods: Sequence[Pod], history: History, told: dict[str, Any]) -> UnitStatus:
    """Of a unit whose pods are on their way out, or are all over."""
    leaving = [pod for pod in pods if pod.deleted and not pod.over]
    if leaving:
        gone = [pod.disrupted for pod in leaving if pod.disrupted]
        why = words().leaving.get(gone[0], "") if gone else ""
        return UnitStatus(state="running", leaving=why or "its pod is being ended", **told)  # fmt: skip
    over = [pod for pod in pods if pod.over]
    if over:
        said = words().ended.get(over[-1].reason) or over[-1].message or history.end
        return UnitStatus(state="queued", why=f"another pod is made: the last one {said or 'ended'}", **told)  # fmt: skip
    why = "its pod is being made"
    if history.end:
        why += f" again: the last one {history.end}"
    return UnitStatus(state="queued", why=why, **told)


def _how(each: Container, pod: Pod) -> str:
    """How a container ended."""
    table = words().ended
    said = table.get(each.end) or table.get(pod.reason)
    return said or code_in_words(each.code or 0)


def _failure(each: Container, pod: Pod) -> str:
    """How it ended, and of several parts which."""
    part, how = _part(pod.unit, each, pod), _how(each, pod)
    return how if part == pod.unit else f"{part} {how}"


def _part(name: str, each: Container, pod: Pod) -> str:
    """``engine-0.1``: the job that the container runs."""
    _, _, last = each.name.rpartition("-")
    rank = int(last) if last.isdecimal() and len(pod.containers) > 1 else pod.rank
    return f"{name}.{rank}" if rank else name


def _first(pod: Pod) -> Container:
    """The container with the API: the one whose name has no number."""
    named = [c for c in pod.containers if not c.name.rpartition("-")[2].isdecimal()]
    return (named or list(pod.containers))[0]


def _why_no_image(each: Container) -> str:
    message = each.message.removeprefix("Back-off pulling image").strip()
    return message or each.reason


def _starts(pods: Sequence[Pod], history: History) -> int:
    """How often its owner has started it again: containers, and pods in the place of others."""
    ranks = max(1, len({pod.rank for pod in pods}))
    known = len(history.pods | {pod.uid for pod in pods})
    again = max(0, known - ranks) // ranks
    return again + sum(history.restarts.values())
