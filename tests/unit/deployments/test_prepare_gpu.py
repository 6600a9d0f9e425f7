"""Where the replicas of a plan would run, as a dry run shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lemnos
from lemnos.deployments.prepare_gpu import places_of, plan_on_gpus
from lemnos.errors import LemnosError, UsageError
from lemnos.models.progress import Silent
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from tests.tiny_glm import make_tiny_glm


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


def seed_003(source: str) -> Plan:
    """GLM-4.7-NVFP4 on the container of seed 003."""
    asked: dict[str, Any] = {"engine": "sglang", "tensor": 4}
    spec = lemnos.planned_spec(lemnos.propose("glm-4.7-nvfp4", "4xGB200", **asked))
    model = spec.model.model_copy(update={"source": source})
    keys = {"engine": "dynamo", "engine_version": "0.8.1", "model": model}
    return plan_on_gpus(spec.model_copy(update=keys))


def test_a_file_that_lacks_a_key_is_overlaid_and_told(tmp_path: Path) -> None:
    model = make_tiny_glm(tmp_path / "GLM-4.7-NVFP4")
    plan = seed_003(str(model))
    assert Path(plan.model.path).parent.name == "overlays"
    assert any("bos_token_id: 151329" in reason for reason in plan.reasons)
    assert "bos_token_id" not in (model / "generation_config.json").read_text()
    assert not Path(plan.model.path).exists()  # a dry run makes nothing


def test_a_hubs_model_is_overlaid_once_it_is_here() -> None:
    plan = seed_003("nvidia/GLM-4.7-NVFP4")
    assert plan.model.path == "nvidia/GLM-4.7-NVFP4"
    assert any("once the model is here" in reason for reason in plan.reasons)


def test_known_issues_of_the_version_are_told() -> None:
    reasons = " ".join(seed_003("nvidia/GLM-4.7-NVFP4").reasons)
    assert "known issue" in reasons and "padding" in reasons


def apart(**keys: Any) -> DeploymentSpec:
    """Prefill and decode apart, on SGLang's own servers."""
    asked: dict[str, Any] = {"engine": "sglang", "tensor": 1, "split": True}
    found = lemnos.propose("qwen3-8b", "2xH100", concurrency=64, **asked)
    spec = lemnos.planned_spec(found).model_dump() | keys
    return DeploymentSpec.model_validate(spec)


def test_a_group_on_one_box_is_one_place_with_all_of_its_gpus() -> None:
    (place,) = places_of(plan_on_gpus(apart()))
    assert (place.gpus_per_host, place.devices) == (2, ())


def test_where_the_router_comes_from_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No environment of smg is in a test's own home."""
    monkeypatch.setenv("PATH", str(tmp_path))
    image = {"image": "sglang.sif", "runtime": "apptainer"}
    for keys, needs in (
        ({"container": image}, "the image's python3 needs smg"),
        ({"via": "login", "venv": "/envs/sglang"}, "/envs/sglang needs smg"),
        ({}, "smg is not installed: lemnos engines install smg==1.13.0"),
    ):
        plan = plan_on_gpus(apart(**keys))
        assert plan.router == ()
        assert any(needs in reason for reason in plan.reasons), plan.reasons
    with pytest.raises(UsageError, match="smg is not installed"):
        plan_on_gpus(apart(venv=str(tmp_path)), pull_with=Silent())


def test_a_router_that_does_not_tell_who_waits_scales_nothing() -> None:
    with pytest.raises(UsageError, match="how many requests wait") as caught:
        plan_on_gpus(apart(scale={"min": 1, "max": 2}))
    assert caught.value.where == "scale"
