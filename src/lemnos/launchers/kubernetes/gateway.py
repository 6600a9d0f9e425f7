"""The gateway as pods: what is reached from outside. Pure."""

from __future__ import annotations

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.argv import literal
from lemnos.launchers.kubernetes.around import GATEWAY, PIPE, policy, service_monitor
from lemnos.launchers.kubernetes.names import (
    ROLE,
    NodeFacts,
    declared,
    key_secret,
    metadata,
    object_name,
    pod_labels,
    selector,
    targets_of,
)
from lemnos.launchers.kubernetes.pods import GRACE_S, LEAVING, Object
from lemnos.launchers.site import Site
from lemnos.spec.clusters import (
    KEY_IN_A_POD,
    LEDGER_IN_A_POD,
    POD_PORT,
    TARGETS_IN_A_POD,
    ExposeSpec,
)
from lemnos.spec.unit import Unit

USER = 65532
"""Of the Containerfile."""


def gateway_objects(unit: Unit, site: Site, nodes: NodeFacts) -> list[Object]:
    """Deployment, Service, who may reach it, what reads its metrics, and an Ingress or HTTPRoute where it is
    exposed. Raises UsageError for a cloud whose key is a file of this machine."""
    _check_clouds(site)
    name = object_name(unit.deployment, unit.name, "Service")
    found = [_deployment(unit, site, name), _service(unit, site, name)]
    spec = site.spec.kubernetes
    if spec.network_policy and spec.client_namespaces:
        found.append(_policy(unit, site, name))
    if spec.monitor and spec.monitor_secret:
        key = spec.monitor_secret
        found.append(service_monitor(site, name, GATEWAY, key, unit.name))
    if spec.expose:
        make = _route if spec.expose.by == "httproute" else _ingress
        found.append(make(unit, site, name, spec.expose))
    return found


def _check_clouds(site: Site) -> None:
    for number, cloud in enumerate(site.spec.endpoint.cloud):
        if cloud.key_file:
            raise UsageError(
                f"the gateway's pods do not have {cloud.key_file}",
                where=f"endpoint.cloud[{number}].key_file",
                fix="give key_env, and the Secret with that variable in kubernetes.gateway_secret",
            )


def targets_map(table_text: str, site: Site) -> Object:
    """The ConfigMap with the gateway's table (JSON, no secret in it): pods see it change within the
    kubelet's minute, without a restart."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(site, targets_of(site.deployment)),
        "data": {_base(TARGETS_IN_A_POD): table_text},
    }


def _deployment(unit: Unit, site: Site, name: str) -> Object:
    job, spec = unit.jobs[0], site.spec.kubernetes
    check = {"httpGet": {"path": "/health", "port": PIPE}}
    env: list[Object] = [
        {"name": key, "value": literal(value)} for key, value in job.command.env.items()
    ]
    # The ledger goes with its pod, unless it is a database.
    env.append({"name": "LEMNOS_HOME", "value": "/tmp/lemnos"})
    if spec.ledger_secret:
        url = {"secretKeyRef": {"name": spec.ledger_secret, "key": "url"}}
        env.append({"name": LEDGER_IN_A_POD, "valueFrom": url})
    container: Object = {
        "name": "gateway",
        "image": spec.gateway_image,
        "command": [literal(word) for word in job.command.argv],
        "env": env,
        "ports": [{"name": PIPE, "containerPort": POD_PORT}],
        "resources": {
            "requests": {"cpu": "500m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        },
        "startupProbe": check | {"periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": check | {"periodSeconds": 5},
        "livenessProbe": check | {"periodSeconds": 20, "timeoutSeconds": 10},
        "lifecycle": LEAVING,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "targets", "mountPath": _parent(TARGETS_IN_A_POD), "readOnly": True},
            {"name": "key", "mountPath": _parent(KEY_IN_A_POD), "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }  # fmt: skip
    if spec.gateway_secret:
        container["envFrom"] = [{"secretRef": {"name": spec.gateway_secret}}]
    pod: Object = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    if spec.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in spec.pull_secrets]
    pod |= {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_S,
        "topologySpreadConstraints": [_spread(unit, site)],
        "containers": [container],
        "volumes": [
            {"name": "targets", "configMap": {"name": targets_of(site.deployment)}},
            {"name": "key", "secret": _key(site)},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
    spec_: Object = {
        "replicas": spec.gateway_replicas,
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": selector(site, unit.name)},
        "template": {"metadata": {"labels": pod_labels(site, unit.name, job)}, "spec": pod},
    }  # fmt: skip
    return declared("apps/v1", "Deployment", name, site, spec_, unit.name)


def _key(site: Site) -> Object:
    entry = {"key": "key", "path": _base(KEY_IN_A_POD), "mode": 0o400}
    return {"secretName": key_secret(site.deployment), "items": [entry]}


def _spread(unit: Unit, site: Site) -> Object:
    """Over nodes, where there are several."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(site, unit.name)},
    }


def _service(unit: Unit, site: Site, name: str) -> Object:
    spec = {
        "selector": selector(site, unit.name),
        "ports": [{"name": PIPE, "port": POD_PORT, "targetPort": PIPE}],
    }
    found = declared("v1", "Service", name, site, spec, unit.name)
    found["metadata"]["labels"][ROLE] = GATEWAY
    return found


def _policy(unit: Unit, site: Site, name: str) -> Object:
    """The namespaces that the spec names; without any, nobody is kept out."""
    spec = site.spec.kubernetes
    named = list(spec.client_namespaces)
    if spec.monitor:
        named.append(spec.monitor_namespace)
    match = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": named}
    who = {"namespaceSelector": {"matchExpressions": [match]}}
    ports = [{"port": POD_PORT, "protocol": "TCP"}]
    pods = {"matchLabels": selector(site, unit.name)}
    return policy(site, name, unit.name, pods, [{"from": [who], "ports": ports}])


def _ingress(unit: Unit, site: Site, name: str, expose: ExposeSpec) -> Object:
    backend = {"service": {"name": name, "port": {"name": PIPE}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: Object = {"rules": [{"host": expose.host, "http": {"paths": [path]}}]}
    if expose.ingress_class:
        spec["ingressClassName"] = expose.ingress_class
    if expose.tls_secret:
        spec["tls"] = [{"hosts": [expose.host], "secretName": expose.tls_secret}]
    found = declared("networking.k8s.io/v1", "Ingress", name, site, spec, unit.name)
    # An answer takes minutes and comes in pieces: ingress-nginx cuts off after one, and collects.
    found["metadata"]["annotations"] = {
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "3600",
        "nginx.ingress.kubernetes.io/proxy-body-size": "64m",
    }
    return found


def _route(unit: Unit, site: Site, name: str, expose: ExposeSpec) -> Object:
    namespace, _, gateway = (expose.gateway or "").rpartition("/")
    parent = {"name": gateway} | ({"namespace": namespace} if namespace else {})
    rule = {
        "backendRefs": [{"name": name, "port": POD_PORT}],
        "timeouts": {"request": "0s"},  # none: answers take as long as they take
    }
    spec = {"parentRefs": [parent], "hostnames": [expose.host], "rules": [rule]}
    return declared(
        "gateway.networking.k8s.io/v1", "HTTPRoute", name, site, spec, unit.name
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _base(path: str) -> str:
    return path.rpartition("/")[2]
