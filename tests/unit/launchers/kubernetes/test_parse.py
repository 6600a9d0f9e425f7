"""From pods as the API server has them to a unit's status."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from lemnos.launchers.kubernetes.owners import AROUND, WORKLOADS
from lemnos.launchers.kubernetes.parse import (
    History,
    Pod,
    api_pod,
    folded,
    pod_of,
    status_of,
)

BEGAN, LATER = "2026-11-21T10:00:00Z", "2026-11-21T10:05:00Z"


def container(name: str = "engine", **state: Any) -> dict[str, Any]:
    """``state``: ``running={}``, ``waiting={"reason": ...}``, ``terminated={...}``."""
    more = {key: state.pop(key) for key in ("ready", "restartCount", "lastState") if key in state}  # fmt: skip
    return {"name": name, "image": "vllm:1", "restartCount": 0, "state": state} | more


def obj(*containers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A pod on n1 whose containers are these."""
    ready = changes.pop("ready", False)
    since = changes.pop("since", BEGAN)
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Initialized", "status": "True", "lastTransitionTime": BEGAN},
        {"type": "Ready", "status": str(ready), "lastTransitionTime": since},
        *changes.pop("conditions", []),
    ]
    labels = {"lemnos.dev/unit": "engine-0", "lemnos.dev/role": "engine"}
    meta = {
        "name": changes.pop("name", "chat-engine-0-x"),
        "uid": changes.pop("uid", "u1"),
        "resourceVersion": "7",
        "labels": labels | {"lemnos.dev/rank": "0"} | changes.pop("labels", {}),
    } | changes.pop("meta", {})
    status = {
        "phase": "Running",
        "podIP": "10.1.0.7",
        "conditions": conditions,
        "containerStatuses": list(containers),
    }
    return {"metadata": meta, "spec": {"nodeName": "n1"}, "status": status | changes}


def seen(*objects: dict[str, Any], hosts: int = 1, before: History | None = None) -> Any:  # fmt: skip
    """The status after these were seen one after the other; those of one uid replace each other."""
    history, pods = before or History(), dict[str, Pod]()
    for each in objects:
        pod = pod_of(each)
        history = folded(history, pod)
        pods[pod.uid] = pod
    return status_of("engine-0", [*pods.values()], history, hosts)


RUNNING = container(running={"startedAt": BEGAN}, ready=True)


def crashed(code: int = 3, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return container(terminated={"exitCode": code, "reason": reason}, **more)


def test_a_pod_that_runs() -> None:
    status = seen(obj(RUNNING, ready=True))
    assert (status.state, status.hosts, status.starts) == ("running", ("n1",), 0)
    assert not status.broken and not status.leaving
    assert status.id == "chat-engine-0-x"


def test_no_node_takes_it() -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    waits = obj(phase="Pending", podIP="")
    waits["spec"] = {}
    waits["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": message}
    ]
    status = seen(waits)
    assert status.state == "queued"
    assert status.why == "none of 3 nodes takes it: 3 have too little nvidia.com/gpu free"  # fmt: skip


def test_what_never_was_ready_and_failed_has_ended() -> None:
    status = seen(obj(crashed()))
    assert (status.state, status.why) == ("ended", "ended with exit code 3")


def test_its_exit_is_known_while_it_waits_to_be_started_again() -> None:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s"}
    status = seen(obj(container(waiting=waiting, restartCount=2, lastState=last)))
    assert status.state == "ended" and "OOMKilled" in status.why


def test_of_several_the_one_that_failed_is_named() -> None:
    status = seen(obj(RUNNING, crashed() | {"name": "engine-1"}))
    assert status.why == "engine-0.1 ended with exit code 3"


def test_what_served_before_is_brought_back() -> None:
    before = obj(RUNNING, ready=True)
    status = seen(before, obj(crashed(), since=LATER))
    assert status.state == "queued"
    assert status.why == "Kubernetes starts it again: engine-0 ended with exit code 3"
    again = container(running={}, restartCount=1, lastState={"terminated": {"exitCode": 3}})  # fmt: skip
    status = seen(before, obj(crashed()), obj(again))
    assert (status.state, status.starts) == ("running", 1)


