"""What stands around replicas: how they are reached, watched, scaled and kept. Pure."""

from __future__ import annotations

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.names import (
    RANK,
    ROLE,
    checked,
    declared,
    metadata,
    object_name,
    of_unit,
    pod_labels,
    selector,
)
from lemnos.launchers.kubernetes.pods import Object, channel_of, has_domain
from lemnos.launchers.site import Site
from lemnos.spec.clusters import POD_PORT
from lemnos.spec.rooms import ScaleSpec
from lemnos.spec.unit import Unit

PIPE = "http"
"""The name of the API's port."""
ENGINE, GATEWAY = "engine", "gateway"
"""The role of a Service, by which a ServiceMonitor finds it."""


def service(unit: Unit, site: Site) -> Object:
    """Reaches the pod with the API, of a group the leader. It is ready when the engine says so."""
    first = unit.jobs[0]
    own = pod_labels(site, unit.name, first)
    chosen = selector(site, unit.name) | {k: own[k] for k in (ROLE, RANK)}
    spec = {
        "selector": chosen,
        "ports": [{"name": PIPE, "port": POD_PORT, "targetPort": first.port}],
    }
    name = object_name(unit.deployment, unit.name, "Service")
    found = metadata(site, name, unit.name)
    found["labels"][ROLE] = ENGINE
    return {"apiVersion": "v1", "kind": "Service", "metadata": found, "spec": spec}


def compute_domain(unit: Unit, site: Site) -> list[Object]:
    """Joins the NVLink of the unit's nodes: NVIDIA's DRA driver starts IMEX on them. Kept as it was made
    (its spec cannot be changed); drivers that take names instead of a count read ``numNodes`` for its status alone."""
    if not has_domain(unit, site.spec.kubernetes):
        return []
    name = object_name(unit.deployment, unit.name, "ComputeDomain")
    spec = {
        "numNodes": len(unit.place.hosts),
        "channel": {"resourceClaimTemplate": {"name": channel_of(unit)}},
    }
    api = "resource.nvidia.com/v1beta1"
    return [declared(api, "ComputeDomain", name, site, spec, unit.name)]


def network_policy(unit: Unit, site: Site) -> Object:
    """The unit's pods are reached by each other, by the deployment's gateway, and by what reads metrics.

    ``kubectl port-forward`` comes from the node itself, which policies do not bind.
    """
    spec = site.spec.kubernetes
    api = [{"port": unit.jobs[0].port, "protocol": "TCP"}]
    gateway = {"matchLabels": selector(site) | {ROLE: GATEWAY}}
    own = {"matchLabels": selector(site, unit.name)}
    rules: list[Object] = [
        {"from": [{"podSelector": own}]},
        {"from": [{"podSelector": gateway}], "ports": api},
    ]
    if spec.monitor:
        there = {"kubernetes.io/metadata.name": spec.monitor_namespace}
        who = {"namespaceSelector": {"matchLabels": there}}
        rules.append({"from": [who], "ports": api})
    name = object_name(unit.deployment, unit.name, "NetworkPolicy")
    return policy(site, name, unit.name, own, rules)


def policy(
    site: Site, name: str, unit: str, pods: Object, rules: list[Object]
) -> Object:
    """A NetworkPolicy for what comes in."""
    spec = {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": rules}
    return declared("networking.k8s.io/v1", "NetworkPolicy", name, site, spec, unit)


def scaler(unit: Unit, site: Site, workload: Object) -> list[Object]:
    """What adds and takes replicas by how many requests wait; none without ``scale:``.

    Raises UsageError where the engine or its kind cannot be scaled so.
    """
    scale = site.spec.scale
    if scale is None:
        return []
    waiting = engine_named(unit.served.engine).metrics.waiting if unit.served else None
    if waiting is None or workload["kind"] not in ("Deployment", "LeaderWorkerSet"):
        raise UsageError(
            f"a {workload['kind']} is not scaled by lemnos",
            where="scale",
            fix="leave it out, and plan with more replicas; Dynamo has a planner of its own",
        )
    target = {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": workload["metadata"]["name"],
    }
    make = _keda if site.spec.kubernetes.autoscale == "keda" else _hpa
    return [make(unit, site, scale, target, waiting)]


def metric_of(waiting: str) -> str:
    """``vllm_num_requests_waiting``: a metric as an adapter serves it, whose API takes no colon."""
    return waiting.replace(":", "_")


def _hpa(
    unit: Unit, site: Site, scale: ScaleSpec, target: Object, waiting: str
) -> Object:
    average = {"type": "AverageValue", "averageValue": _quantity(scale.queue)}
    metric = {"metric": {"name": metric_of(waiting)}, "target": average}
    spec = {
        "scaleTargetRef": target,
        "minReplicas": scale.min,
        "maxReplicas": scale.max,
        "metrics": [{"type": "Pods", "pods": metric}],
        "behavior": _behavior(scale),
    }
    return of_unit("autoscaling/v2", "HorizontalPodAutoscaler", unit, site, spec)


def _keda(
    unit: Unit, site: Site, scale: ScaleSpec, target: Object, waiting: str
) -> Object:
    asked = f'sum({waiting}{{pod=~"{target["name"]}-.*"}})'
    trigger = {
        "type": "prometheus",
        "metadata": {
            "serverAddress": site.spec.kubernetes.prometheus or "",
            "query": asked,
            "threshold": f"{scale.queue:g}",
        },
    }
    spec = {
        "scaleTargetRef": target,
        "minReplicaCount": scale.min,
        "maxReplicaCount": scale.max,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scale)}},
        "triggers": [trigger],
    }
    return of_unit("keda.sh/v1alpha1", "ScaledObject", unit, site, spec)


def _behavior(scale: ScaleSpec) -> Object:
    """One replica more or less at a time, after what the spec says; an hour is the most (HPA's own)."""
    one = [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    up, down = (min(round(s), 3600) for s in (scale.up_after_s, scale.down_after_s))
    return {
        "scaleUp": {"stabilizationWindowSeconds": up, "policies": one},
        "scaleDown": {"stabilizationWindowSeconds": down, "policies": one},
    }


def _quantity(value: float) -> str:
    """In thousandths, where it is not whole: ``2500m``."""
    return f"{value:g}" if value == round(value) else f"{round(value * 1000)}m"


def disruption_budget(site: Site) -> Object:
    """Drains of nodes take the deployment's pods one at a time; pods that are not ready hold nothing up."""
    chosen = selector(site)
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {
            "matchLabels": chosen,
            # Not the Job that pulls the model.
            "matchExpressions": [{"key": RANK, "operator": "Exists"}],
        },
    }
    kind = "PodDisruptionBudget"
    return declared("policy/v1", kind, checked(site.deployment, kind), site, spec)


def service_monitor(
    site: Site, name: str, role: str, secret: str, unit: str = ""
) -> Object:
    """Prometheus reads /metrics of the deployment's engines, or its gateway, with the key of ``secret``:
    llama.cpp and the gateway demand one."""
    spec = {
        "selector": {"matchLabels": selector(site) | {ROLE: role}},
        "endpoints": [
            {
                "port": PIPE,
                "path": "/metrics",
                "interval": "15s",
                "authorization": {
                    "type": "Bearer",
                    "credentials": {"name": secret, "key": "key"},
                },
            }
        ],
    }
    api, kind = "monitoring.coreos.com/v1", "ServiceMonitor"
    return declared(api, kind, checked(name, kind), site, spec, unit)
