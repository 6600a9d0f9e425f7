"""Which targets a request may go to, in which order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lemnos.spec.targets import Route, Target, TargetTable

EXPECTED_OUTPUT = 500
"""Tokens of an answer, for the comparison of prices before it is known."""
EXPECTED_INPUT = 2000


@dataclass(frozen=True, slots=True)
class Seen:
    """What the gateway knows of a target at this moment."""

    allowed: bool = True
    """Its breaker lets a request through."""
    wait_s: float = 0.0
    """How long a request would wait for its first token."""


UNSEEN = Seen()


def routes_by_name(table: TargetTable) -> dict[str, Route]:
    """Every name that clients may ask for; a model's own name before an alias."""
    named = {alias: route for route in table.routes for alias in route.aliases}
    return named | {route.model: route for route in table.routes}


def order(
    route: Route,
    replicas: Sequence[Target],
    cloud: Sequence[Target],
    seen: Mapping[str, Seen],
) -> list[Target]:
    """The targets to try, first to last.

    ``replicas`` are the local targets that speak the request's API, the best first;
    ``cloud`` those that may be asked (none where the endpoint has no keys). Targets whose
    breaker is open come last, and only local ones: when nothing else is left, asking a
    replica costs nothing and may find it well again.
    """
    near = [t for t in replicas if seen.get(t.name, UNSEEN).allowed]
    far = [t for t in cloud if seen.get(t.name, UNSEEN).allowed]
    left = [t for t in replicas if not seen.get(t.name, UNSEEN).allowed]
    if route.policy == "cloud-first":
        return [*far, *near, *left]
    if route.policy == "cheapest":
        return [*sorted([*near, *far], key=expected_cost), *left]
    if route.policy == "local-within" and near:
        waits = seen.get(near[0].name, UNSEEN).wait_s * 1000
        if waits > (route.within_ms or 0.0):
            return [*far, *near, *left]
    return [*near, *far, *left]


def expected_cost(target: Target) -> float:
    """US dollars of a usual request; replicas of one's own cost nothing, an unknown price all."""
    if target.price is not None:
        return target.price.cost(EXPECTED_INPUT, EXPECTED_OUTPUT)
    return 0.0 if target.kind == "replica" else float("inf")


def first_byte_s(
    route: Route, targets: Sequence[Target], at: int, streamed: bool
) -> float:
    """How long target number ``at`` may take to say something.

    Under ``local-within`` a streamed request waits at a replica no longer than that where a
    cloud comes after it. One that is not streamed says nothing before it is whole, so that
    its time tells nothing of the queue.
    """
    target = targets[at]
    if route.policy != "local-within" or not streamed or target.kind == "cloud":
        return target.first_byte_s
    if not any(other.kind == "cloud" for other in targets[at + 1 :]):
        return target.first_byte_s
    return min(target.first_byte_s, (route.within_ms or 0.0) / 1000)
