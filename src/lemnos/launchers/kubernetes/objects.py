"""What a unit becomes: its own objects, and those that all units of its deployment share. Pure."""

from __future__ import annotations

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.around import (
    ENGINE,
    compute_domain,
    disruption_budget,
    network_policy,
    scaler,
    service,
    service_monitor,
)
from lemnos.launchers.kubernetes.gateway import gateway_objects
from lemnos.launchers.kubernetes.graph import graph
from lemnos.launchers.kubernetes.names import NodeFacts, key_secret
from lemnos.launchers.kubernetes.pods import Object
from lemnos.launchers.kubernetes.weights import claim, pull_job
from lemnos.launchers.kubernetes.workloads import (
    deployment,
    leader_worker_set,
    ray_cluster,
)
from lemnos.launchers.site import Site
from lemnos.spec.unit import Unit

WORKLOADS = {
    "deployment": deployment,
    "leaderworkerset": leader_worker_set,
    "dynamo": graph,
    "raycluster": ray_cluster,
}


def objects_of(unit: Unit, site: Site, nodes: NodeFacts) -> list[Object]:
    """The unit's own objects, in the order in which they are applied.

    Raises UsageError for what Kubernetes cannot do, with the key to change.
    """
    if unit.role == "gateway":
        return gateway_objects(unit, site, nodes)
    kind = kind_of(unit, site)
    workload = WORKLOADS[kind](unit, site, nodes)
    found = [*compute_domain(unit, site), workload, service(unit, site)]
    if site.spec.kubernetes.network_policy:
        found.append(network_policy(unit, site))
    return found + scaler(unit, site, workload)


def shared_of(unit: Unit, site: Site, nodes: NodeFacts) -> list[Object]:
    """The deployment's: the same for each of its units that serve the same model."""
    found = claim(unit, site) + pull_job(unit, site, nodes)
    if kind_of(unit, site) != "raycluster":
        # Such a budget counts what a scale subresource tells, which a RayCluster has not: no node
        # with one could be drained.
        found.append(disruption_budget(site))
    if site.spec.kubernetes.monitor:
        secret = key_secret(site.deployment)
        found.append(service_monitor(site, site.deployment, ENGINE, secret))
    return found


def kind_of(unit: Unit, site: Site) -> str:
    """``deployment``, ``leaderworkerset``, ``dynamo`` or ``raycluster``. Raises UsageError where the one that
    is asked for cannot run the unit."""
    asked = site.spec.kubernetes.kind
    hosts, graphed = len(unit.place.hosts), unit.jobs[0].part == "frontend"
    if unit.jobs[0].part == "router":
        raise UsageError(
            "prefill and decode apart are Dynamo's on Kubernetes",
            where="engine",
            fix="use engine: dynamo, around the same workers",
        )
    if asked == "auto":
        if graphed:
            return "dynamo"
        return "deployment" if hosts == 1 else "leaderworkerset"
    if (asked == "dynamo") != graphed:
        raise UsageError(
            f"kind: {asked} does not run this engine",
            where="kubernetes.kind",
            fix="leave it out, or use engine: dynamo" if asked == "dynamo" else "leave it out: engine: dynamo is Dynamo's graph",
        )  # fmt: skip
    if (asked == "deployment" and hosts > 1) or (
        asked in ("leaderworkerset", "raycluster") and hosts == 1
    ):
        raise UsageError(
            f"kind: {asked} is not for a replica on {hosts} host{'s' * (hosts > 1)}",
            where="kubernetes.kind",
            fix="leave it out: lemnos chooses by the plan's hosts",
        )
    return asked
