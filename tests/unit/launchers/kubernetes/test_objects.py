"""Every kind that can be rendered is valid, strictly, over the options; and what the spec changes."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes import names
from lemnos.launchers.kubernetes.gateway import targets_map
from lemnos.launchers.kubernetes.names import NodeFacts
from lemnos.launchers.kubernetes.objects import objects_of, shared_of
from lemnos.launchers.kubernetes.render import text_of, why_of
from lemnos.launchers.site import Site
from lemnos.spec.unit import Unit
from tests.manifests import (
    NEWEST,
    VERSIONS,
    check,
    errors_of,
    has_schema,
    needs_crds,
    pods_of,
)
from tests.unit.launchers.kubernetes import units
from tests.unit.launchers.kubernetes.units import all_of, only, site

Case = tuple[Callable[[], Unit], dict[str, Any]]
KEYS: dict[str, Any] = {"endpoint": {"api_key_file": "keys"}}
FULL = {
    "namespace": "llm",
    "node_selector": {"gpu": "h100"},
    "tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
    "resources": {"rdma/ib": "1"},
    "cpus": "16",
    "memory": "400Gi",
    "runtime_class": "nvidia",
    "service_account": "serving",
    "pull_secrets": ["registry"],
    "priority_class": "high",
    "cache_host_path": "/data/cache",
    "monitor": True,
    "monitor_secret": "reader",
    "client_namespaces": ["apps"],
}
OWN = {"gateway_image": "registry.example/lemnos:1", "gateway_secret": "clouds"}
WEIGHTS: tuple[dict[str, str], ...] = (
    {},
    {"claim": "models"},
    {"claim": "models", "path": "glm"},
    {"host_path": "/data/models", "token_secret": "hub"},
    {"size": "1Ti", "storage_class": "fast", "access": "ReadWriteOnce"},
)
SCALE = {"min": 1, "max": 4, "queue": 2.5, "down_after_s": 5000}
KEDA = {"autoscale": "keda", "prometheus": "http://prometheus:9090"}
EXPOSED = (
    {"host": "llm.example.org", "ingress_class": "nginx", "tls_secret": "tls"},
    {"host": "llm.example.org", "by": "httproute", "gateway": "infra/public"},
    {"host": "llm.example.org", "by": "httproute", "gateway": "public"},
)


def cases() -> Iterator[Case]:
    """Each engine, with little said and with much; each volume; each scaler; the gateway."""
    for make, spec in itertools.product(
        (units.vllm, units.sglang, units.data_parallel, units.dynamo), ({}, FULL)
    ):
        yield make, {"kubernetes": spec}
    yield units.vllm_on_two, {"kubernetes": FULL}
    yield lambda: units.sglang(2), {}
    yield units.on_ray, {"kubernetes": FULL | {"kind": "raycluster"}}
    yield units.over_trays, {"kubernetes": FULL}
    yield units.over_trays, {"kubernetes": FULL | {"compute_domain": True}}
    yield units.one_over_trays, {"kubernetes": {"compute_domain": True}}
    yield units.small, {"kubernetes": OWN, **KEYS}
    for weights in WEIGHTS:
        yield units.vllm, {"kubernetes": {"weights": weights}}
        yield units.dynamo, {"kubernetes": {"weights": weights}}
    yield (
        units.small,
        {
            "kubernetes": OWN | {"weights": {"host_path": "/models"}},
            **KEYS,
        },
    )
    for spec, make in itertools.product(({}, KEDA), (units.vllm, units.vllm_on_two)):
        yield make, {"kubernetes": spec, "scale": SCALE}
    yield units.gateway, {"kubernetes": OWN, **KEYS}
    for expose in EXPOSED:
        more = {"expose": expose, "ledger_secret": "ledger", "gateway_replicas": 3}
        yield units.gateway, {"kubernetes": OWN | FULL | more, **KEYS}


CASES = list(cases())
CORE = {
    *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job"),
    *("NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "Service"),
}
EVERY = CORE | {
    *("DynamoGraphDeployment", "HTTPRoute", "LeaderWorkerSet", "RayCluster"),
    *("ComputeDomain", "ScaledObject", "ServiceMonitor"),
}


@functools.cache
def made() -> list[tuple[Unit, Site, list[dict[str, Any]]]]:
    """Each case's unit, where it is, and its objects with its deployment's: nobody changes them."""
    units_at = [(make(), site(**keys)) for make, keys in CASES]
    return [(unit, at, all_of(unit, at)) for unit, at in units_at]


def found() -> list[dict[str, Any]]:
    objects = [each for _, _, objects in made() for each in objects]
    return [*objects, targets_map('{"routes": []}', site())]


def test_the_options_render_every_kind() -> None:
    assert {each["kind"] for each in found()} == EVERY
    assert set(why_of()) >= EVERY


@needs_crds
def test_a_kind_without_a_schema_is_not_rendered() -> None:
    assert [each["kind"] for each in found() if not has_schema(each)] == []


@needs_crds
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version: str) -> None:
    told = {json.dumps(each): each for each in found()}
    for each in told.values():
        check(each, version)


@needs_crds
def test_the_schemas_are_strict() -> None:
    """A misspelt field is found in each kind, in its pods too."""
    by_kind = {each["kind"]: each for each in found()}
    for each in by_kind.values():
        wrong = json.loads(json.dumps(each))
        spec = wrong.get("spec", wrong)
        spec["replikas"] = 1
        assert any("replikas" in error for error in errors_of(wrong))
        del spec["replikas"]
        inner = list(parts(wrong, "volumes"))
        for pod in inner:
            pod["hostNetwrk"] = True
        assert any("hostNetwrk" in error for error in errors_of(wrong)) == bool(inner)


def test_kubernetes_validate_itself_agrees() -> None:
    by_kind = {each["kind"]: each for each in found()}
    known = [kind for kind in by_kind if kind in CORE]
    for kind in known:
        kubernetes_validate.validate(by_kind[kind], NEWEST, strict=True)
    assert len(known) == len(CORE)


def parts(found: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every dictionary with ``key`` within an object."""
    for each in found.values() if isinstance(found, dict) else found:
        if isinstance(each, dict) and key in each:
            yield each
        if isinstance(each, dict | list):
            yield from parts(each, key)


