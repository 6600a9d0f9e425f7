"""What is asked of kubectl: the words, and what goes on its input instead. (The real kubectl answers in
tests/contract/launchers/test_kubernetes*.py.)"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes import client as kubectl
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.forwarding import reaches
from lemnos.spec.clusters import KubernetesSpec
from lemnos.transport.base import Done
from lemnos.transport.here import Here


@dataclass
class Told(Here):
    """A machine whose kubectl gives these answers, one after the other."""

    answers: list[Done]
    asked: list[tuple[tuple[str, ...], bytes]] = field(default_factory=list)

    def run(self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0) -> Done:  # fmt: skip
        self.asked.append((argv, stdin or b""))
        return self.answers.pop(0)


def said(out: str = "", err: str = "", code: int = 0) -> Done:
    return Done(code, out, err)


def client(*answers: Done, **spec: Any) -> tuple[Client, Told]:
    told = Told([*answers])
    return Client(told, KubernetesSpec(**spec)), told


def test_the_cluster_that_is_meant_is_named_in_every_command() -> None:
    asked, told = client(said("{}"), context="east", kubeconfig="/k", namespace="llm")
    asked.json("get", "pods")
    argv, _ = told.asked[0]
    assert argv[:7] == ("kubectl", "--kubeconfig", "/k", "--context", "east", "--namespace", "llm")  # fmt: skip


def test_what_is_applied_goes_on_the_input_alone() -> None:
    asked, told = client(said())
    asked.apply('{"data": "c2VjcmV0"}')
    argv, stdin = told.asked[0]
    assert "c2VjcmV0" not in " ".join(argv) and b"c2VjcmV0" in stdin
    assert {"--server-side", "--field-manager=lemnos", "--filename=-"} <= set(argv)


def test_the_namespace_is_the_context_s_where_the_spec_has_none() -> None:
    asked, told = client(said("research\n"))
    assert asked.namespace() == asked.namespace() == "research"
    assert len(told.asked) == 1
    assert client(said(""))[0].namespace() == "default"
    assert client(namespace="llm")[0].namespace() == "llm"


def test_a_pod_s_namespace_is_its_own_where_there_is_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = said(err="error: current-context must exist in order to minify\n", code=1)
    monkeypatch.setattr(kubectl, "POD_NAMESPACE", str(tmp_path / "namespace"))
    with pytest.raises(LemnosError, match="current-context"):
        client(none)[0].namespace()
    (tmp_path / "namespace").write_text("llm")
    assert client(none)[0].namespace() == "llm"


def test_kinds_that_one_may_not_list_are_left_out() -> None:
    hidden = (
        'Error from server (Forbidden): rayclusters.ray.io is forbidden: User "ann" cannot list resource '
        '"rayclusters" in API group "ray.io" in the namespace "llm"\n'
    )
    asked, told = client(said(err=hidden, code=1), said("{}"))
    kinds = ["rayclusters.ray.io", "deployments.apps"]
    assert asked.of_kinds("get", kinds, "--output=json") == "{}"
    assert [argv[3] for argv, _ in told.asked] == [
        "deployments.apps,rayclusters.ray.io",
        "deployments.apps",
    ]
    other = hidden.replace("rayclusters", "deployments").replace("ray.io", "apps")
    with pytest.raises(LemnosError, match="you may not list deployments"):
        client(said(err=other, code=1))[0].of_kinds("get", kinds)


def test_another_pod_is_asked_whether_it_reaches_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A policy may keep it away."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reaches("127.0.0.1", port)
    assert not reaches("127.0.0.1", port)


@pytest.mark.parametrize("minor", ["27", "34+", "40"])
def test_new_enough(minor: str) -> None:
    asked, told = client(said(json.dumps({"serverVersion": {"major": "1", "minor": minor}})))  # fmt: skip
    asked.check()
    asked.check()
    assert len(told.asked) == 1


def test_too_old() -> None:
    asked, _ = client(said(json.dumps({"serverVersion": {"major": "1", "minor": "26"}})))  # fmt: skip
    with pytest.raises(LemnosError, match=r"Kubernetes 1\.26, and lemnos needs 1\.27"):
        asked.check()


def test_nothing_is_deleted_where_nothing_is_named() -> None:
    asked, told = client()
    asked.delete([])
    assert not told.asked


def test_an_aggregated_api_that_is_down_hides_nothing_else() -> None:
    asked, _ = client(said("pods\ndeployments.apps\n", "error: metrics.k8s.io/v1beta1: stale", 1))  # fmt: skip
    assert asked.resources() == {"pods", "deployments.apps"}
    asked, _ = client(said("", "error: You must be logged in to the server", 1))
    with pytest.raises(LemnosError, match="does not know you"):
        asked.resources()


def test_a_conflict_is_told_with_its_object() -> None:
    conflict = 'error: Apply failed with 1 conflict: conflict with "hpa" using apps/v1: .spec.replicas'
    asked, _ = client(said("", conflict, 1), said(), said("", conflict, 1))
    with pytest.raises(LemnosError) as caught:
        asked.apply("both")
    found = asked.about(caught.value, {"service-a.yaml": "a", "deployment-a.yaml": "b"})
    assert found.where == "deployment-a" and "'hpa' manages" in found.what
