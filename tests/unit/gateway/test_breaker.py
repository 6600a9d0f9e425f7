"""Breakers and retry budgets: when a target is asked, and how often in vain."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway.breaker import (
    LONGEST_BUSY_S,
    LONGEST_OPEN_S,
    PROBE_S,
    RETRY_FLOOR,
    RETRY_SHARE,
    RETRY_SPAN_S,
    Breaker,
    RetryBudget,
    classify,
    retry_after_s,
)


def opened(now: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(3):
        breaker.started(now)
        breaker.failed(now)
    return breaker


def test_three_failures_in_a_row_open_it_for_a_second() -> None:
    breaker = Breaker()
    for outcome in "ffsff":
        assert breaker.state(0) == "closed" and breaker.allows(0)
        breaker.started(0)
        breaker.failed(0) if outcome == "f" else breaker.succeeded(0)
    breaker.failed(0.5)
    assert breaker.state(0.5) == breaker.state(1.49) == "open"
    assert not breaker.allows(1.49) and breaker.allows_at(1.0) == 1.5
    assert breaker.state(1.5) == "half-open" and breaker.allows(1.5)


def test_most_of_ten_outcomes_in_thirty_seconds_open_it() -> None:
    def after(outcomes: str, every_s: float = 0.1) -> str:
        breaker = Breaker()
        for n, outcome in enumerate(outcomes):
            now = n * every_s
            breaker.failed(now) if outcome == "f" else breaker.succeeded(now)
        return breaker.state(len(outcomes) * every_s)

    assert after("ffsffsffs") == "closed", "nine outcomes are too few"
    assert after("ffsffsffsf") == "open"
    assert after("sfsfsfsfsf" * 9) == "closed", "half is not over half"
    assert after("s" * 20 + "ffsffsffsffsffsff") == "closed", "12 of 37"
    assert after("s" * 6 + "ffs" * 6) == "open", "12 of 23"
    assert after("ffsffsffsf", every_s=4.0) == "closed", "the first are forgotten"


def test_each_failed_probe_doubles_the_wait_up_to_a_minute() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(9):
        until = breaker.allows_at(now)
        waits.append(until - now)
        now = until
        breaker.started(now)
        breaker.failed(now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now = breaker.allows_at(now)
    breaker.started(now)
    breaker.succeeded(now)
    assert breaker.state(now) == "closed"
    for _ in range(3):
        assert breaker.allows(now)
        breaker.failed(now)
    assert breaker.allows_at(now) == now + 1, "the wait begins anew"


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert breaker.allows(1) and breaker.allows(1), "asking starts nothing"
    breaker.started(1)
    assert not breaker.allows(1) and not breaker.allows(30)
    assert breaker.state(30) == "half-open"
    breaker.succeeded(30)
    assert breaker.allows(30)


def test_a_probe_without_a_report_blocks_nobody_for_ever() -> None:
    breaker = opened()
    breaker.started(1)
    breaker.abandoned(2)
    assert not breaker.allows(2.9), "a target that hangs costs no client after client"
    assert breaker.allows(3)
    breaker.started(3)
    assert not breaker.allows(3 + PROBE_S - 0.1)
    assert breaker.allows(3 + PROBE_S)
    breaker.started(3 + PROBE_S)
    breaker.abandoned(3 + 2 * PROBE_S - 0.5)
    assert breaker.allows_at(3 + 2 * PROBE_S - 0.5) == 3 + 2 * PROBE_S


def test_what_was_sent_before_it_opened_says_nothing_new() -> None:
    breaker = opened()
    breaker.succeeded(0.5)
    breaker.failed(0.6)
    breaker.abandoned(0.7)
    assert breaker.state(0.9) == "open" and breaker.allows_at(0.9) == 1
    breaker.failed(1.5)
    assert breaker.allows(1.5), "no probe was out that could have failed"


def test_a_busy_target_is_left_alone_and_is_no_failure() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.busy(0, 5)
    assert breaker.state(0) == "closed"
    assert not breaker.allows(4.9) and breaker.allows(5)
    breaker.busy(5, None)
    assert breaker.allows_at(5) == 6
    breaker.busy(6, 1e99)
    assert breaker.allows_at(6) == 6 + LONGEST_BUSY_S
    probed = opened()
    probed.started(1)
    probed.busy(2, 3)
    assert probed.state(2) == "closed" and probed.allows_at(2) == 5


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "succeeded", "failed", "abandoned", "pass"]),
        st.sampled_from([0.0, 0.1, 0.9, 1.0, 7.0, 31.0, 61.0]),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_it_lets_probes_through_one_at_a_time(
    events: list[tuple[str, float]],
) -> None:
    breaker, now, probe = Breaker(), 0.0, -math.inf
    for event, passed in events:
        now += passed
        assert now <= breaker.allows_at(now) <= now + max(LONGEST_OPEN_S, PROBE_S)
        if event == "ask" and breaker.allows(now):
            if breaker.state(now) == "half-open":
                assert now >= probe + PROBE_S, "two probes at once"
                probe = now
            breaker.started(now)
        elif event in ("succeeded", "failed", "abandoned"):
            getattr(breaker, event)(now)
            if event == "abandoned":
                probe = min(probe, now + 1 - PROBE_S)
            else:
                probe = -math.inf
        assert breaker.allows(now) == (breaker.allows_at(now) == now)


@given(EVENTS)
def test_without_failures_it_stays_closed(events: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for event, passed in events:
        now += passed
        if event in ("succeeded", "abandoned"):
            getattr(breaker, event)(now)
        assert breaker.state(now) == "closed" and breaker.allows(now)


@pytest.mark.parametrize(
    ("status", "outcome", "outcome_of_a_cloud"),
    [(200, "ok", "ok"), (204, "ok", "ok"), (302, "failed", "failed"),
     (400, "client", "client"), (401, "client", "failed"), (402, "client", "failed"),
     (403, "client", "failed"), (404, "client", "failed"), (408, "failed", "failed"),
     (413, "client", "client"), (422, "client", "client"), (429, "busy", "busy"),
     (500, "failed", "failed"), (501, "client", "client"), (502, "failed", "failed"),
     (503, "failed", "failed"), (504, "failed", "failed"), (529, "failed", "failed"),
     (None, "failed", "failed")],
)  # fmt: skip
def test_what_counts_as_a_failure(
    status: int | None, outcome: str, outcome_of_a_cloud: str
) -> None:
    assert classify(status) == outcome
    assert classify(status, provider_key=True) == outcome_of_a_cloud
    for error in (TimeoutError(), ConnectionRefusedError(), ValueError()):
        assert classify(status, error) == "failed"


def test_busy_is_what_says_when_to_come_again() -> None:
    assert classify(503, retry_after=True) == "busy"
    assert classify(529, retry_after=True) == "busy"
    assert classify(500, retry_after=True) == "failed"
    assert classify(400, retry_after=True) == "client"


def test_retry_after_in_all_its_forms() -> None:
    wall = 1_800_000_000.0
    date = format_datetime(datetime.fromtimestamp(wall + 90, UTC), usegmt=True)
    assert retry_after_s(date.encode(), wall) == 90
    assert retry_after_s(date.encode(), wall + 1000) == 0
    assert retry_after_s(b" 7 ", wall) == 7
    assert retry_after_s(b"0.5", wall) == 0.5
    assert retry_after_s(b"-3", wall) == 0
    assert retry_after_s(b"99999999", wall) == LONGEST_BUSY_S
    for nonsense in (None, b"", b"soon", b"nan", b"inf", b"\xff", b"Mon, 99 Foo"):
        assert retry_after_s(nonsense, wall) is None


@given(st.binary(max_size=40))
def test_no_retry_after_is_an_error(value: bytes) -> None:
    wait = retry_after_s(value, 0.0)
    assert wait is None or 0 <= wait <= LONGEST_BUSY_S


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.125, 0.5, 2.0, 9.75, 10.0]),  # without rounding
            st.integers(0, 60),
            st.integers(0, 30),
        ),
        max_size=30,
    )
)
def test_retries_are_few_in_any_ten_seconds(
    steps: list[tuple[float, int, int]],
) -> None:
    budget, now = RetryBudget(), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for passed, asked, tried in steps:
        now += passed
        for _ in range(asked):
            budget.requested(now)
            requests.append(now)
        for _ in range(tried):
            recent = sum(now - at < RETRY_SPAN_S for at in retries)
            share = RETRY_SHARE * sum(now - at < RETRY_SPAN_S for at in requests)
            if budget.take(now):
                retries.append(now)
                # What is forgotten late (by half a second) may count for the requests.
                span = RETRY_SPAN_S + 0.5
                late = RETRY_SHARE * sum(now - at < span for at in requests)
                assert recent + 1 <= max(RETRY_FLOOR, late)
            else:
                lately = sum(now - at < RETRY_SPAN_S + 0.5 for at in retries)
                assert lately + 1 > max(RETRY_FLOOR, share), "refused too early"


def test_the_floor_and_the_share() -> None:
    budget = RetryBudget()
    assert [budget.take(0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert not budget.take(9.9) and budget.take(10)
    busy = RetryBudget()
    for _ in range(2000):
        busy.requested(0)
    assert sum(busy.take(0) for _ in range(1000)) == 400
