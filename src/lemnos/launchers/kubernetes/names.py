"""What objects of a deployment are called and labelled, where pods have their files, and what nodes told. Pure."""

from __future__ import annotations

import re
from typing import Any

from lemnos.errors import UsageError
from lemnos.launchers.site import Site
from lemnos.spec.base import Value
from lemnos.spec.clusters import Toleration
from lemnos.spec.plan import Job
from lemnos.spec.unit import Unit

FIELD_MANAGER = "lemnos"
DEPLOYMENT, OWNER = "lemnos.dev/deployment", "lemnos.dev/owner"
UNIT, ROLE, RANK = "lemnos.dev/unit", "lemnos.dev/role", "lemnos.dev/rank"
"""Labels: the first two of every object, the third of a unit's, all of its pods."""

INNER_PORT = 20_000
"""The first of the inner ports, in pods."""
CACHE = "/var/cache/lemnos"
"""What engines compile, in pods."""

# Of an object's name, by kind: what its controller appends must still be a name.
_LONGEST = {
    # "-INDEX" of the group's StatefulSet, and Kubernetes' own hash after it.
    "LeaderWorkerSet": 50,
    # "-0-SERVICE-ldr-..." of Grove's pods.
    "DynamoGraphDeployment": 45,
    # "-head-svc", "-GROUP-worker-...".
    "RayCluster": 47,
}


class NodeFacts(Value):
    """What the cluster's nodes told of the plan's GPU; empty where nobody has asked them."""

    selector: dict[str, str] = {}
    """``{nvidia.com/gpu.product: NVIDIA-H200}``."""
    tolerations: tuple[Toleration, ...] = ()
    """Of the taints that those nodes have."""
    architecture: str | None = None
    """``arm64``, ``amd64``."""


def object_name(deployment: str, unit: str, kind: str) -> str:
    """``chat-engine-0``. Raises UsageError where Kubernetes would refuse it."""
    return checked(f"{deployment}-{unit}", kind)


def checked(name: str, kind: str) -> str:
    """``name`` of an object. Raises UsageError for what is no DNS label (RFC 1123) of a length that
    leaves room for what controllers append."""
    longest = _LONGEST.get(kind, 63)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
        raise UsageError(
            f"Kubernetes takes no object called '{name}'",
            where="name",
            fix="use lower-case letters, digits and '-', beginning and ending with a letter or digit",
        )
    if name[0].isdigit() and kind == "Service":
        # Services' names begin with a letter (RFC 1035) before Kubernetes 1.34.
        raise UsageError(
            f"a Service cannot be called '{name}': it begins with a digit",
            where="name",
            fix=f"use a name that begins with a letter: m-{name}",
        )
    if len(name) > longest:
        raise UsageError(
            f"'{name}' has {len(name)} characters, and a {kind} may have {longest}",
            where="name",
            fix="use a shorter name",
        )
    return name


def key_secret(deployment: str) -> str:
    """The Secret with the engines' key."""
    return checked(f"{deployment}-key", "Secret")


def targets_of(deployment: str) -> str:
    """The ConfigMap with the gateway's table."""
    return checked(f"{deployment}-targets", "ConfigMap")


def metadata(site: Site, name: str, unit: str = "") -> dict[str, Any]:
    """An object's name, its namespace where the spec gives one, and its labels."""
    found: dict[str, Any] = {"name": name, "labels": labels(site, unit)}
    if site.spec.kubernetes.namespace:
        found["namespace"] = site.spec.kubernetes.namespace
    return found


def declared(
    api: str, kind: str, name: str, site: Site, spec: dict[str, Any], unit: str = ""
) -> dict[str, Any]:
    """An object of the deployment, or of its ``unit``, with its labels."""
    own = metadata(site, name, unit)
    return {"apiVersion": api, "kind": kind, "metadata": own, "spec": spec}


def of_unit(
    api: str, kind: str, unit: Unit, site: Site, spec: dict[str, Any]
) -> dict[str, Any]:
    """The unit's one object of this kind, by the unit's name."""
    name = object_name(unit.deployment, unit.name, kind)
    return declared(api, kind, name, site, spec, unit.name)


def labels(site: Site, unit: str = "") -> dict[str, str]:
    """Of an object: of the deployment as a whole, or of ``unit``."""
    found = {
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        "app.kubernetes.io/name": FIELD_MANAGER,
        "app.kubernetes.io/instance": site.deployment,
        DEPLOYMENT: site.deployment,
        OWNER: site.owner,
    }
    return found | ({UNIT: unit} if unit else {})


def pod_labels(site: Site, unit: str, job: Job) -> dict[str, str]:
    """Of a pod that runs ``job``."""
    own = {ROLE: job.part or job.role, RANK: str(job.rank)}
    return labels(site, unit) | own


def selector(site: Site, unit: str = "") -> dict[str, str]:
    """What finds the pods of the deployment, or of ``unit``: labels that never change."""
    own = {DEPLOYMENT: site.deployment, OWNER: site.owner}
    return own | ({UNIT: unit} if unit else {})
