"""Rooms with a control plane: what a person writes for Ray and for Kubernetes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lemnos.spec.base import Value
from lemnos.spec.rooms import Line, Word

Port = Annotated[int, Field(ge=1024, le=65535)]
MODELS = "/models"
"""Where a pod has the volume with weights."""
POD_PORT = 8000
"""On which a pod's API listens: each has addresses of its own."""
TARGETS_IN_A_POD = "/etc/lemnos/targets/targets.json"
KEY_IN_A_POD = "/etc/lemnos/key/key"
LEDGER_IN_A_POD = "LEMNOS_LEDGER"
"""The gateway's: its table, the engines' key, and the variable with its ledger's URL."""


class RaySpec(Value):
    """A Ray cluster: one that is there, or one that lemnos starts on hosts and ends with ``down``."""

    address: Line | None = None
    """The dashboard of a cluster that is there: ``http://10.0.0.1:8265``; by default the one of this
    machine, or of the one behind ``via``."""
    hosts: tuple[Word, ...] = ()
    """Or the hosts to start one on, as the user's ssh_config knows them; the head first."""
    token_file: Line | None = None
    """The file, on this machine, with the token that a cluster with RAY_AUTH_MODE=token demands."""
    port: Port = 6379
    """Of the head's control store (GCS)."""
    dashboard_port: Port = 8265
    """On the head's own loopback: whoever reaches it can run anything there."""
    first_port: Port = 21_000
    """The first of the ports that Ray's own processes and its workers listen on, on every host."""
    python: Line | None = None
    """The Python that has Ray, on its hosts; the one of ``venv`` by default, else ``python`` on the PATH."""
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    """That a replica takes on each host; without GPUs 1 by default, with them none."""
    resources: dict[Word, Annotated[float, Field(gt=0)]] = {}
    """Custom resources that each host of a replica must have: ``{h200: 1}``."""
    executor: Literal["ray", "engine"] = "ray"
    """vLLM over several hosts: through Ray's actors, or by its own processes, which Ray places."""

    @model_validator(mode="after")
    def _one_cluster(self) -> RaySpec:
        if self.address and self.hosts:
            raise ValueError(
                "address joins a cluster and hosts start one: give one of them"
            )
        return self


def _name(text: str) -> str:
    """What Kubernetes takes as the name of an object that is there (RFC 1123, a subdomain)."""
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise ValueError(
            f"'{text}' is no name in Kubernetes: lower-case letters, digits, '-' and '.'"
        )
    return text


def _quantity(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?([KMGTPE]i|[mkMGTPE])?", text):
        raise ValueError(
            f"'{text}' is no quantity in Kubernetes: write 400Gi, 400G, 16 or 500m"
        )
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"'{text}' is no path of a node: begin it with '/'")
    return text


def _label(text: str) -> str:
    """A label's value (its key without what is before '/')."""
    if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", text):
        raise ValueError(f"'{text}' cannot be in a label of Kubernetes")
    return text


def _label_key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not name or (slash and not prefix):
        raise ValueError(f"'{text}' cannot be the key of a label")
    _label(name)
    return f"{_name(prefix)}/{name}" if slash else name


def _gateway(text: str) -> str:
    for part in text.split("/", 1):
        _name(part)
    return text


Name = Annotated[str, AfterValidator(_name)]
Quantity = Annotated[str, AfterValidator(_quantity)]
NodePath = Annotated[Line, AfterValidator(_absolute)]
Label = Annotated[str, AfterValidator(_label)]
LabelKey = Annotated[str, AfterValidator(_label_key)]


class Toleration(Value):
    """Of a node's taint; any value without one."""

    key: LabelKey
    value: Label | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None


class WeightsSpec(Value):
    """Where pods find the model's files. Neither: a claim that lemnos makes, filled by a Job."""

    claim: Name | None = None
    """A PersistentVolumeClaim that is there; what it lacks is pulled into it."""
    host_path: NodePath | None = None
    """A directory of every GPU node: ``/data/models``."""
    path: Line | None = None
    """Below the volume, where the model is already: nothing is pulled then."""
    size: Quantity | None = None
    """Of the claim that lemnos makes: ``500Gi``; by default the model's, and a tenth more."""
    storage_class: Name | None = None
    access: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    token_secret: Name | None = None
    """The Secret whose key ``token`` is the hub's, for gated models."""

    @model_validator(mode="after")
    def _one_volume(self) -> WeightsSpec:
        if self.claim and self.host_path:
            raise ValueError("claim and host_path are two volumes: give one of them")
        return self


