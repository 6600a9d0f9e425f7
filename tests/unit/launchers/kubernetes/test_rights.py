"""The rights that an administrator gives: of every kind that lemnos makes."""

from __future__ import annotations

from lemnos.launchers.kubernetes.owners import AROUND, WORKLOADS
from tests.rights import allowed, refused


def test_every_kind_that_is_made_may_be_made_and_removed() -> None:
    rights = allowed()
    for resource in (WORKLOADS | AROUND).values():
        plural, _, group = resource.partition(".")
        for verb in ("get", "list", "create", "patch", "delete"):
            assert (True, verb, group, plural) in rights, resource


def test_a_request_that_is_not_allowed_is_seen() -> None:
    asked = "GET /api/v1/namespaces/llm/pods/chat-0/exec?command=sh"
    assert refused([asked]) == {(True, "get", "", "pods/exec")}
    assert refused(["DELETE /api/v1/nodes/a"]) == {(False, "delete", "", "nodes")}
    free = ["GET /api/v1/pods?limit=500", "GET /version", "GET /apis/apps/v1"]
    assert refused(free) == set()
