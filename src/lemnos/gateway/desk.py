"""What the gateway answers itself: its health, its models, its description. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import orjson
import yaml

from lemnos.spec.targets import ClientKey, Route, TargetTable
from lemnos.wire.errors import Protocol

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of the gateway's own."""

    status: int
    body: bytes
    kind: bytes = JSON


class NotFoundError(Exception):
    """There is no such page."""


def may_use(key: ClientKey | None, route: Route) -> bool:
    """Whether a key is for a model."""
    return key is None or key.models is None or route.model in key.models


def page(
    path: str,
    table: TargetTable,
    protocol: Protocol,
    draining: bool,
    key: ClientKey | None,
) -> Page:
    """The page at ``path``. Raises NotFoundError."""
    if path == "/health":
        return _health(table, draining)
    if path == "/v1/models":
        routes = tuple(route for route in table.routes if may_use(key, route))
        return _json(model_list(routes, protocol))
    if path == "/openapi.json":
        return Page(200, _openapi())
    if path == "/":
        what = "an OpenAI- and Anthropic-compatible endpoint"
        return _json(
            {"lemnos": what, "try": "/v1/models", "described": "/openapi.json"}
        )
    raise NotFoundError


def model_page(route: Route, protocol: Protocol) -> Page:
    """One model."""
    return _json(model_card(route, protocol))


def _health(table: TargetTable, draining: bool) -> Page:
    body = {
        "status": "draining" if draining else "ok",
        "models": len(table.routes),
        "ready": sum(
            any(t.name not in table.drained for t in r.targets) for r in table.routes
        ),
        "revision": table.revision,
    }
    return Page(503 if draining else 200, orjson.dumps(body))


def _json(body: Any) -> Page:
    return Page(200, orjson.dumps(body))


@cache
def _openapi() -> bytes:
    text = resources.files("lemnos.gateway").joinpath("openapi.yaml").read_text()
    return orjson.dumps(yaml.safe_load(text))


def model_list(routes: tuple[Route, ...], protocol: Protocol) -> dict[str, Any]:
    """``GET /v1/models`` in the client's protocol."""
    cards = [model_card(route, protocol) for route in routes]
    if protocol == "openai":
        return {"object": "list", "data": cards}
    first, last = (routes[0].model, routes[-1].model) if routes else (None, None)
    return {"data": cards, "has_more": False, "first_id": first, "last_id": last}


def model_card(route: Route, protocol: Protocol) -> dict[str, Any]:
    """One model in the client's protocol."""
    if protocol == "anthropic":
        from datetime import UTC, datetime

        created = datetime.fromtimestamp(route.created, UTC).isoformat()
        return {
            "type": "model",
            "id": route.model,
            "display_name": route.model,
            "created_at": created.replace("+00:00", "Z"),
        }
    card = {
        "id": route.model,
        "object": "model",
        "created": route.created,
        "owned_by": "lemnos",
    }
    return card | ({"max_model_len": route.context} if route.context else {})
