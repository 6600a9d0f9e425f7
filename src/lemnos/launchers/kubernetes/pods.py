"""What every pod of a deployment has in common: image, environment, keys, volumes, probes, node. Pure."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.argv import OWN
from lemnos.launchers.kubernetes.names import (
    CACHE,
    NodeFacts,
    key_secret,
    object_name,
    selector,
)
from lemnos.launchers.site import Site
from lemnos.spec.clusters import KEY_IN_A_POD, KubernetesSpec
from lemnos.spec.plan import Job, Secret
from lemnos.spec.unit import Unit

Object = dict[str, Any]

GRACE_S = 60
"""Between SIGTERM and SIGKILL: the gateway drains first, engines then end their processes in order."""
PROBE_S = 10
"""How often a start is asked after."""
GENEROUS = 3
"""Times the predicted start-up before Kubernetes gives a start up."""
HANGS_S = 120
"""An engine that does not answer for so long is started anew."""
FS_GROUP = 1000
"""Whose group volumes and keys get: Dynamo's images are user 1000, the others root."""
LEAVING = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
"""One of several pods behind a Service goes on until that sends it nothing new."""
CHANNEL = "imex"
_KEY_DIRECTORY = posixpath.dirname(KEY_IN_A_POD)


def image_of(unit: Unit, site: Site) -> str:
    """The engine's image: the spec's, or the one that its version comes in. Raises UsageError where
    there is none."""
    if site.spec.container:
        if site.spec.container.args:
            raise UsageError(
                "Kubernetes starts containers itself: a runtime's flags mean nothing to it",
                where="container.args",
                fix="use the keys of kubernetes",
            )
        return site.spec.container.image
    served = unit.served
    own = site.spec.kubernetes.gateway_image
    if served is None or served.engine == "llamacpp":
        if own:
            return own
        raise UsageError(
            "there is no image with this engine in it",
            where="container.image",
            fix="make one with lemnos in it from the Containerfile, and name it in kubernetes.gateway_image",
        )
    backend = next((w for w in unit.jobs[-1].command.argv if w.startswith("dynamo.")), "")  # fmt: skip
    return _images()[backend or served.engine].format(version=served.engine_version)


def container(
    name: str,
    job: Job,
    unit: Unit,
    site: Site,
    command: Sequence[str],
    env: Mapping[str, str],
) -> Object:
    """The container of ``job``, without probes. ``command`` and ``env`` are as the kubelet reads them."""
    found: Object = {"name": name, "image": image_of(unit, site)}
    found["command"] = list(command)
    found["env"] = variables(env, command, job.command.secrets, site.deployment)
    if job.port:
        found["ports"] = [{"name": "http", "containerPort": job.port}]
    if asked := resources_of(unit, site.spec.kubernetes):
        found["resources"] = asked
    found["securityContext"] = confined(site.spec.kubernetes)
    found["volumeMounts"] = [
        {"name": "cache", "mountPath": cache_of(unit, site)},
        *([{"name": "shm", "mountPath": "/dev/shm"}] if _has_shm(unit) else []),
        *_key_mounts(job),
        *_own_mounts(site),
    ]
    return found


def variables(
    env: Mapping[str, str],
    command: Iterable[str],
    secrets: Sequence[Secret],
    deployment: str,
) -> list[Object]:
    """``env`` in Kubernetes' form, the pod's address first where something refers to it, keys by
    reference to the deployment's Secret."""
    found: list[Object] = []
    if any(f"$({OWN})" in text for text in (*env.values(), *command)):
        found.append(_field(OWN, "status.podIP"))
    # A pod sees its own GPUs only, from 0; and a key is the Secret's, whatever the spec says.
    hidden = {"CUDA_VISIBLE_DEVICES", OWN, *(secret.env for secret in secrets)}
    found += [{"name": k, "value": v} for k, v in env.items() if k not in hidden]
    found += [
        {"name": secret.env, "valueFrom": {"secretKeyRef": {"name": key_secret(deployment), "key": "key"}}}
        for secret in secrets
        if secret.env
    ]  # fmt: skip
    return found


def secret_items(unit: Unit) -> dict[str, str]:
    """The entries of the deployment's Secret, with ``{key}`` where the key stands: ``key``, and each
    file that a process is given with the key in it."""
    files = {
        posixpath.basename(secret.file): secret.text
        for job in unit.jobs
        for secret in job.command.secrets
        if secret.file
    }
    return {"key": "{key}"} | files


