"""Units as the Kubernetes launcher is given them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemnos.engines.base import JobFiles, engine_named
from lemnos.launchers.kubernetes.names import CACHE, INNER_PORT, NodeFacts
from lemnos.launchers.kubernetes.objects import objects_of, shared_of
from lemnos.launchers.late import host
from lemnos.launchers.site import Site
from lemnos.spec.clusters import KEY_IN_A_POD, POD_PORT, Toleration
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import validated
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.proposal import Role
from lemnos.spec.unit import Served, Unit
from lemnos.transport.here import Here
from tests import samples
from tests.unit.engines.rendered import glm

NODES = NodeFacts(
    selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    tolerations=(Toleration(key="nvidia.com/gpu", effect="NoSchedule"),),
    architecture="amd64",
)
FILES = JobFiles(log="", key_file=KEY_IN_A_POD, cache=CACHE)


def site(name: str = "chat", **keys: Any) -> Site:
    """Of the deployment ``name``; ``keys`` are the spec's."""
    spec = {"model": "glm-4.5-air-fp8", "on": "kubernetes"} | keys
    return Site(
        deployment=name,
        spec=validated(DeploymentSpec, spec),
        transport=Here(),
        directory="/home/ann/lemnos/deployments/chat",
        cache="/home/ann/.cache/lemnos",
        key_file=Path("/home/ann/lemnos/deployments/chat/engine.key"),
        owner="0a1b2c",
    )


def place(hosts: int = 1, gpus: int = 4, **changes: Any) -> Place:
    """In pods: fixed ports, hosts that only running pods know."""
    return Place(
        hosts=tuple(host(number) for number in range(hosts)),
        gpus_per_host=gpus,
        port=POD_PORT,
        inner_port=INNER_PORT,
        bind="0.0.0.0",
        **changes,
    )


def of_plan(plan: Plan, at: Place, deployment: str = "chat", **changes: Any) -> Unit:
    """The first replica of ``plan`` at ``at``."""
    plan = plan.model_copy(update={"name": deployment})
    size = plan.model.model_copy(update={"bytes": plan.model.bytes or 113 * 2**30})
    jobs = engine_named(plan.engine).jobs(plan, 0, at, FILES)
    return Unit(
        deployment=deployment,
        name="engine-0",
        jobs=jobs,
        place=at,
        start_s=240.0,
        served=Served(
            engine=plan.engine, engine_version=plan.engine_version, model=size
        ),
    ).model_copy(update=changes)


def vllm(hosts: int = 1, **changes: Any) -> Unit:
    """GLM-4.5-Air at TP4, over so many hosts."""
    return of_plan(glm("vllm", **changes), place(hosts, 4 // hosts))


def vllm_on_two() -> Unit:
    """Over two hosts, by its own processes."""
    return vllm(2)


def sglang(hosts: int = 1) -> Unit:
    """The same with SGLang, which is given its key in a file."""
    return of_plan(glm("sglang"), place(hosts, 4 // hosts))


def data_parallel() -> Unit:
    """vLLM with two data-parallel ranks on each of four hosts."""
    return of_plan(glm("vllm", layout={"tensor": 1, "data": 8}), place(4, 2))


def on_ray() -> Unit:
    """vLLM over two hosts that Ray joins."""
    return of_plan(glm("vllm"), place(2, 2, ray=True))


def dynamo() -> Unit:
    """Dynamo around SGLang: a worker for prompts and two for answers, each on a host of its own."""
    roles = Role(prefill=1, decode=2)
    plan = glm("dynamo", layout={"replicas": 3}, roles=roles)
    return of_plan(plan, place(3, 4))


def over_trays() -> Unit:
    """The same, each worker over two hosts that share an NVLink domain."""
    roles = Role(prefill=1, decode=1)
    layout = {"tensor": 8, "replicas": 2}
    plan = glm("dynamo", "0.8.1", layout=layout, roles=roles)
    return of_plan(plan, place(4, 4, multi_node_nvlink=True))


def one_over_trays() -> Unit:
    """vLLM over two hosts that share an NVLink domain."""
    return of_plan(glm("vllm"), place(2, 2, multi_node_nvlink=True))


def small() -> Unit:
    """The embedded engine: no GPU."""
    plan = samples.plan("chat").model_copy(update={"program": ("python3",)})
    return of_plan(plan, place(1, 0))


def gateway() -> Unit:
    """As deployments/units.py makes it."""
    argv = (
        *("python3", "-m", "lemnos.gateway"),
        *("--targets", "/etc/lemnos/targets/targets.json"),
        *("--host", "0.0.0.0", "--port", str(POD_PORT)),
    )
    job = Job(
        deployment="chat",
        role="gateway",
        command=Command(argv=argv),
        host="0.0.0.0",
        port=POD_PORT,
        log="",
    )
    return Unit(
        deployment="chat",
        name="gateway-0",
        jobs=(job,),
        place=Place(hosts=("127.0.0.1",), port=5366),
    )


def all_of(unit: Unit, at: Site, nodes: NodeFacts = NODES) -> list[dict[str, Any]]:
    """The unit's objects and its deployment's."""
    shared = shared_of(unit, at, nodes) if unit.role == "engine" else []
    return [*shared, *objects_of(unit, at, nodes)]


def only(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of ``kind``."""
    (one,) = [each for each in found if each["kind"] == kind]
    return one


def templates_of(found: Any) -> list[dict[str, Any]]:
    """The templates of pods, with their labels, anywhere within an object."""
    if isinstance(found, list):
        return [each for part in found for each in templates_of(part)]
    if not isinstance(found, dict):
        return []
    if "containers" in found.get("spec", {}) and "metadata" in found:
        return [found]
    return [each for part in found.values() for each in templates_of(part)]