class ExposeSpec(Value):
    """How the gateway is reached from outside the cluster; it needs ``kubernetes.gateway_image``."""

    host: Name
    """``llm.example.org``."""
    by: Literal["ingress", "httproute"] = "ingress"
    ingress_class: Name | None = None
    tls_secret: Name | None = None
    """The Secret with the certificate, for an Ingress."""
    gateway: Annotated[str, AfterValidator(_gateway)] | None = None
    """The Gateway that an HTTPRoute belongs to: ``NAME`` or ``NAMESPACE/NAME``."""

    @model_validator(mode="after")
    def _parent(self) -> ExposeSpec:
        if (self.by == "httproute") != bool(self.gateway):
            raise ValueError("an HTTPRoute belongs to a gateway: give both, or neither")
        return self


class KubernetesSpec(Value):
    """A namespace of a cluster, through the user's own kubectl."""

    context: Line | None = None
    """Of the kubeconfig; its current one by default."""
    kubeconfig: Line | None = None
    namespace: Name | None = None
    """The context's by default."""
    kind: Literal["auto", "deployment", "leaderworkerset", "dynamo", "raycluster"] = (
        "auto"
    )
    """What a replica is: a Deployment on one node, a LeaderWorkerSet over several, Dynamo's graph for
    engine: dynamo; a RayCluster where asked for."""
    weights: WeightsSpec = WeightsSpec()
    node_selector: dict[LabelKey, Label] = {}
    """By default the label that tells the plan's GPU, as the cluster's nodes have it."""
    tolerations: tuple[Toleration, ...] = ()
    """By default those of the nodes that have the plan's GPU."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    gpus_per_node: Annotated[int, Field(ge=0, le=1024)] | None = None
    """The plan's by default."""
    resources: dict[LabelKey, Quantity] = {}
    """Whatever else a pod with GPUs takes: ``{rdma/ib: "1"}``."""
    compute_domain: bool = False
    """NVLink between the nodes of a replica (GB200): a ComputeDomain, for which NVIDIA's DRA driver gives
    each pod an IMEX channel."""
    cpus: Quantity | None = None
    """That a pod asks for."""
    memory: Quantity | None = None
    """``400Gi``: what a pod may take; needed where a quota wants it."""
    shared_memory: Quantity = "16Gi"
    """Of /dev/shm, in which ranks meet."""
    runtime_class: Name | None = None
    service_account: Name | None = None
    pull_secrets: tuple[Name, ...] = ()
    """For the images."""
    priority_class: Name | None = None
    cache_host_path: NodePath | None = None
    """A directory of the nodes for what engines compile; gone with the pod by default."""
    gateway_image: Line | None = None
    """An image with lemnos in it (the Containerfile makes one): the gateway is a Deployment then. None:
    it runs where ``lemnos up`` was called."""
    gateway_replicas: Annotated[int, Field(ge=1, le=100)] = 1
    gateway_secret: Name | None = None
    """The Secret whose entries are variables of the gateway: the keys of clouds."""
    ledger_secret: Name | None = None
    """The Secret whose key ``url`` is the PostgreSQL database for the gateway's ledger; without it the ledger
    goes with its pod."""
    expose: ExposeSpec | None = None
    autoscale: Literal["hpa", "keda"] = "hpa"
    """What scales with ``scale:``, by the engines' waiting requests."""
    prometheus: Line | None = None
    """Where KEDA asks: ``http://prometheus.monitoring:9090``."""
    monitor: bool = False
    """A ServiceMonitor for the Prometheus operator."""
    monitor_namespace: Name = "monitoring"
    """Whose pods may read the engines' metrics."""
    monitor_secret: Name | None = None
    """The Secret whose key ``key`` is a client's, with which Prometheus reads the gateway's metrics."""
    network_policy: bool = True
    """Engines are reached by the gateway and each other alone."""
    client_namespaces: tuple[Name, ...] = ()
    """That may reach the gateway; none: every one."""

    @model_validator(mode="after")
    def _needs_gateway(self) -> KubernetesSpec:
        if self.expose and not self.gateway_image:
            raise ValueError(
                "expose needs gateway_image: it is the gateway that is exposed"
            )
        if self.autoscale == "keda" and not self.prometheus:
            raise ValueError("autoscale: keda needs prometheus: it asks there")
        return self
