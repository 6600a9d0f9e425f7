"""Dynamo's parts as a DynamoGraphDeployment. Pure.

Written as v1alpha1, which every operator that lemnos has the flags of serves (v1beta1 came with 1.2, and
its webhook converts). The operator brings discovery and messages, and tells the ranks of a worker over
several nodes of each other (ai-dynamo/dynamo, deploy/operator/internal/dynamo: backend_sglang.go,
component_worker.go): what the engine's own jobs say of that is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes import argv
from lemnos.launchers.kubernetes.names import (
    NodeFacts,
    of_unit,
    pod_labels,
)
from lemnos.launchers.kubernetes.pods import (
    HANGS_S,
    Object,
    cache_of,
    claims_of,
    confined,
    gpus_of,
    image_of,
    pod,
    probes,
    startup,
    variables,
)
from lemnos.launchers.kubernetes.weights import with_weights
from lemnos.launchers.site import Site
from lemnos.spec.plan import Job
from lemnos.spec.unit import Unit

API = "nvidia.com/v1alpha1"
SYSTEM_PORT = "system"
"""The operator's name for the port on which workers tell how they are."""
WORKERS = ("worker", "prefill", "decode")
_BROUGHT_FLAGS = {
    "--discovery-backend": 1,
    "--store-kv": 1,
    "--nnodes": 1,
    "--node-rank": 1,
    "--dist-init-addr": 1,
    "--nccl-init-addr": 1,
}
"""Flags that the operator adds, or whose variable it sets, and how many values they take."""
_BROUGHT = (
    "DYN_NAMESPACE",
    "DYN_FILE_KV",
    "DYN_SYSTEM_HOST",
    "DYN_SYSTEM_PORT",
    "ETCD_ENDPOINTS",
    "NATS_SERVER",
)


def graph(unit: Unit, site: Site, nodes: NodeFacts) -> Object:
    """A service for the frontend and one for each role, with as many replicas as the plan has workers.

    Raises UsageError for workers that the operator cannot start as planned.
    """
    backend = "vllm" if _backend(unit) == "dynamo.vllm" else "sglang"
    services = {"Frontend": _frontend(unit, site, nodes)}
    for part in WORKERS:
        jobs = [job for job in unit.jobs if job.part == part]
        if jobs:
            services[part] = _workers(part, jobs, unit, site, nodes)
    spec = {"backendFramework": backend, "services": services}
    return of_unit(API, "DynamoGraphDeployment", unit, site, spec)


def _frontend(unit: Unit, site: Site, nodes: NodeFacts) -> Object:
    """Takes no GPU. It answers /health before there are workers: a completion says that they are."""
    job = unit.jobs[0]
    words = [argv.alone(word) for word in _without(job.command.argv)]
    main = _container(job, unit, site, words, {})
    main["ports"] = [{"name": "http", "containerPort": job.port}]
    # It reads the model's tokenizer, where the workers say that the model is.
    template = {"spec": _pod(unit, site, nodes, main, "")}
    return {
        "componentType": "frontend",
        "replicas": 1,
        # Here, since those of a container are merged with the operator's own (0.4's would have two handlers).
        **{k: v for k, v in probes(unit, site).items() if k != "startupProbe"},
        "extraPodMetadata": {"labels": pod_labels(site, unit.name, job)},
        "extraPodSpec": with_weights(template, unit, site)["spec"],
    }


