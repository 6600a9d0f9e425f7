"""What a person writes to get an endpoint: ``deployment.yaml``, or the flags of ``up``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lemnos.spec.base import Value
from lemnos.spec.clusters import KubernetesSpec, RaySpec
from lemnos.spec.document import SPEC_VERSION
from lemnos.spec.endpoint import CloudSpec, check_policy, is_loopback
from lemnos.spec.proposal import EngineVersion, Proposal
from lemnos.spec.rooms import (
    Args,
    ContainerSpec,
    Line,
    LocalSpec,
    PbsSpec,
    ScaleSpec,
    SlurmSpec,
    SystemdSpec,
    Word,
)
from lemnos.spec.targets import Policy

DEFAULT_PORT = 5366
"""The endpoint's port where none is asked for (L-E-M-N on a telephone's keys)."""


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name):
        raise ValueError(
            "use 1 to 53 lower-case letters, digits and '-', beginning and ending with "
            "a letter or digit (Kubernetes, systemd and Slurm all take such names)"
        )
    return name


def name_from(text: str) -> str:
    """A model's name as a deployment's: lower case, other characters as '-'."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:53].strip("-")
    return name or "model"


EngineValue = bool | int | float | str | list[int | float | str] | dict[str, Any] | None


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""A variable's name; what a shell would take for more is refused."""
DeploymentName = Annotated[str, AfterValidator(_checked_name)]


class ModelSpec(Value):
    """Which model: a catalogue name, a path, or a source such as ``hf://org/name``."""

    source: str
    revision: str | None = None
    """Branch, tag or commit for a hub."""
    file: str | None = None
    """One file of the source (a GGUF among several)."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the file must hash to; for single-file models."""
    served_name: str | None = None
    """The name clients ask for; the model's own name by default."""