def test_a_part_without_a_probe_that_ends_at_once_had_not_served() -> None:
    """Its pod was ready for the moment in which it ran, and the API beside it answered."""
    end = {"exitCode": 3, "startedAt": BEGAN, "finishedAt": "2026-11-21T10:00:01Z"}
    ended = container("rank-1", terminated=end)
    both = obj(RUNNING, container("rank-1", running={}, ready=True), ready=True)
    status = seen(both, obj(RUNNING, ended, since=LATER))
    assert status.state == "ended" and "exit code 3" in status.why
    late = container("rank-1", terminated=end | {"finishedAt": LATER})
    assert seen(both, obj(RUNNING, late, since=LATER)).state == "queued"


def test_a_launcher_made_anew_knows_that_it_served() -> None:
    status = seen(obj(crashed(), since=LATER))
    assert status.state == "queued", "its readiness changed after its start"


def test_an_image_that_cannot_be_pulled_ends_it_after_the_second_try() -> None:
    fails = obj(container(waiting={"reason": "ErrImagePull", "message": "not found"}))
    backs = obj(container(waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "vllm:1"'}))  # fmt: skip
    status = seen(fails)
    assert status.state == "queued" and "vllm:1" in status.why
    assert seen(fails, fails).state == "queued", "the same try, told twice"
    assert seen(fails, backs).state == "queued"
    status = seen(fails, backs, fails)
    assert status.state == "ended"
    assert status.why == "its image vllm:1 cannot be pulled: not found"


def test_an_image_that_others_have_tried_before_counts_once() -> None:
    backs = obj(container(waiting={"reason": "ImagePullBackOff", "message": "x"}))
    assert seen(backs).state == "queued"


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "InvalidImageName"])
def test_what_cannot_be_configured_has_ended(reason: str) -> None:
    waiting = {"reason": reason, "message": 'secret "chat-key" not found'}
    status = seen(obj(container(waiting=waiting)))
    assert status.state == "ended" and 'secret "chat-key" not found' in status.why


def test_what_prepares_it_is_waited_for() -> None:
    inits = [container("model", running={})]
    waiting = container(waiting={"reason": "PodInitializing"})
    status = seen(obj(waiting, phase="Pending", initContainerStatuses=inits))
    assert (status.state, status.why) == ("queued", "its container 'model' prepares it")


def test_what_prepares_it_may_fail_twice() -> None:
    last = {"terminated": {"exitCode": 1}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    init = container("model", **waiting, restartCount=2, lastState=last)
    pod = obj(phase="Pending", initContainerStatuses=[init])
    assert seen(pod).state == "queued"
    init["restartCount"] = 3
    assert seen(pod).why == "what prepares it (model) ended with exit code 1"


def test_an_evicted_pod_is_replaced() -> None:
    evicted = obj(phase="Failed", reason="Evicted", message="low on memory")
    status = seen(obj(RUNNING, ready=True), evicted)
    assert status.state == "queued"
    assert status.why == "another pod is made: the last one its node put it out"
    new = obj(RUNNING, uid="u2", name="chat-engine-0-y")
    status = seen(obj(RUNNING, ready=True), evicted, new)
    assert (status.state, status.starts, status.id) == ("running", 1, "chat-engine-0-y")


def test_it_is_preempted() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}  # fmt: skip
    status = seen(obj(RUNNING, ready=True, conditions=[condition]))
    assert status.state == "running" and "preempted" in status.leaving
    gone = obj(RUNNING, conditions=[condition], meta={"deletionTimestamp": LATER})
    assert "preempted" in seen(gone).leaving


def test_it_is_being_ended() -> None:
    gone = obj(RUNNING, ready=True, meta={"deletionTimestamp": LATER})
    status = seen(gone)
    assert (status.state, status.leaving) == ("running", "its pod is being ended")


