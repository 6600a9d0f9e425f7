"""What of a plan is otherwise in pods: paths, programs, and who runs the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import lemnos
from lemnos.deployments.files import Files
from lemnos.deployments.in_pods import in_a_pod, model_in_a_pod
from lemnos.deployments.prepare import plan_without_pulling
from lemnos.deployments.prepare_gpu import plan_on_gpus
from lemnos.deployments.units import gateway_unit
from lemnos.errors import UsageError
from lemnos.spec.clusters import POD_PORT
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.plan import Plan


def spec_of(source: str = "hf://org/Model-7B", **more: Any) -> DeploymentSpec:
    return DeploymentSpec.model_validate({"model": source, "on": "kubernetes"} | more)


def planned(**kubernetes: Any) -> Plan:
    found = lemnos.propose("glm-4.6-fp8", "8xH200", tensor=8)
    spec = lemnos.planned_spec(found)
    more = {"on": "kubernetes", "kubernetes": kubernetes}
    return plan_on_gpus(DeploymentSpec.model_validate(spec.model_dump() | more))


@pytest.mark.parametrize(
    ("source", "weights", "path"),
    [
        ("hf://org/Model-7B", {}, "/models/org--Model-7B"),
        ("hf://org/M@v1", {}, "/models/org--M--v1"),
        ("hf://org/M", {"path": "glm/fp8"}, "/models/glm/fp8"),
        ("file:///data/M", {"path": "M"}, "/models/M"),
    ],
)
def test_where_a_pod_finds_the_model(
    source: str, weights: dict[str, str], path: str
) -> None:
    spec = spec_of(kubernetes={"weights": weights})
    assert model_in_a_pod(spec, source, 1).path == path


def test_a_path_of_this_machine_is_refused() -> None:
    with pytest.raises(UsageError, match="pods do not see it"):
        model_in_a_pod(spec_of(), "file:///data/M", 1)


@pytest.mark.parametrize("path", ["/M", "../M", "a/../../M"])
def test_a_path_is_below_the_volume(path: str) -> None:
    spec = spec_of(kubernetes={"weights": {"path": path}})
    with pytest.raises(UsageError, match="not below the volume"):
        model_in_a_pod(spec, "hf://org/M", 1)


def test_gpu_engines_are_the_images_and_the_models_size_is_known() -> None:
    plan = planned()
    assert plan.program == () and plan.model.path.startswith("/models/")
    assert plan.model.bytes > 300e9


def test_the_embedded_engine_is_python_of_the_image(tmp_path: Path) -> None:
    plan = plan_without_pulling(spec_of("smollm2"))
    assert plan.program == ("python3",)
    assert plan.model.path.startswith("/models/") and plan.model.path.endswith(".gguf")
    own = plan.model_copy(update={"program": ("/opt/venv/bin/python",)})
    assert in_a_pod(own).program == ("/opt/venv/bin/python",)


def test_the_gateway_is_here_unless_the_cluster_has_an_image(tmp_path: Path) -> None:
    here = gateway_unit(planned(), "http://127.0.0.1:5366", Files(tmp_path))
    assert str(tmp_path) in " ".join(here.jobs[0].command.argv)


def test_the_gateway_in_a_pod_is_reached_by_the_same_url(tmp_path: Path) -> None:
    key_file = tmp_path / "keys"
    plan = planned(ledger_secret="ledger")
    changes = {"gateway_image": "lemnos:1", "ledger_secret": "ledger"}
    endpoint = plan.spec.endpoint.model_copy(update={"api_key_file": str(key_file)})
    kubernetes = plan.spec.kubernetes.model_copy(update=changes)
    spec = plan.spec.model_copy(update={"endpoint": endpoint, "kubernetes": kubernetes})
    plan = plan.model_copy(update={"spec": spec})
    unit = gateway_unit(plan, "http://127.0.0.1:5366", Files(tmp_path))
    assert unit.place.port == 5366 and unit.jobs[0].port == POD_PORT
    argv = " ".join(unit.jobs[0].command.argv)
    assert str(tmp_path) not in argv and "--ledger env:LEMNOS_LEDGER" in argv


def test_a_gateway_in_the_cluster_needs_keys() -> None:
    with pytest.raises(ValidationError, match="can be reached by others"):
        spec_of(kubernetes={"gateway_image": "lemnos:1"})


def test_only_a_cluster_has_a_runtime_of_its_own() -> None:
    image: dict[str, Any] = {"container": {"image": "vllm/vllm-openai:v0.26.0"}}
    assert spec_of(**image).container
    with pytest.raises(ValidationError, match=r"container\.runtime is missing"):
        spec_of(**image, on="slurm")
