"""Writes the targets table that the gateway watches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from lemnos import paths
from lemnos.engines.workers import is_group
from lemnos.errors import LemnosError
from lemnos.gateway.compile import check_prices, cloud_targets
from lemnos.gateway.keys import digest, read_keys
from lemnos.gateway.providers import providers
from lemnos.spec.deployment import DeploymentSpec, EndpointSpec
from lemnos.spec.plan import Plan
from lemnos.spec.targets import (
    DYNAMO_APIS,
    ENGINE_APIS,
    GROUP_APIS,
    Api,
    ClientKey,
    Route,
    Target,
    TargetTable,
)

OWN_KEY = "lemnos-itself"
"""The key with which lemnos asks the endpoint whether it is ready, and measures it."""


def table_for(
    plan: Plan,
    engines: Mapping[str, str],
    *,
    revision: int,
    key_file: str,
    keys: tuple[ClientKey, ...],
    created: int,
) -> TargetTable:
    """Pure: the table in which ``engines`` (name -> base URL) serve the plan's model,
    and behind them the clouds of its endpoint. Raises UsageError for an unknown provider."""
    endpoint = plan.spec.endpoint
    apis = _apis(plan)
    targets = tuple(
        Target(name=name, base_url=url, key_file=key_file, apis=apis)
        for name, url in engines.items()
    )
    route = Route(
        model=plan.served_name,
        targets=targets,
        cloud=_cloud(plan.spec),
        policy=endpoint.policy,
        within_ms=endpoint.within_ms,
        created=created,
        context=plan.context,
    )
    return TargetTable(revision=revision, routes=(route,), keys=keys)


def _apis(plan: Plan) -> tuple[Api, ...]:
    """What a replica serves: a group what its router or frontend does; the rest is translated."""
    if not is_group(plan):
        return ENGINE_APIS
    return DYNAMO_APIS if plan.engine == "dynamo" else GROUP_APIS


def check_endpoint(spec: DeploymentSpec) -> None:
    """Raise LemnosError for keys that cannot be read and clouds that are not known.

    To be asked before a model is downloaded in vain.
    """
    endpoint = spec.endpoint
    keys = keys_for(endpoint, "")
    cloud = _cloud(spec)
    if endpoint.keys_file and not any(key.name != OWN_KEY for key in keys):
        raise LemnosError(
            "has no key",
            where=endpoint.keys_file,
            fix=f"lemnos keys add NAME --keys-file {endpoint.keys_file}",
        )
    check_prices(keys, cloud, endpoint.policy, where="endpoint.cloud")


def _cloud(spec: DeploymentSpec) -> tuple[Target, ...]:
    served = spec.model.served_name or spec.model.source
    written = spec.endpoint.cloud
    return cloud_targets(written, providers(), served, where="endpoint.cloud")


def keys_for(endpoint: EndpointSpec, own: str) -> tuple[ClientKey, ...]:
    """Who may use the endpoint: each key of its files, and ``own``, the supervisor's; empty
    for an endpoint without keys. Raises LemnosError as ``client_keys``."""
    if not endpoint.has_keys:
        return ()
    plain = tuple(
        ClientKey(name=f"key-{number}", sha256=digest(key))
        for number, key in enumerate(client_keys(endpoint), start=1)
    )
    kept = read_keys(Path(endpoint.keys_file)) if endpoint.keys_file else ()
    return (*plain, *kept, ClientKey(name=OWN_KEY, sha256=digest(own), local_only=True))


def write_table(path: Path, table: TargetTable) -> None:
    """Replace the table at ``path`` as a whole."""
    paths.replace_file(path, table.model_dump_json(indent=1).encode(), mode=0o600)


def stamp_of(endpoint: EndpointSpec) -> tuple[int, int]:
    """What changes when the file of clients' keys that is followed does; (0, 0): there is none."""
    try:
        stat = Path(endpoint.keys_file).stat() if endpoint.keys_file else None
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns) if stat else (0, 0)


def revision_at(path: Path) -> int:
    """The revision of the table at ``path``; 0 where there is none."""
    try:
        return TargetTable.model_validate_json(path.read_bytes()).revision
    except (OSError, ValidationError):
        return 0


def client_keys(endpoint: EndpointSpec) -> tuple[str, ...]:
    """The keys that clients may use: the lines of the spec's key file; none: keyless."""
    name = endpoint.api_key_file
    if name is None:
        return ()
    try:
        lines = Path(name).expanduser().read_text().splitlines()
    except OSError as error:
        raise LemnosError(
            f"the API keys cannot be read ({error.strerror})",
            where=name,
            fix="write one key a line, for example the output of 'openssl rand -hex 32'",
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip())
    short = [key for key in keys if len(key) < 16]
    if not keys or short:
        raise LemnosError(
            "has no API key of at least 16 characters"
            if not keys
            else "has an API key of less than 16 characters",
            where=name,
            fix="write one key a line, for example the output of 'openssl rand -hex 32'",
        )
    return keys