def _workers(
    part: str, jobs: Sequence[Job], unit: Unit, site: Site, nodes: NodeFacts
) -> Object:
    """The workers of one role, of which the first one's first rank has the command of all."""
    first, spec = jobs[0], site.spec.kubernetes
    span = _nodes(first.command.argv)
    words = [argv.alone(word) for word in _without(first.command.argv)]
    if span > 1:
        words = _over_nodes(words, unit)
    main = _container(first, unit, site, words, first.command.env)
    live = {"httpGet": {"path": "/live", "port": SYSTEM_PORT}}
    main["startupProbe"] = live | startup(unit, site)  # has no key of its own
    found: Object = {"componentType": "worker"}
    if part != "worker":
        found["subComponentType"] = part
    found["replicas"] = len(jobs) // span
    if span > 1:
        found["multinode"] = {"nodeCount": span}
    found["resources"] = _resources(first, unit, site)
    found["sharedMemory"] = {"size": spec.shared_memory}
    found["livenessProbe"] = live | {"periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": HANGS_S // 20}  # fmt: skip
    found["extraPodMetadata"] = {"labels": pod_labels(site, unit.name, first)}
    template = {"spec": _pod(unit, site, nodes, main, "must" if span > 1 else "should")}
    found["extraPodSpec"] = with_weights(template, unit, site)["spec"]
    return found


def _over_nodes(words: list[str], unit: Unit) -> list[str]:
    """The operator writes the ranks' flags after the module's name, into a line for a shell; the words
    stay apart from it, so that no shell reads them."""
    if _backend(unit) == "dynamo.vllm":
        raise UsageError(
            "Dynamo's operator starts vLLM workers over several nodes in ways of its own",
            where="engine",
            fix="plan workers that fit one node, or SGLang workers: lemnos plan --engine sglang",
        )
    module = words.index("dynamo.sglang") + 1
    head = " ".join(words[:module])
    return ["sh", "-c", f'exec {head} "$@"', "sh", *words[module:]]


def _container(
    job: Job, unit: Unit, site: Site, words: list[str], env: dict[str, str]
) -> Object:
    values = {k: argv.alone(v) for k, v in env.items() if k not in _BROUGHT}
    split = 2 if words[0] == "sh" else 3  # `sh -c`, `python3 -m dynamo.sglang`
    return {
        "name": "main",
        "image": image_of(unit, site),
        "command": words[:split],
        "args": words[split:],
        "env": variables(values, words, job.command.secrets, site.deployment),
        "securityContext": confined(site.spec.kubernetes),
        "volumeMounts": [{"name": "cache", "mountPath": cache_of(unit, site)}],
    }


def _pod(
    unit: Unit,
    site: Site,
    nodes: NodeFacts,
    main: Object,
    near: Literal["must", "should", ""],
) -> Object:
    """What is ours of the pod. Its service account is the operator's: workers find each other by asking
    Kubernetes. /dev/shm is the operator's too (sharedMemory)."""
    found = pod(unit, site, nodes, [], near=near)
    for key in ("automountServiceAccountToken", "containers"):
        del found[key]
    found["volumes"] = [each for each in found["volumes"] if each["name"] != "shm"]
    return found | {"mainContainer": main}


def _resources(job: Job, unit: Unit, site: Site) -> Object:
    """Of one pod: its own GPUs, where several workers were planned on one host."""
    spec = site.spec.kubernetes
    given = job.command.env.get("CUDA_VISIBLE_DEVICES", "")
    gpus = len(given.split(",")) if given else gpus_of(unit, spec)
    limits: Object = {"gpu": str(gpus)} if gpus else {}
    if gpus and spec.gpu_resource != "nvidia.com/gpu":
        limits["gpuType"] = spec.gpu_resource
    if gpus and spec.resources:
        limits["custom"] = dict(spec.resources)
    requests: Object = {"cpu": spec.cpus} if spec.cpus else {}
    if spec.memory:
        limits["memory"] = requests["memory"] = spec.memory
    found = {"requests": requests, "limits": limits, "claims": claims_of(unit, spec)}
    return {key: value for key, value in found.items() if value}


def _without(words: Sequence[str]) -> list[str]:
    """``words`` without what the operator brings."""
    found: list[str] = []
    skip = 0
    for word in words:
        if skip:
            skip -= 1
        elif word in _BROUGHT_FLAGS:
            skip = _BROUGHT_FLAGS[word]
        elif word.partition("=")[0] not in _BROUGHT_FLAGS:
            found.append(word)
    return found


def _nodes(words: Sequence[str]) -> int:
    """Of one worker."""
    if "--nnodes" not in words:
        return 1
    return int(words[list(words).index("--nnodes") + 1])


def _backend(unit: Unit) -> str:
    named = (w for job in unit.jobs for w in job.command.argv if job.part in WORKERS)
    return next(w for w in named if w.startswith("dynamo."))
