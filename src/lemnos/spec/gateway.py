"""What a person writes for one endpoint before many targets: ``gateway.yaml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentName
from lemnos.spec.document import SPEC_VERSION
from lemnos.spec.endpoint import (
    BaseUrl,
    CloudSpec,
    Server,
    WrittenPrice,
    check_policy,
    is_loopback,
)
from lemnos.spec.targets import ClientKey, Policy

GATEWAY_PORT = 5367
"""Where no port is asked for: beside a deployment's 5366."""

BOOTSTRAP_PORT = 8998
"""SGLang's own default of ``--disaggregation-bootstrap-port``."""

GroupPolicy = Literal[
    "cache_aware", "power_of_two", "least_load", "round_robin", "random"
]
"""Those of ``smg launch --policy`` that need nothing else."""


class ListenSpec(Value):
    """Where clients connect; read when the gateway starts."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = GATEWAY_PORT
    tls_cert: str | None = None
    """A PEM file with the certificate and its chain."""
    tls_key: str | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> ListenSpec:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("TLS needs both tls_cert and tls_key")
        return self

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """For clients on this machine, without ``/v1``."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http{'s' if self.tls_cert else ''}://{shown}:{self.port}"


class PrefillSpec(Value):
    """An SGLang engine with ``--disaggregation-mode prefill``."""

    url: BaseUrl
    bootstrap_port: Annotated[int, Field(ge=1, le=65535)] = BOOTSTRAP_PORT
    """Its ``--disaggregation-bootstrap-port``."""


class DecodeSpec(Value):
    """An SGLang engine with ``--disaggregation-mode decode``."""

    url: BaseUrl


class LocalSpec(Server):
    """A server of one's own, by URL, the replicas of a deployment, or a prefill/decode group."""

    url: BaseUrl | None = None
    deployment: DeploymentName | None = None
    """Its replicas, as they come and go."""
    dimensions: tuple[int, ...] | None = None
    """Lengths that an embedding model may be asked for, its own first."""
    router: Literal["smg"] | None = None
    """What divides each request between ``prefill`` and ``decode``; the gateway runs it."""
    prefill: tuple[PrefillSpec, ...] = ()
    decode: tuple[DecodeSpec, ...] = ()
    policy: GroupPolicy | None = None
    """How it chooses among them; ``cache_aware`` by default."""
    program: str | None = None
    """The router's command, or its environment's Python; found by default."""

    @model_validator(mode="after")
    def _one_kind(self) -> LocalSpec:
        if sum(map(bool, (self.url, self.deployment, self.router))) != 1:
            raise ValueError("give a url, the name of a deployment, or a router")
        group = {"prefill", "decode", "policy", "program"} & self.model_fields_set
        if group and not self.router:
            raise ValueError(f"{min(group)} is for a group: add router: smg")
        if self.router:
            self._check_group()
        others = self.model_fields_set - {"deployment"}
        if self.deployment and others:
            raise ValueError(
                f"a deployment knows its {min(others)} itself: drop {min(others)}"
            )
        return self

    def _check_group(self) -> None:
        """ValueError for what the router cannot do."""
        if not self.prefill or not self.decode:
            raise ValueError("router smg needs prefill and decode, one each at least")
        if not (self.key_file or self.key_env):
            raise ValueError(
                "router smg needs key_file or key_env: the key of its engines, which it "
                "demands too, so that nobody else on this machine can use it"
            )
        if self.key_header == "x-api-key":
            raise ValueError("router smg takes its key as authorization")


class ModelRoute(Value):
    """A name that clients ask for, and what serves it."""

    aliases: tuple[str, ...] = ()
    local: tuple[LocalSpec, ...] = ()
    cloud: tuple[CloudSpec, ...] = ()
    """In order of preference."""
    policy: Policy = "local-first"
    within_ms: Annotated[float, Field(gt=0)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a request, shown by ``/v1/models``."""
    compare: WrittenPrice | None = None
    """What the ledger compares with; the first cloud's price by default."""
    drop_billing_line: bool = True
    """Leave out the changing first line of Claude Code's system prompt."""

    @model_validator(mode="after")
    def _served(self) -> ModelRoute:
        if not self.local and not self.cloud:
            raise ValueError("needs local or cloud targets")
        check_policy(
            self.policy,
            self.within_ms,
            cloud=bool(self.cloud),
            local=bool(self.local),
        )
        return self


def _ledger(text: str) -> str:
    """ValueError for a URL with a password in it."""
    if text.startswith("env:"):
        if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", text):
            raise ValueError("after 'env:' comes a variable's name: env:LEDGER_URL")
        return text
    if "://" in text and urlsplit(text).password:
        raise ValueError(
            "holds a password: put the URL into a variable and write env:ITS_NAME"
        )
    return text


Ledger = Annotated[str, AfterValidator(_ledger)]


class GatewaySpec(Value):
    """The whole of ``gateway.yaml``."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    name: DeploymentName = "default"
    listen: ListenSpec = ListenSpec()
    models: Annotated[dict[str, ModelRoute], Field(min_length=1)]
    keys_file: str | None = None
    """Clients' keys, as ``lemnos keys`` writes them; none: the owner's processes only, no cloud."""
    ledger: Ledger | None = None
    """An SQLite file, or ``env:NAME`` of the variable with a database's URL; beside the
    gateway's state by default."""
    log_requests: Literal["none", "metadata", "prompts"] = "metadata"

    @model_validator(mode="after")
    def _names_once(self) -> GatewaySpec:
        taken = set(self.models)
        for model, route in self.models.items():
            for alias in route.aliases:
                if alias in taken:
                    raise ValueError(f"'{alias}' (an alias of {model}) is given twice")
                taken.add(alias)
        return self


class KeysFile(Value):
    """Clients' keys as ``lemnos keys`` keeps them: digests and limits."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    keys: tuple[ClientKey, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> KeysFile:
        for what in ("name", "sha256"):
            seen = [getattr(key, what) for key in self.keys]
            twice = next((one for one in seen if seen.count(one) > 1), None)
            if twice:
                raise ValueError(f"two keys have the same {what}: {twice}")
        return self


def from_directory(spec: GatewaySpec, directory: Path) -> GatewaySpec:
    """``spec`` with its relative paths taken from ``directory``."""

    def absolute(name: str | None) -> str | None:
        return (
            name and str(Path(directory / Path(name).expanduser()).absolute()) or None
        )

    def keyed(server: Server) -> Server:
        return server.model_copy(update={"key_file": absolute(server.key_file)})

    def local(server: LocalSpec) -> Server:
        program = server.program
        if program and "/" in program:  # a bare name is looked for on PATH
            program = absolute(program)
        return keyed(server.model_copy(update={"program": program}))

    models = {
        name: route.model_copy(
            update={
                "local": tuple(local(each) for each in route.local),
                "cloud": tuple(keyed(each) for each in route.cloud),
            }
        )
        for name, route in spec.models.items()
    }
    listen = spec.listen.model_copy(
        update={
            "tls_cert": absolute(spec.listen.tls_cert),
            "tls_key": absolute(spec.listen.tls_key),
        }
    )
    ledger = spec.ledger
    if ledger and not ledger.startswith("env:") and "://" not in ledger:
        ledger = absolute(ledger)
    return spec.model_copy(
        update={
            "models": models,
            "listen": listen,
            "ledger": ledger,
            "keys_file": absolute(spec.keys_file),
        }
    )
