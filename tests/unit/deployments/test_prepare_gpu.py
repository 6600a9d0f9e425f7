"""Where the replicas of a plan would run, as a dry run shows it."""

from __future__ import annotations

from typing import Any

import pytest

import lemnos
from lemnos.deployments.prepare_gpu import places_of, plan_on_gpus
from lemnos.errors import LemnosError, UsageError
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan


def planned(model: str, cluster: str, engine: str = "vllm", **asked: Any) -> Plan:
    found = lemnos.propose(model, cluster, **asked)
    spec = lemnos.planned_spec(found).model_copy(update={"engine": engine})
    return plan_on_gpus(spec)


def places(model: str, cluster: str, engine: str = "vllm", **asked: Any) -> list[Place]:
    return places_of(planned(model, cluster, engine, **asked))


def test_one_replica_on_one_box_takes_what_it_is_given() -> None:
    (place,) = places("glm-4.6-fp8", "8xH200", tensor=8)
    assert place.hosts == ("127.0.0.1",) and place.devices == ()


def test_replicas_on_one_box_have_gpus_and_ports_of_their_own() -> None:
    one, two = places("glm-4.5-air-fp8", "4xH200", tensor=2, replicas=2)
    assert (one.devices, two.devices) == (("0", "1"), ("2", "3"))
    assert one.port != two.port and abs(one.inner_port - two.inner_port) >= 16


def test_replicas_over_boxes_fill_them_in_order() -> None:
    found = places("glm-4.6-fp8", "2x8xH200", tensor=8, replicas=2)
    assert [place.hosts for place in found] == [("node-0",), ("node-1",)]


def test_one_model_over_two_boxes_is_one_place() -> None:
    (place,) = places("glm-4.6-fp8", "2x4xH100", tensor=4, pipeline=2)
    assert place.hosts == ("node-0", "node-1")
    assert not place.multi_node_nvlink


def test_racks_join_their_nodes_by_nvlink() -> None:
    (place,) = places("glm-4.7-nvfp4", "4x4xGB200", tensor=16)
    assert len(place.hosts) == 4 and place.multi_node_nvlink


def test_dynamo_is_given_all_hosts_at_once() -> None:
    asked: dict[str, Any] = {"engine": "sglang", "tensor": 4, "split": True}
    model, rack = "glm-4.7-nvfp4", "2x4xGB200"
    found = lemnos.propose(model, rack, concurrency=64, **asked)
    spec = lemnos.planned_spec(found)
    keys = {"engine": "dynamo", "engine_version": "1.6.1"}
    (place,) = places_of(plan_on_gpus(spec.model_copy(update=keys)))
    assert place.hosts == ("node-0", "node-1")


def test_quirks_and_the_hubs_name_come_with_the_plan() -> None:
    plan = planned("glm-4.6-fp8", "8xH200", tensor=8)
    assert plan.quirks.tool_parser == "glm45"
    assert plan.model.path == "zai-org/GLM-4.6-FP8" and plan.name == "glm-4-6-fp8"


def test_without_a_layout_there_is_nothing_to_start() -> None:
    spec = DeploymentSpec.model_validate({"model": "org/name", "engine": "vllm"})
    with pytest.raises(UsageError, match="needs a plan"):
        plan_on_gpus(spec)


def test_a_gguf_is_not_for_gpu_engines() -> None:
    spec = lemnos.planned_spec(lemnos.propose("glm-4.5-air-fp8", "4xH200"))
    wrong = spec.model_copy(
        update={"model": spec.model.model_copy(update={"source": "smollm2"})}
    )
    with pytest.raises(LemnosError, match="GPU engines serve"):
        plan_on_gpus(wrong)
