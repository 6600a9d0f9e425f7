"""Dynamo's graph: what the operator brings is left to it, and what it writes into a command stays apart
from the words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.spec.proposal import Role
from lemnos.spec.unit import Unit
from tests.unit.engines.rendered import glm
from tests.unit.launchers.kubernetes import units
from tests.unit.launchers.kubernetes.units import all_of, only, site


def services(unit: Unit, **spec: Any) -> dict[str, Any]:
    found = only(all_of(unit, site(kubernetes=spec)), "DynamoGraphDeployment")
    return dict(found["spec"]["services"])


def words(service: dict[str, Any]) -> list[str]:
    main = service["extraPodSpec"]["mainContainer"]
    return [*main["command"], *main["args"]]


def test_a_service_for_each_role() -> None:
    found = services(units.dynamo())
    assert {k: v["replicas"] for k, v in found.items()} == {
        "Frontend": 1,
        "prefill": 1,
        "decode": 2,
    }
    assert found["prefill"]["subComponentType"] == "prefill"
    assert found["decode"]["resources"]["limits"] == {"gpu": "4"}
    assert not any("multinode" in service for service in found.values())
    mode = words(found["decode"])
    assert mode[mode.index("--disaggregation-mode") + 1] == "decode"


def test_workers_on_one_host_are_pods_with_their_own_gpus() -> None:
    roles = Role(prefill=1, decode=1)
    plan = glm("dynamo", layout={"replicas": 2}, roles=roles)
    found = services(units.of_plan(plan, units.place(1, 8)))
    for role in ("prefill", "decode"):
        assert found[role]["resources"]["limits"]["gpu"] == "4"
        env = found[role]["extraPodSpec"]["mainContainer"]["env"]
        assert not any(each["name"] == "CUDA_VISIBLE_DEVICES" for each in env)


@pytest.mark.parametrize("version", ["0.8.1", "1.6.1"])
def test_what_the_operator_brings_is_left_out(version: str) -> None:
    roles = Role(prefill=1, decode=2)
    plan = glm("dynamo", version, layout={"replicas": 3}, roles=roles)
    for service in services(units.of_plan(plan, units.place(3, 4))).values():
        main = service["extraPodSpec"]["mainContainer"]
        brought = {"--discovery-backend", "--store-kv", "--nnodes", "--node-rank"}
        assert not brought & set(words(service))
        names = {each["name"] for each in main["env"]}
        assert not {"ETCD_ENDPOINTS", "NATS_SERVER", "DYN_NAMESPACE"} & names
        assert "@LEMNOS" not in str(service)


def test_a_worker_over_nodes_takes_the_operators_flags() -> None:
    """The operator puts them after the module's name in the first argument that has one
    (injectFlagsIntoContainerCommand), for a shell: none of our words is in that argument."""
    found = services(units.over_trays())
    for role in ("prefill", "decode"):
        service = found[role]
        assert (service["replicas"], service["multinode"]) == (1, {"nodeCount": 2})
        main = service["extraPodSpec"]["mainContainer"]
        assert main["command"] == ["sh", "-c"]
        assert re.fullmatch(r'exec python3 -m dynamo\.sglang "\$@"', main["args"][0])
        assert main["args"][1:3] == ["sh", "--model-path"]
        env = {each["name"]: each.get("value") for each in main["env"]}
        assert (
            env["NCCL_MNNVL_ENABLE"] == "1"
            and env["SGLANG_HOST_IP"] == "$(LEMNOS_POD_IP)"
        )
        near = service["extraPodSpec"]["affinity"]["podAffinity"]
        assert "requiredDuringSchedulingIgnoredDuringExecution" in near


def test_vllm_workers_fit_one_node() -> None:
    roles = Role(prefill=1, decode=1)
    layout = {"replicas": 2}
    plan = glm("dynamo", layout=layout, roles=roles, worker="vllm")
    found = services(units.of_plan(plan, units.place(2, 4)))
    assert "dynamo.vllm" in words(found["prefill"])
    wide = glm("dynamo", layout=layout | {"tensor": 8}, roles=roles, worker="vllm")
    with pytest.raises(UsageError, match="vLLM workers over several nodes"):
        services(units.of_plan(wide, units.place(4, 4)))


def test_other_gpus_and_what_else_a_pod_takes() -> None:
    spec = {"gpu_resource": "amd.com/gpu", "resources": {"rdma/ib": "1"}}
    limits = services(units.dynamo(), **spec)["prefill"]["resources"]["limits"]
    assert limits == {"gpu": "4", "gpuType": "amd.com/gpu", "custom": {"rdma/ib": "1"}}
