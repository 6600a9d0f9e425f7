"""The Job that pulls a model, as the API server tells of it and its pods."""

from __future__ import annotations

from typing import Any

from lemnos.launchers.kubernetes.parse import pod_of
from lemnos.launchers.kubernetes.pulls import (
    given_up,
    has_failed,
    pods_of,
    why_not_yet,
)

FAILED = {
    "type": "Failed",
    "status": "True",
    "reason": "BackoffLimitExceeded",
    "message": "Job has reached the specified backoff limit",
}


def job(marker: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    env = [{"name": "MARKER", "value": marker}, {"name": "HF_TOKEN", "valueFrom": {}}]
    pod = {"containers": [{"name": "model", "env": env}]}
    return {
        "spec": {"template": {"spec": pod}},
        "status": {"conditions": [*conditions]},
    }


def pod(role: str, **state: Any) -> dict[str, Any]:
    status = {"name": "model", "ready": False, "restartCount": 0, "state": state}
    return {
        "metadata": {"name": f"chat-{role}", "uid": role, "labels": {"lemnos.dev/role": role}},
        "status": {"phase": "Running", "containerStatuses": [status]},
    }  # fmt: skip


def test_a_job_that_tries_no_more_is_told_in_its_words() -> None:
    assert given_up([job("/m/a", FAILED)], "/m/a") == FAILED["message"]
    assert has_failed(job("/m/a", FAILED)) and not has_failed(job("/m/a"))
    assert not has_failed(job("/m/a", FAILED | {"status": "False"}))


def test_another_model_s_job_and_one_that_goes_on_say_nothing() -> None:
    assert given_up([], "/m/a") == ""
    assert given_up([job("/m/b", FAILED)], "/m/a") == ""
    # The same model by another image: that one may bring it yet.
    assert given_up([job("/m/a", FAILED), job("/m/a")], "/m/a") == ""


def test_what_holds_a_pull_up() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}  # fmt: skip
    pods = [pod_of(pod("engine", running={})), pod_of(pod("pull", waiting=waiting))]
    (pull,) = pods_of(pods)
    assert 'secret "hf" not found' in why_not_yet([pull])
    assert why_not_yet([pod_of(pod("pull", running={}))]) == ""
    assert why_not_yet([]) == ""