def test_everything_is_labelled_and_named() -> None:
    for unit, at, objects in made():
        seen = [f"{each['kind']}/{each['metadata']['name']}" for each in objects]
        assert len(set(seen)) == len(seen)
        for each in objects:
            marked = each["metadata"]["labels"]
            assert marked["app.kubernetes.io/managed-by"] == "lemnos"
            assert marked[names.DEPLOYMENT] == "chat" and marked[names.OWNER]
            assert len(each["metadata"]["name"]) <= 63
            assert each["metadata"].get("namespace") == at.spec.kubernetes.namespace
        for each in objects_of(unit, at, units.NODES):
            assert each["metadata"]["labels"][names.UNIT] == unit.name


def test_lists_that_are_merged_by_a_key_have_it_once() -> None:
    """Server-side apply refuses a list with two entries of one name."""
    keys = {"mountPath": "volumeMounts", "name": "env", "containerPort": "ports"}
    env = {"VLLM_API_KEY": "mine", "LEMNOS_POD_IP": "mine", "CUDA_VISIBLE_DEVICES": "7"}
    evil = units.vllm(2, engine_env=env)
    whole = [*all_of(evil, site()), *found()]
    for pod in pods_of(whole):
        for own in [*pod["containers"], *pod.get("initContainers", [])]:
            for key, where in keys.items():
                seen = [entry[key] for entry in own.get(where, [])]
                assert len(set(seen)) == len(seen)
            # Ranks without an API are given no key: there the variable means nothing.
            assert "mine" not in str(own) or "ports" not in own


def test_no_pod_has_more_rights_than_it_needs() -> None:
    for _, _, objects in made():
        for each in objects:
            for pod in pods_of(each):
                graph = each["kind"] == "DynamoGraphDeployment"
                # Dynamo's operator gives its pods an account: they find each other by it.
                assert pod.get("automountServiceAccountToken", graph) == graph
                assert pod["securityContext"]["seccompProfile"]
                for own in [*pod["containers"], *pod.get("initContainers", [])]:
                    rights = own["securityContext"]
                    assert rights["allowPrivilegeEscalation"] is False
                    assert rights["capabilities"]["drop"] == ["ALL"]


def test_volumes_and_mounts_belong_together() -> None:
    for _, _, objects in made():
        for each in objects:
            for pod in pods_of(each):
                volumes = [volume["name"] for volume in pod["volumes"]]
                assert len(set(volumes)) == len(volumes)
                containers = [*pod["containers"], *pod.get("initContainers", [])]
                used = {m["name"] for c in containers for m in c["volumeMounts"]}
                assert used <= set(volumes)


