"""The gateway as pods: what it is given, who may reach it, how it is exposed."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.gateway import targets_map
from lemnos.launchers.kubernetes.names import NodeFacts
from lemnos.launchers.kubernetes.objects import objects_of
from lemnos.spec.clusters import KEY_IN_A_POD, TARGETS_IN_A_POD
from lemnos.spec.targets import TargetTable
from tests.manifests import check, pods_of
from tests.unit.launchers.kubernetes import units
from tests.unit.launchers.kubernetes.units import only, site

IMAGE = "registry.example/lemnos:1"


def objects(endpoint: dict[str, Any] | None = None, **spec: Any) -> list[dict[str, Any]]:  # fmt: skip
    keyed = {"api_key_file": "keys"} | (endpoint or {})
    at = site(kubernetes={"gateway_image": IMAGE} | spec, endpoint=keyed)
    return objects_of(units.gateway(), at, NodeFacts())


def kinds(found: list[dict[str, Any]]) -> set[str]:
    return {each["kind"] for each in found}


def test_it_reads_its_table_and_the_engines_key() -> None:
    """The table as a directory: files mounted alone (subPath) would never change."""
    (pod,) = pods_of(objects())
    (own,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in own["volumeMounts"]}
    for path in (TARGETS_IN_A_POD, KEY_IN_A_POD):
        mount = mounts[path.rpartition("/")[0]]
        assert mount["readOnly"] is True and "subPath" not in mount
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["targets"]["configMap"] == {"name": "chat-targets"}
    assert volumes["key"]["secret"]["secretName"] == "chat-key"
    assert own["image"] == IMAGE and own["command"][:3] == ["python3", "-m", "lemnos.gateway"]  # fmt: skip


def test_its_table_is_a_map() -> None:
    table = TargetTable(revision=3).model_dump_json()
    made = targets_map(table, site())
    check(made)
    assert made["metadata"]["name"] == "chat-targets"
    assert TargetTable.model_validate_json(made["data"]["targets.json"]).revision == 3


def test_it_is_not_root_and_writes_to_tmp_alone() -> None:
    (pod,) = pods_of(objects())
    (own,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert own["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [m["mountPath"] for m in own["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["/tmp"]


def test_databases_and_clouds_are_references() -> None:
    found = objects(ledger_secret="ledger", gateway_secret="clouds")
    (own,) = pods_of(found)[0]["containers"]
    (url,) = [each for each in own["env"] if each["name"] == "LEMNOS_LEDGER"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "ledger", "key": "url"}
    assert own["envFrom"] == [{"secretRef": {"name": "clouds"}}]
    cloud = {"provider": "openai", "model": "x", "key_file": "~/key"}
    with pytest.raises(UsageError, match="pods do not have ~/key") as caught:
        objects({"cloud": [cloud]})
    assert caught.value.where == "endpoint.cloud[0].key_file"


def test_who_may_reach_it() -> None:
    """Everybody, unless namespaces are named; what reads metrics is one of them then."""
    assert kinds(objects()) == {"Deployment", "Service"}
    found = objects(client_namespaces=["apps"], monitor=True, monitor_secret="reader")
    (rule,) = only(found, "NetworkPolicy")["spec"]["ingress"]
    (who,) = rule["from"]
    (match,) = who["namespaceSelector"]["matchExpressions"]
    assert match["values"] == ["apps", "monitoring"]
    (endpoint,) = only(found, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["name"] == "reader"
    assert "ServiceMonitor" not in kinds(objects(monitor=True))


def test_how_it_is_exposed() -> None:
    host = {"host": "llm.example.org"}
    ingress = only(objects(expose=host | {"tls_secret": "tls"}), "Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    service = only(objects(), "Service")["metadata"]["name"]
    assert path["backend"]["service"]["name"] == service
    assert ingress["spec"]["tls"] == [
        {"hosts": ["llm.example.org"], "secretName": "tls"}
    ]
    by = {"by": "httproute", "gateway": "infra/public"}
    route = only(objects(expose=host | by), "HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert route["rules"][0]["backendRefs"][0]["name"] == service
    by["gateway"] = "public"
    route = only(objects(expose=host | by), "HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": "public"}]
