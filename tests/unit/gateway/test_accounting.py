"""What a request took: its entry, and what its key is charged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lemnos.gateway.accounting import charge, entry_of
from lemnos.gateway.ask import Ask, read_ask
from lemnos.gateway.trip import Trip
from lemnos.spec.targets import ClientKey, Price, Route, Target
from lemnos.wire.usage import Usage

PRICE = Price(input=1.0, output=10.0, cached_input=0.5, as_of="2026-11-21")
HERE = Target(name="here", base_url="http://127.0.0.1:1")
CLOUD = Target(name="c", kind="cloud", base_url="https://c.example", price=PRICE)
UNPRICED = CLOUD.model_copy(update={"price": None})
ROUTE = Route(model="m", targets=(HERE,), cloud=(CLOUD,))
USAGE = Usage(input=1_000_000, output=100_000, cached=400_000)
COST = 0.6 + 0.4 * 0.5 + 1.0


def trip(route: Route = ROUTE, *, finished: bool = True, **said: Any) -> Trip:
    """A trip; all of a client that accounting looks at is when it began and how it ended."""
    request: dict[str, Any] = {"model": "m", "stream": True}
    ask: Ask = read_ask(
        "/v1/chat/completions", "", "openai", route, request, b"x" * 400
    )
    exchange: Any = SimpleNamespace(begun=100.0, finished=finished)
    key = ClientKey(name="k", sha256="0" * 64)
    made = Trip(ask, exchange, key)
    for name, value in said.items():
        setattr(made, name, value)
    return made


def test_a_replica_costs_nothing_and_is_compared_with_the_cloud() -> None:
    entry = entry_of(trip(target=HERE, usage=USAGE, answered=True), 200, "r")
    assert (entry.cost_usd, entry.target_model, entry.key) == (0.0, "m", "k")
    assert entry.compare_usd == pytest.approx(COST)
    dear = ROUTE.model_copy(
        update={"compare": PRICE.model_copy(update={"output": 0.0})}
    )
    entry = entry_of(trip(dear, target=HERE, usage=USAGE), 200, "r")
    assert entry.compare_usd == pytest.approx(COST - 1.0)
    alone = ROUTE.model_copy(update={"cloud": ()})
    assert entry_of(trip(alone, target=HERE, usage=USAGE), 200, "r").compare_usd is None


def test_a_cloud_costs_its_price_or_nobody_knows() -> None:
    entry = entry_of(trip(target=CLOUD, usage=USAGE), 200, "r")
    assert entry.cost_usd == pytest.approx(COST)
    assert entry_of(trip(target=UNPRICED, usage=USAGE), 200, "r").cost_usd is None
    assert entry_of(trip(target=CLOUD), 200, "r").cost_usd is None


def test_times() -> None:
    made = trip(target=HERE, usage=Usage(1, 11, 0), first_at=100.5, last_at=101.5)
    entry = entry_of(made, 200, "r")
    assert (entry.ttft_s, entry.tpot_s) == (0.5, 0.1)
    made.usage = Usage(1, 1, 0)
    assert entry_of(made, 200, "r").tpot_s is None
    assert entry_of(trip(target=HERE), 200, "r").ttft_s is None


def test_outcomes() -> None:
    def outcome(**said: Any) -> str:
        return entry_of(trip(**said), 200, "r").outcome

    assert outcome() == "refused"
    assert outcome(target=HERE, answered=True) == "ok"
    assert outcome(target=HERE, answered=True, broke_off=True) == "broke-off"
    assert outcome(target=HERE) == "failed"
    assert outcome(target=HERE, finished=False) == "client-gone"


def test_what_a_key_is_charged() -> None:
    def charged(**said: Any) -> Any:
        made = trip(**said)
        return charge(made, entry_of(made, 200, "r"))

    assert charged(target=CLOUD, usage=USAGE) == (1_100_000, pytest.approx(COST))
    assert charged(target=UNPRICED, usage=USAGE) == (1_100_000, 0.0)
    assert charged() == (0, 0.0)
    assert charged(target=HERE, answered=True) == (0, 0.0)
    gone = charged(target=CLOUD, events=10, finished=False)
    assert gone == (110, pytest.approx(100e-6 + 10 * 10e-6))
    assert charged(target=HERE, events=10, broke_off=True) == (110, 0.0)
    assert charged(target=HERE, finished=False) == (100, 0.0)