class WorkloadSpec(Value):
    """The load expected: what memory is planned for."""

    context: Annotated[int, Field(ge=64)] | None = None
    """Tokens a request may use, prompt and answer; the model's own limit, or less where memory is short, by default."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 4
    """Requests served at the same time."""


class EndpointSpec(Value):
    """Where clients connect."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """A fixed port, or the default one, or the next free one where that is taken."""
    api_key_file: str | None = None
    """A file with one API key a line; needed on any host but loopback, or ``keys_file``."""
    keys_file: str | None = None
    """Clients' keys with limits, as ``lemnos keys`` writes them."""
    cloud: tuple[CloudSpec, ...] = ()
    """Asked where the deployment cannot answer, in order of preference; needs keys."""
    policy: Policy = "local-first"
    within_ms: Annotated[float, Field(gt=0)] | None = None
    """The longest wait for a first token under policy ``local-within``."""

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> EndpointSpec:
        if not self.is_loopback and not self.has_keys:
            raise ValueError(
                f"host {self.host} can be reached by others: set api_key_file, or use 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _keys_before_money(self) -> EndpointSpec:
        if self.cloud and not self.has_keys:
            raise ValueError(
                "cloud needs keys_file or api_key_file: without keys no money is spent"
            )
        check_policy(self.policy, self.within_ms, cloud=bool(self.cloud))
        return self

    @property
    def has_keys(self) -> bool:
        return bool(self.api_key_file or self.keys_file)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


class RestartSpec(Value):
    """How a replica that ended is brought back."""

    backoff_s: Annotated[float, Field(gt=0)] = 1.0
    """Wait before the first restart; doubled for each one after it."""
    max_backoff_s: Annotated[float, Field(gt=0)] = 60.0
    steady_s: Annotated[float, Field(gt=0)] = 300.0
    """Ready for this long, and the backoff begins anew."""


class RoleSpec(Value):
    """What workers of one role are told beyond the others."""

    engine_args: dict[str, EngineValue] = {}
    engine_env: dict[EnvName, str] = {}


class DeploymentSpec(Value):
    """A named endpoint: the whole of ``deployment.yaml``."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    name: DeploymentName | None = None
    """The model's name by default."""
    model: ModelSpec
    engine: Literal["llamacpp", "vllm", "sglang", "dynamo"] | None = None
    """Chosen from the model's format by default."""
    engine_version: EngineVersion | None = None
    """The newest that lemnos knows by default."""
    engine_args: dict[str, EngineValue] = {}
    """Flags of the engine that lemnos has no key for: ``{kv-cache-dtype-skip-layers: "0,1"}``."""
    engine_env: dict[EnvName, str] = {}
    """Environment variables for the engine; nothing secret."""
    prefill: RoleSpec = RoleSpec()
    decode: RoleSpec = RoleSpec()
    """More of both for one role, where the plan has prefill and decode apart."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """The engine's own, for runs that can be repeated."""
    reasoning: Literal["on", "off"] | None = None
    """Whether the model thinks before it answers, where a request does not say; the model's own
    default where not given."""
    plan: Proposal | None = None
    """What ``lemnos plan --save`` chose: layout and settings are taken from it."""
    on: Word = "local"
    """The launcher: local, systemd, slurm, pbs, ray, kubernetes, or one that a package adds."""
    local: LocalSpec = LocalSpec()
    systemd: SystemdSpec = SystemdSpec()
    slurm: SlurmSpec = SlurmSpec()
    pbs: PbsSpec = PbsSpec()
    ray: RaySpec = RaySpec()
    kubernetes: KubernetesSpec = KubernetesSpec()
    launcher_args: Args = {}
    """For a launcher that a package adds."""
    via: Word | None = None
    """The login node whose scheduler is used, as the user's ssh_config knows it; None: this machine's."""
    venv: Line | None = None
    """The environment with the engine, on the machines that run it; one that ``lemnos engines
    install`` made by default."""
    modules: tuple[Word, ...] = ()
    """Environment modules to load first (``module load``)."""
    cache: Line | None = None
    """Where engines keep what they compiled; lemnos' own cache by default."""
    interface: Word | None = None
    """The network interface between the hosts (``ib0``)."""
    container: ContainerSpec | None = None
    workload: WorkloadSpec = WorkloadSpec()
    endpoint: EndpointSpec = EndpointSpec()
    restart: RestartSpec = RestartSpec()
    replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The plan's by default; ``lemnos scale`` changes it while it runs."""
    scale: ScaleSpec | None = None
    """Replicas come and go with the queue."""
    rollout: Literal["auto", "side-by-side", "stop-first"] = "auto"
    """Whether a new revision starts beside the old one, which serves on until the new one is proven, or
    after it has stopped; auto: beside it wherever there is room for both."""
    ready_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a start may take before it is called failed; time in a queue does not count."""

    @model_validator(mode="after")
    def _runs_containers(self) -> DeploymentSpec:
        if (
            self.container
            and self.container.runtime == "cluster"
            and self.on != "kubernetes"
        ):
            raise ValueError(
                "container.runtime is missing: docker, podman, apptainer or pyxis"
            )
        return self

    @model_validator(mode="after")
    def _keys_in_the_cluster(self) -> DeploymentSpec:
        within = self.on == "kubernetes" and self.kubernetes.gateway_image
        if within and not self.endpoint.has_keys:
            raise ValueError(
                "a gateway within the cluster can be reached by others: set endpoint.api_key_file or keys_file"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _short_model(cls, data: object) -> object:
        """``model: NAME`` is short for ``model: {source: NAME}``."""
        if isinstance(data, dict) and isinstance(data.get("model"), str):
            return {**data, "model": {"source": data["model"]}}
        return data

    @model_validator(mode="after")
    def _roles_of_a_plan(self) -> DeploymentSpec:
        apart = self.plan is not None and self.plan.roles is not None
        if (self.prefill, self.decode) != (RoleSpec(), RoleSpec()) and not apart:
            raise ValueError(
                "prefill and decode are for a plan that has them apart: make one with "
                "lemnos plan --split, or add roles to it"
            )
        return self
