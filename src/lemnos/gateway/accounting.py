"""What a request took, for the ledger, the metrics and the limits of its key."""

from __future__ import annotations

import time

from lemnos.gateway.entry import Entry, Outcome
from lemnos.gateway.trip import Trip


def entry_of(trip: Trip, status: int, request_id: str) -> Entry:
    """Pure, but for the clock: what became of a request."""
    now = time.monotonic()
    ask, begun, target, usage = trip.ask, trip.exchange.begun, trip.target, trip.usage
    cost = compare = None
    price = ask.route.compare or next(
        (t.price for t in ask.route.cloud if t.price), None
    )
    if usage and target:
        counts = (usage.input, usage.output, usage.cached)
        if target.price:
            cost = target.price.cost(*counts)
        elif target.kind == "replica":
            cost = 0.0
        compare = price.cost(*counts) if price else None
    ttft = trip.first_at - begun if trip.first_at else None
    tpot = None
    if trip.first_at and trip.last_at and usage and usage.output > 1:
        tpot = (trip.last_at - trip.first_at) / (usage.output - 1)
    return Entry(
        at=time.time() - (now - begun),
        request_id=request_id,
        key=trip.whose,
        model=ask.route.model,
        target=target.name if target else None,
        target_kind=target.kind if target else None,
        target_model=(target.model or ask.route.model) if target else None,
        api=ask.api,
        streamed=ask.streamed,
        status=status,
        outcome=_outcome(trip),
        attempts=trip.attempts,
        input_tokens=usage.input if usage else None,
        output_tokens=usage.output if usage else None,
        cached_tokens=usage.cached if usage else None,
        ttft_s=ttft,
        tpot_s=tpot,
        duration_s=now - begun,
        cost_usd=cost,
        compare_usd=compare,
    )


def charge(trip: Trip, entry: Entry) -> tuple[int, float]:
    """Tokens and US dollars that count against a key's limits.

    Who hangs up before a stream's end gets no usage reported, but has had the tokens: they
    are estimated, four bytes of the request for one of the prompt and one for each event.
    """
    if trip.usage:
        return trip.usage.input + trip.usage.output, entry.cost_usd or 0.0
    if not trip.target or not (trip.events or entry.outcome == "client-gone"):
        return 0, 0.0
    read = len(trip.ask.body) // 4
    price = trip.target.price
    cost = price.cost(read, trip.events) if price else 0.0
    return read + trip.events, cost


def _outcome(trip: Trip) -> Outcome:
    if trip.target is None:
        return "refused"
    if trip.broke_off:
        return "broke-off"
    if trip.answered:
        return "ok"
    return "failed" if trip.exchange.finished else "client-gone"