def test_its_node_does_not_answer() -> None:
    status = seen(obj(RUNNING, ready=True, reason="NodeLost"))
    assert status.broken == "its node n1 does not answer"


def rank(number: int, *containers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    label = {"leaderworkerset.sigs.k8s.io/worker-index": str(number)}
    changes |= {"uid": changes.get("uid", f"u{number}"), "labels": label}
    return obj(*containers, **changes)


def test_a_group_runs_when_all_of_it_is_there() -> None:
    status = seen(rank(0, RUNNING), hosts=2)
    assert (status.state, status.why) == ("queued", "1 of its 2 pods are there")
    assert seen(rank(1, RUNNING), rank(0, RUNNING), hosts=2).state == "running"


def test_a_group_that_is_made_again_counts_once() -> None:
    first = [rank(0, RUNNING, ready=True), rank(1, RUNNING)]
    history = History()
    for each in [*first, rank(1, crashed())]:
        history = folded(history, pod_of(each))
    new = [rank(0, RUNNING, uid="v0"), rank(1, RUNNING, uid="v1")]
    status = seen(*new, hosts=2, before=history)
    assert (status.state, status.starts) == ("running", 1)


def test_a_worker_that_runs_has_not_served_yet() -> None:
    ready = rank(1, RUNNING, ready=True)
    starting = rank(0, container(running={}, ready=False))
    status = seen(starting, ready, rank(1, crashed()), hosts=2)
    assert (status.state, status.why) == ("ended", "engine-0.1 ended with exit code 3")


def test_a_rank_that_fails_at_the_start_is_named() -> None:
    assert seen(rank(0, RUNNING), rank(1, crashed()), hosts=2).why == "engine-0.1 ended with exit code 3"  # fmt: skip


def test_a_failure_is_remembered_when_its_pod_is_gone() -> None:
    history = folded(History(), pod_of(rank(1, crashed())))
    new = rank(0, container(running={}), uid="v0")
    assert seen(new, hosts=2, before=history).why == "engine-0.1 ended with exit code 3"


def test_a_pod_that_was_told_to_go_has_not_failed() -> None:
    gone = obj(crashed(143), meta={"deletionTimestamp": LATER})
    assert folded(History(), pod_of(gone)).failed == ""


def test_no_pod_yet() -> None:
    assert seen().why == "its pod is being made"


def test_the_api_is_asked_when_its_container_is_ready() -> None:
    starting = container(running={}, ready=False)
    assert api_pod([pod_of(rank(0, starting)), pod_of(rank(1, RUNNING))]) is None
    found = api_pod([pod_of(rank(1, RUNNING)), pod_of(rank(0, RUNNING))])
    assert found and found.rank == 0


def test_of_a_pool_one_that_runs_is_enough() -> None:
    waits = obj(uid="u2", phase="Pending", podIP="")
    waits["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": ""}]  # fmt: skip
    assert seen(obj(RUNNING, ready=True), waits).state == "running"
    starting = obj(container(running={}, ready=False), uid="u0")
    found = api_pod([pod_of(starting), pod_of(obj(RUNNING))])
    assert found and found.uid == "u1"


def test_workers_of_a_group_come_after_its_head() -> None:
    worker = obj(RUNNING, name="a", uid="w", labels={"lemnos.dev/rank": "workers"})
    found = api_pod([pod_of(worker), pod_of(obj(RUNNING, name="z"))])
    assert found and found.name == "z"


def test_down_knows_every_kind_that_is_rendered() -> None:
    text = resources.files("lemnos.launchers.kubernetes").joinpath("why.yaml")
    rendered = {kind.split()[-1] for kind in yaml.safe_load(text.read_text())}
    assert rendered <= {*WORKLOADS, *AROUND}


def test_a_pod_of_which_nothing_is_known() -> None:
    pod = pod_of({"metadata": {"name": "x"}})
    assert pod.unit == "" and not pod.containers
    assert seen({"metadata": {"name": "x", "uid": "u"}}).state == "queued"
