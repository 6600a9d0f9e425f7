"""Which targets a request may go to, in which order. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lemnos.spec.targets import Route, Target, TargetTable


def route_for(table: TargetTable, model: str) -> Route | None:
    """The route of a model's name."""
    return next((route for route in table.routes if route.model == model), None)


def order(route: Route, in_flight: Mapping[str, int]) -> list[Target]:
    """The route's targets, the least loaded first; equals in the table's order."""
    return sorted(route.targets, key=lambda target: in_flight.get(target.name, 0))
