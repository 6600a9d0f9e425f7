"""Writes the targets table that the gateway watches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.spec.deployment import EndpointSpec
from lemnos.spec.plan import Plan
from lemnos.spec.targets import Route, Target, TargetTable


def table_for(
    plan: Plan,
    engines: Mapping[str, int],
    *,
    revision: int,
    key_file: str,
    client_keys: tuple[str, ...],
    created: int,
) -> TargetTable:
    """Pure: the table in which ``engines`` (job name -> loopback port) serve the plan's model."""
    targets = tuple(
        Target(name=name, base_url=f"http://127.0.0.1:{port}", key_file=key_file)
        for name, port in engines.items()
    )
    route = Route(
        model=plan.served_name,
        targets=targets,
        created=created,
        context=plan.context,
    )
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in client_keys)
    return TargetTable(revision=revision, routes=(route,), key_digests=digests)


def write_table(path: Path, table: TargetTable) -> None:
    """Replace the table at ``path`` as a whole."""
    paths.replace_file(path, table.model_dump_json(indent=1).encode(), mode=0o600)


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
