"""What the gateway answers itself."""

from __future__ import annotations

import json

import pytest

from lemnos.gateway.desk import NotFoundError, may_use, model_page, page
from lemnos.spec.targets import ClientKey, Route, Target, TargetTable

READY = Route(
    model="ready",
    targets=(Target(name="e", base_url="http://127.0.0.1:1"),),
    created=1_700_000_000,
    context=4096,
)
EMPTY = Route(model="empty")
TABLE = TargetTable(revision=7, routes=(READY, EMPTY))
KEY = ClientKey(name="k", sha256="0" * 64, models=("ready",))


def test_health_counts_what_is_ready_and_says_when_it_drains() -> None:
    got = page("/health", TABLE, "openai", False, None)
    told = {"status": "ok", "models": 2, "ready": 1, "revision": 7}
    assert (got.status, json.loads(got.body)) == (200, told)
    drained = TABLE.model_copy(update={"drained": ("e",)})
    got = page("/health", drained, "openai", True, None)
    told = {"status": "draining", "models": 2, "ready": 0, "revision": 7}
    assert (got.status, json.loads(got.body)) == (503, told)


def test_models_are_those_of_the_key_in_the_clients_protocol() -> None:
    def listed(key: ClientKey | None) -> list[str]:
        got = page("/v1/models", TABLE, "openai", False, key)
        return [card["id"] for card in json.loads(got.body)["data"]]

    assert listed(None) == ["ready", "empty"]
    assert listed(KEY) == ["ready"]
    assert listed(KEY.model_copy(update={"models": None})) == ["ready", "empty"]
    assert may_use(KEY, READY) and not may_use(KEY, EMPTY)
    cards = json.loads(page("/v1/models", TABLE, "anthropic", False, None).body)
    assert (cards["first_id"], cards["last_id"]) == ("ready", "empty")
    assert cards["data"][0]["created_at"] == "2023-11-14T22:13:20Z"


def test_one_model() -> None:
    card = json.loads(model_page(READY, "openai").body)
    assert (card["id"], card["max_model_len"]) == ("ready", 4096)
    assert "max_model_len" not in json.loads(model_page(EMPTY, "openai").body)
    assert json.loads(model_page(READY, "anthropic").body)["type"] == "model"


def test_other_pages() -> None:
    assert b"/openapi.json" in page("/", TABLE, "openai", False, None).body
    described = json.loads(page("/openapi.json", TABLE, "openai", False, None).body)
    assert "/v1/messages" in described["paths"]
    with pytest.raises(NotFoundError):
        page("/admin", TABLE, "openai", False, None)