def test_a_group_s_own_service_has_another_name_than_ours() -> None:
    """LeaderWorkerSet's controller makes no headless Service where there is one of the name; through ours, which
    has the ready pods alone, the workers would never find the leader."""
    objects = objects_of(units.vllm(2), site(), units.NODES)
    group = only(objects, "LeaderWorkerSet")
    assert only(objects, "Service")["metadata"]["name"] == group["metadata"]["name"]
    assert group["spec"]["networkConfig"]["subdomainPolicy"] == "UniquePerReplica"


def test_a_selector_finds_the_pods_that_it_means() -> None:
    at = site()
    objects = objects_of(units.vllm(2), at, units.NODES)
    template = only(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    leader = template["leaderTemplate"]["metadata"]["labels"]
    worker = template["workerTemplate"]["metadata"]["labels"]
    chosen = only(objects, "Service")["spec"]["selector"]
    assert chosen.items() <= leader.items()
    assert not chosen.items() <= worker.items()
    policy = only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= leader.items() and policy.items() <= worker.items()
    gateway = objects_of(units.gateway(), site(kubernetes=OWN, **KEYS), units.NODES)
    (deployment,) = units.templates_of(only(gateway, "Deployment"))
    allowed = only(objects, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    match = allowed[0]["podSelector"]["matchLabels"]
    assert match.items() <= deployment["metadata"]["labels"].items()


def test_no_key_is_anywhere() -> None:
    """Keys come by reference alone: as a variable, or as a file of the Secret."""
    (pod,) = pods_of(only(all_of(units.vllm(), site()), "Deployment"))
    (own,) = [e for e in pod["containers"][0]["env"] if e["name"] == "VLLM_API_KEY"]
    assert own["valueFrom"] == {"secretKeyRef": {"name": "chat-key", "key": "key"}}
    (pod,) = pods_of(only(all_of(units.sglang(), site()), "Deployment"))
    words = pod["containers"][0]["command"]
    assert words[words.index("--config") + 1] == "/etc/lemnos/key/key.yaml"
    (held,) = [v["secret"] for v in pod["volumes"] if v["name"] == "key"]
    assert {item["key"] for item in held["items"]} == {"key", "key.yaml"}


def test_a_start_may_take_longer_than_predicted() -> None:
    """240 s are predicted: three times that, and never less than lemnos itself waits."""

    def longest(**keys: Any) -> int:
        (pod,) = pods_of(only(all_of(units.vllm(), site(**keys)), "Deployment"))
        probe = pod["containers"][0]["startupProbe"]
        return int(probe["periodSeconds"] * probe["failureThreshold"])

    assert longest() == 720
    assert longest(ready_timeout_s=3600) == 3600


def test_nodes_are_chosen_as_told() -> None:
    def pod(nodes: NodeFacts, **spec: Any) -> dict[str, Any]:
        at = site(kubernetes=spec)
        deployment = only(objects_of(units.vllm(), at, nodes), "Deployment")
        return pods_of(deployment)[0]

    told = pod(units.NODES)
    assert told["nodeSelector"] == units.NODES.selector
    assert told["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "nodeSelector" not in pod(NodeFacts())
    assert pod(units.NODES, node_selector={"a": "b"})["nodeSelector"] == {"a": "b"}


def test_with_scale_replicas_are_the_scalers() -> None:
    at = site(scale=SCALE)
    objects = all_of(units.vllm(), at)
    assert "replicas" not in only(objects, "Deployment")["spec"]
    hpa = only(objects, "HorizontalPodAutoscaler")["spec"]
    assert hpa["metrics"][0]["pods"] == {
        "metric": {"name": "vllm_num_requests_waiting"},
        "target": {"type": "AverageValue", "averageValue": "2500m"},
    }
    down = hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert down == 3600  # the most that Kubernetes takes
    keda = only(all_of(units.vllm(), site(scale=SCALE, kubernetes=KEDA)), "ScaledObject")  # fmt: skip
    (trigger,) = keda["spec"]["triggers"]
    assert 'vllm:num_requests_waiting{pod=~"chat-engine-0-.*"}' in trigger["metadata"]["query"]  # fmt: skip
    with pytest.raises(UsageError, match="not scaled"):
        all_of(units.dynamo(), at)


def test_pods_that_share_nvlink_claim_a_channel_of_their_domain() -> None:
    for make in (units.over_trays, units.one_over_trays):
        objects = all_of(make(), site(kubernetes={"compute_domain": True}))
        channel = only(objects, "ComputeDomain")["spec"]["channel"]
        name = channel["resourceClaimTemplate"]["name"]
        claiming = [pod for pod in pods_of(objects) if "resourceClaims" in pod]
        assert len(claiming) == 2
        for pod in claiming:
            (claim,) = pod["resourceClaims"]
            assert claim == {"name": "imex", "resourceClaimTemplateName": name}
        asked = [r["claims"] for r in parts_of(objects, "resources") if "claims" in r]
        assert asked == [[{"name": "imex"}]] * 2
    assert "ComputeDomain" not in str(all_of(units.over_trays(), site()))


def parts_of(found: Any, key: str) -> list[dict[str, Any]]:
    """What ``key`` holds, wherever it is."""
    return [each[key] for each in parts(found, key)]


def test_units_share_what_is_the_deployments() -> None:
    at = site(kubernetes={"monitor": True})
    first = units.vllm()
    second = first.model_copy(update={"name": "engine-1"})
    assert shared_of(first, at, units.NODES) == shared_of(second, at, units.NODES)
    own = [objects_of(unit, at, units.NODES) for unit in (first, second)]
    ids = [{(o["kind"], o["metadata"]["name"]) for o in each} for each in own]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("make", "spec", "says"),
    [
        (units.vllm, {"kind": "leaderworkerset"}, "not for a replica on 1 host"),
        (units.vllm_on_two, {"kind": "deployment"}, "not for a replica on 2 hosts"),
        (units.vllm, {"kind": "dynamo"}, "does not run this engine"),
        (units.dynamo, {"kind": "deployment"}, "does not run this engine"),
        (lambda: units.sglang(2), {"kind": "raycluster"}, "RayCluster is for vLLM"),
        (units.on_ray, {}, "a group of 2 pods"),
        (units.small, {}, "no image with this engine"),
        (units.vllm, {"weights": {"path": "glm"}}, "below a volume"),
    ],
)
def test_what_kubernetes_cannot_do_is_a_sentence(
    make: Callable[[], Unit], spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        all_of(make(), site(kubernetes=spec))
    assert caught.value.where and caught.value.fix


@pytest.mark.parametrize(
    ("name", "says"),
    [("a" * 53, "may have 50"), ("1chat", "begins with a digit")],
)
def test_names_that_kubernetes_refuses(name: str, says: str) -> None:
    unit = units.vllm(2).model_copy(update={"deployment": name})
    with pytest.raises(UsageError, match=says) as caught:
        all_of(unit, site(name))
    assert caught.value.where == "name"


@needs_crds
@settings(max_examples=8)
@example("\x85\u2028 a\r\nb\ufeff $(HOME) %s", "a")
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.from_regex(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True),
)
def test_whatever_a_spec_holds_the_files_are_valid(value: str, name: str) -> None:
    """Names that specs take, and any text as a variable, come back from the YAML as they were."""
    at = site(name)
    unit = units.vllm(1, engine_env={"EVIL": value})
    unit = unit.model_copy(update={"deployment": name})
    for each in all_of(unit, at):
        assert yaml.safe_load(text_of(each)) == each
        check(each)


def test_the_head_of_ray_starts_the_engine_when_ray_answers(tmp_path: Path) -> None:
    """The line that a shell runs, with stand-ins for Ray and the engine. Where Ray ends, so does it."""
    at = site(kubernetes={"kind": "raycluster"})
    (head, _) = pods_of(only(all_of(units.on_ray(), at), "RayCluster"))
    (own,) = head["containers"]
    (tmp_path / "ray").write_text("#!/bin/sh\ntest -e up\n")
    (tmp_path / "ray").chmod(0o755)

    def run(start: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "x"}
        words = [*own["command"], "sh", "echo", "$HOME", "it's"]
        return subprocess.run(
            words,
            env=env | {"KUBERAY_GEN_RAY_START_CMD": start},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert run("exit 3").returncode == 1
    done = run("touch up; exec sleep 0.2")
    assert (done.returncode, done.stdout) == (0, "$HOME it's\n")
    assert own["args"][:3] == ["sh", "vllm", "serve"]