def resources_of(unit: Unit, spec: KubernetesSpec) -> Object:
    """GPUs are limits; memory is both, so that a node that runs out does not end the engine."""
    requests = _room(unit, spec)
    limits: dict[str, str] = {}
    if gpus := gpus_of(unit, spec):
        limits = {spec.gpu_resource: str(gpus)} | dict(spec.resources)
    if spec.memory:
        limits["memory"] = spec.memory
    found = {"requests": requests, "limits": limits, "claims": claims_of(unit, spec)}
    return {key: value for key, value in found.items() if value}


def claims_of(unit: Unit, spec: KubernetesSpec) -> list[Object]:
    """Of a container: the IMEX channel through which it reaches GPUs of other nodes."""
    return [{"name": CHANNEL}] if has_domain(unit, spec) else []


def has_domain(unit: Unit, spec: KubernetesSpec) -> bool:
    """Whether its pods share NVLink over nodes, by a ComputeDomain."""
    several = unit.place.multi_node_nvlink and len(unit.place.hosts) > 1
    return spec.compute_domain and several


def channel_of(unit: Unit) -> str:
    """The template of claims that NVIDIA's driver makes for the unit's ComputeDomain."""
    name = object_name(unit.deployment, unit.name, "ComputeDomain")
    return f"{name}-{CHANNEL}"


def gpus_of(unit: Unit, spec: KubernetesSpec) -> int:
    """Of each pod."""
    given = spec.gpus_per_node
    return unit.place.gpus_per_host if given is None else given


def _room(unit: Unit, spec: KubernetesSpec) -> dict[str, str]:
    found = {"cpu": spec.cpus} if spec.cpus else {}
    threads = unit.jobs[0].command.env.get("OMP_NUM_THREADS", "")
    if not spec.cpus and not gpus_of(unit, spec) and threads.isdecimal():
        found = {"cpu": threads}  # engines of the CPU say how many threads they take
    if spec.memory:
        found["memory"] = spec.memory
    return {key: value for key, value in found.items() if value}


def confined(spec: KubernetesSpec) -> Object:
    """No more rights than the image's user has. RDMA pins memory, which takes IPC_LOCK."""
    pins = any(name.startswith("rdma/") for name in spec.resources)
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if pins else {}),
    }


