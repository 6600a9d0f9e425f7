"""Which targets are asked, in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway.fleet import Fleet, Waits
from lemnos.gateway.routing import (
    Seen,
    expected_cost,
    first_byte_s,
    order,
    routes_by_name,
)
from lemnos.spec.targets import Policy, Price, Route, Target, TargetTable

NEAR = tuple(
    Target(name=f"e{n}", base_url=f"http://127.0.0.1:{n}") for n in range(1, 4)
)
DEAR = Target(
    name="dear",
    kind="cloud",
    base_url="https://dear.example",
    price=Price(input=3, output=15, as_of="2026-11-21"),
)
FAIR = Target(
    name="fair",
    kind="cloud",
    base_url="https://fair.example",
    price=Price(input=0.5, output=2, as_of="2026-11-21"),
)
UNKNOWN = Target(name="unpriced", kind="cloud", base_url="https://unpriced.example")
CLOUD = (DEAR, FAIR, UNKNOWN)


def names(route: Route, seen: dict[str, Seen] | None = None) -> list[str]:
    return [t.name for t in order(route, route.targets, route.cloud, seen or {})]


def route_of(policy: Policy, within_ms: float | None = None) -> Route:
    return Route(
        model="m", targets=NEAR, cloud=CLOUD, policy=policy, within_ms=within_ms
    )


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("local-first", ["e1", "e2", "e3", "dear", "fair", "unpriced"]),
        ("cloud-first", ["dear", "fair", "unpriced", "e1", "e2", "e3"]),
        ("cheapest", ["e1", "e2", "e3", "fair", "dear", "unpriced"]),
        ("local-within", ["e1", "e2", "e3", "dear", "fair", "unpriced"]),
    ],
)
def test_policies(policy: Policy, wanted: list[str]) -> None:
    assert names(route_of(policy, 100.0)) == wanted


def test_the_cloud_comes_first_where_local_ones_let_wait() -> None:
    route = route_of("local-within", 500.0)
    assert names(route, {"e1": Seen(wait_s=0.4)})[0] == "e1"
    assert names(route, {"e1": Seen(wait_s=0.6)})[0] == "dear"


def test_a_replica_whose_breaker_is_open_is_the_last_resort_and_a_cloud_none() -> None:
    seen = {"e1": Seen(allowed=False), "dear": Seen(allowed=False)}
    assert names(route_of("local-first"), seen) == [
        "e2",
        "e3",
        "fair",
        "unpriced",
        "e1",
    ]
    broken = {t.name: Seen(allowed=False) for t in (*NEAR, *CLOUD)}
    assert names(route_of("cloud-first"), broken) == ["e1", "e2", "e3"]


@given(
    policy=st.sampled_from(["local-first", "cloud-first", "cheapest", "local-within"]),
    open_=st.sets(st.sampled_from([t.name for t in (*NEAR, *CLOUD)])),
    wait_s=st.floats(0, 10),
)
def test_every_replica_once_and_no_cloud_that_is_broken(
    policy: Policy, open_: set[str], wait_s: float
) -> None:
    seen = {
        t.name: Seen(allowed=t.name not in open_, wait_s=wait_s)
        for t in (*NEAR, *CLOUD)
    }
    found = names(route_of(policy, 1000.0), seen)
    wanted = {t.name for t in NEAR} | ({t.name for t in CLOUD} - open_)
    assert len(found) == len(set(found)) and set(found) == wanted


def test_costs() -> None:
    assert expected_cost(NEAR[0]) == 0.0
    assert expected_cost(FAIR) == pytest.approx(2000 * 0.5e-6 + 500 * 2e-6)
    assert expected_cost(UNKNOWN) == float("inf")
    price = Price(input=1, output=2, cached_input=0.1, as_of="2026-11-21")
    assert price.cost(1_000_000, 0, 400_000) == pytest.approx(0.6 + 0.04)


def test_a_streamed_request_waits_at_a_replica_only_as_long_as_its_route_says() -> None:
    route, targets = route_of("local-within", 250.0), [NEAR[0], DEAR, NEAR[1]]
    assert first_byte_s(route, targets, 0, streamed=True) == 0.25
    assert first_byte_s(route, targets, 0, streamed=False) == NEAR[0].first_byte_s
    assert first_byte_s(route, targets, 1, streamed=True) == DEAR.first_byte_s
    assert first_byte_s(route, targets, 2, streamed=True) == NEAR[1].first_byte_s
    assert first_byte_s(route_of("local-first"), targets, 0, True) == 600.0


def test_a_models_own_name_goes_before_an_alias() -> None:
    one = Route(model="one", aliases=("two", "uno"))
    two = Route(model="two")
    found = routes_by_name(TargetTable(revision=1, routes=(two, one)))
    assert found == {"one": one, "uno": one, "two": two}


def test_waits_are_of_the_oldest_that_waits_or_the_last_known_which_fades() -> None:
    waits = Waits()
    assert waits.estimate(100.0) == 0.0
    waits.began(1, 100.0)
    waits.began(2, 101.0)
    assert waits.estimate(103.0) == 3.0
    waits.spoke(1, 104.0)
    assert waits.estimate(104.0) == 4.0
    waits.ended(2)
    assert waits.estimate(114.0) == pytest.approx(2.0)
    waits.spoke(7, 114.0)  # unknown: says nothing
    assert waits.estimate(134.0) == pytest.approx(0.5)


def test_answers_belong_to_a_target_and_to_a_key() -> None:
    fleet = Fleet()
    fleet.remember_answer("resp_1", "e1", "ann")
    assert fleet.owner_of("resp_1", "ann") == "e1"
    assert fleet.owner_of("resp_1", "bob") is None
    assert fleet.owner_of("resp_2", "ann") is None
    assert fleet.knows_answer("resp_1") and not fleet.knows_answer("resp_2")
    fleet.remember_answer("r" * 1_000_000, "e1", "ann")
    assert not fleet.knows_answer("r" * 1_000_000)


def test_targets_that_are_gone_are_forgotten() -> None:
    fleet = Fleet()
    for name in ("e1", "e2"):
        for _ in range(3):
            fleet.breaker(name).failed(0.0)
        fleet.wait(name).began(1, 0.0)
        fleet.in_flight[name] = 0
    fleet.in_flight["busy"] = 1
    kept, gone = fleet.affinity("m"), fleet.affinity("gone")
    fleet.keep_only(["e2"], ["m"])
    assert dict(fleet.in_flight) == {"e2": 0, "busy": 1}
    assert fleet.affinity("m") is kept and fleet.affinity("gone") is not gone
    seen = fleet.seen(NEAR, 0.5, waits=True)
    assert seen["e1"] == Seen(allowed=True, wait_s=0.0)
    assert seen["e2"] == Seen(allowed=False, wait_s=0.5)
