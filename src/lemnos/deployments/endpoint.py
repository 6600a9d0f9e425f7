"""A deployment that serves, as the Python API gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lemnos.deployments.files import Files
from lemnos.deployments.targets import client_keys
from lemnos.spec.status import Status
from lemnos.wire.client import AsyncClient, Client


@dataclass(frozen=True)
class Endpoint:
    """A deployment that is ready."""

    name: str
    url: str
    """The base URL for SDKs, with ``/v1``."""
    model: str
    """The name to ask for."""
    status: Status
    already_up: bool
    """It was running before; nothing was started or measured."""
    measured: dict[str, float] = field(default_factory=dict)
    """``ready_s``, ``pull_s``, ``start_s``, ``output_tokens_per_s``, ``ttft_ms``."""
    record: str | None = None
    """The id of the record of this start."""

    def client(self, **options: Any) -> Client:
        """A sync client of this endpoint."""
        return Client(self.status.url, model=self.model, **self._key(), **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """An async client of this endpoint."""
        return AsyncClient(self.status.url, model=self.model, **self._key(), **options)

    def _key(self) -> dict[str, Any]:
        return {"api_key": key_of(self.status)}


def endpoint_of(status: Status, *, already_up: bool = False, **more: Any) -> Endpoint:
    """The endpoint of a deployment's status."""
    return Endpoint(
        name=status.name,
        url=status.base_url,
        model=status.model,
        status=status,
        already_up=already_up,
        **more,
    )


def key_of(status: Status) -> str | None:
    """A key with which this machine's user may ask the endpoint; None: it needs none."""
    endpoint = status.plan.spec.endpoint
    if not endpoint.has_keys:
        return None
    keys = client_keys(endpoint)
    return keys[0] if keys else Files.named(status.name).own_key.read_text()