def probes(unit: Unit, site: Site) -> Object:
    """The API's: a start may take three times what the plan predicts, or as long as lemnos itself
    would wait; ``/health`` takes no key in any of the engines."""
    path = engine_named(unit.served.engine).health if unit.served else "/health"
    check = {"httpGet": {"path": path, "port": "http"}}
    return {
        "startupProbe": check | startup(unit, site),
        "livenessProbe": check | {"periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": HANGS_S // 20},
        "readinessProbe": check | {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
    }  # fmt: skip


def startup(unit: Unit, site: Site) -> Object:
    """How long a start may take, as a probe says it."""
    longest = max(GENEROUS * unit.start_s, site.spec.ready_timeout_s)
    return {
        "periodSeconds": PROBE_S,
        "timeoutSeconds": 5,
        "failureThreshold": math.ceil(longest / PROBE_S),
    }


def pod(
    unit: Unit,
    site: Site,
    nodes: NodeFacts,
    containers: list[Object],
    *,
    near: Literal["must", "should", ""] = "must",
) -> Object:
    """The spec of a pod around its containers, but for the model's volume.

    ``near``: whether it goes to the NVLink domain of the unit's other pods, where hosts have such.
    """
    spec = site.spec.kubernetes
    if not gpus_of(unit, spec):
        nodes = NodeFacts()  # they tell of nodes with GPUs
    found: Object = {
        "automountServiceAccountToken": False,
        # Variables of other Services would be read as an engine's own: VLLM_PORT of one called vllm.
        "enableServiceLinks": False,
    } | placed(spec, nodes)
    if spec.service_account:
        found["serviceAccountName"] = spec.service_account
    if near and unit.place.multi_node_nvlink and len(unit.place.hosts) > 1:
        found["affinity"] = _one_nvlink_domain(site, unit, near)
    found["securityContext"] = {
        "fsGroup": FS_GROUP,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    found["terminationGracePeriodSeconds"] = GRACE_S
    if near and has_domain(unit, spec):
        claim = {"name": CHANNEL, "resourceClaimTemplateName": channel_of(unit)}
        found["resourceClaims"] = [claim]
    found["containers"] = containers
    found["volumes"] = volumes(unit, site)
    return found


def placed(spec: KubernetesSpec, nodes: NodeFacts) -> Object:
    """Where a pod goes, and what its images are pulled with."""
    found: Object = {}
    if chosen := spec.node_selector or nodes.selector:
        found["nodeSelector"] = dict(chosen)
    if tolerated := spec.tolerations or nodes.tolerations:
        found["tolerations"] = [
            {"key": t.key, "operator": "Equal" if t.value else "Exists"}
            | ({"value": t.value} if t.value else {})
            | ({"effect": t.effect} if t.effect else {})
            for t in tolerated
        ]
    if spec.runtime_class:
        found["runtimeClassName"] = spec.runtime_class
    if spec.priority_class:
        found["priorityClassName"] = spec.priority_class
    if spec.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in spec.pull_secrets]
    return found


def volumes(unit: Unit, site: Site) -> list[Object]:
    """All but the model's."""
    spec = site.spec.kubernetes
    cache: Object = {"name": "cache", "emptyDir": {}}
    if spec.cache_host_path:
        at = {"path": spec.cache_host_path, "type": "DirectoryOrCreate"}
        cache = {"name": "cache", "hostPath": at}
    found = [cache]
    if _has_shm(unit):
        # Docker's own /dev/shm has 64 MB, and ranks of one node meet there.
        limit = {"medium": "Memory", "sizeLimit": spec.shared_memory}
        found.append({"name": "shm", "emptyDir": limit})
    if any(_key_mounts(job) for job in unit.jobs):
        entries = [{"key": k, "path": k, "mode": 0o400} for k in secret_items(unit)]
        held = {"secretName": key_secret(site.deployment), "items": entries}
        found.append({"name": "key", "secret": held})
    for number, (source, _, _) in enumerate(_mounts(site)):
        found.append({"name": f"mount-{number}", "hostPath": {"path": source}})
    return found


def cache_of(unit: Unit, site: Site) -> str:
    """Where pods keep what engines compile."""
    return site.spec.cache or CACHE


def _has_shm(unit: Unit) -> bool:
    return unit.place.gpus_per_host > 0


def _key_mounts(job: Job) -> list[Object]:
    """Of the files with the engines' key that the job is given or reads; a variable needs none."""
    paths = [secret.file for secret in job.command.secrets if secret.file]
    found: list[Object] = []
    if any(_KEY_DIRECTORY in word for word in (*job.command.argv, *paths)):
        found = [{"name": "key", "mountPath": _KEY_DIRECTORY, "readOnly": True}]
    for path in paths:
        if posixpath.dirname(path) != _KEY_DIRECTORY:
            item = posixpath.basename(path)
            found.append({"name": "key", "mountPath": path, "subPath": item, "readOnly": True})  # fmt: skip
    return found


def _own_mounts(site: Site) -> list[Object]:
    return [
        {"name": f"mount-{number}", "mountPath": target}
        | ({"readOnly": True} if read_only else {})
        for number, (_, target, read_only) in enumerate(_mounts(site))
    ]


def _mounts(site: Site) -> list[tuple[str, str, bool]]:
    """``container.mounts``: ``/data`` or ``/data:/models:ro``, of the node."""
    found = []
    for text in site.spec.container.mounts if site.spec.container else ():
        source, _, rest = text.partition(":")
        target, _, how = rest.partition(":")
        found.append((source, target or source, how == "ro"))
    return found


def _one_nvlink_domain(site: Site, unit: Unit, near: str) -> Object:
    """All pods of the unit in one rack's NVLink (nvidia.com/gpu.clique: NVIDIA's GPU feature discovery)."""
    term = {
        "labelSelector": {"matchLabels": selector(site, unit.name)},
        "topologyKey": "nvidia.com/gpu.clique",
    }
    if near == "must":
        rule: Object = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    else:
        weighed = {"weight": 100, "podAffinityTerm": term}
        rule = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return {"podAffinity": rule}


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


@cache
def _images() -> dict[str, str]:
    text = resources.files(__package__).joinpath("images.yaml").read_text()
    return dict(yaml.safe_load(text))
