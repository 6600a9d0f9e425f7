"""Clients' limits: what is admitted, when again, and what is said about it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway.limits import DAY_S, Limits, Refusal, duration
from lemnos.gateway.window import Window
from lemnos.spec.targets import ClientKey


def key(name: str = "ann", **limits: Any) -> ClientKey:
    return ClientKey(name=name, sha256="0" * 64, **limits)


def refused(limits: Limits, key: ClientKey, now: float) -> Refusal:
    refusal = limits.admit(key, "m", now)
    assert refusal is not None
    return refusal


def test_a_key_without_limits_is_always_admitted() -> None:
    limits, free = Limits(), key()
    for _ in range(1000):
        assert limits.admit(free, "m", 0) is None
        limits.started(free, 0)
        limits.finished(free, 10**9, 1e6, 0)
    assert limits.headers(free, 0) == []


def test_models() -> None:
    limits, some = Limits(), key(models=("a", "b"))
    assert limits.admit(some, "b", 0) is None
    refusal = limits.admit(some, "c", 0)
    assert refusal == Refusal(
        403, "the key 'ann' may not use the model 'c'", "model_not_allowed", None
    )


def test_requests_a_minute() -> None:
    limits, two = Limits(), key(requests_per_minute=2)
    for now in (0.0, 45.0):
        assert limits.admit(two, "m", now) is None
        limits.started(two, now)
    refusal = refused(limits, two, 50.0)
    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
    assert refusal.retry_after_s == 10
    assert refusal.message == (
        "the key 'ann' has used its 2 requests a minute; try again in 10 s"
    )
    assert limits.admit(two, "m", 60.0) is None
    limits.started(two, 60.0)
    assert refused(limits, two, 60.0).retry_after_s == 45, "no two minutes' worth"


def test_tokens_are_charged_when_they_are_known() -> None:
    limits, some = Limits(), key(tokens_per_minute=100)
    for _ in range(3):
        assert limits.admit(some, "m", 0) is None
        limits.started(some, 0)
    limits.finished(some, 99, 0, 10)
    assert limits.admit(some, "m", 10) is None
    limits.finished(some, 150, 0, 20)
    assert refused(limits, some, 30).retry_after_s == 50, "until all but 99 are gone"
    limits.finished(some, 1, 0, 40)
    assert refused(limits, some, 40).retry_after_s == 40
    assert limits.admit(some, "m", 80) is None


def test_requests_at_once() -> None:
    limits, one = Limits(), key(concurrency=1, requests_per_minute=1)
    limits.started(one, 0)
    refusal = refused(limits, one, 0)
    assert refusal.retry_after_s is None, "nobody knows when the other one ends"
    assert refusal.message == "the key 'ann' has 1 requests open, of 1 at once"
    limits.finished(one, 0, 0, 1)
    assert refused(limits, one, 1).retry_after_s == 59
    assert limits.admit(one, "m", 60) is None
    limits.finished(one, 0, 0, 61)
    assert limits.in_flight(one) == 0


def test_a_budget_with_what_the_ledger_knows() -> None:
    limits, poor = Limits(), key(budget_usd=5.0, budget_days=10)
    assert limits.update([poor]) == [poor]
    now = 1000.0
    limits.seed(poor, [(DAY_S, 1.0), (9 * DAY_S, 3.5), (10 * DAY_S, 99.0)], now)
    assert limits.spent(poor, now) == 4.5
    assert limits.admit(poor, "m", now) is None
    limits.started(poor, now)
    limits.finished(poor, 10, 0.75, now)
    refusal = refused(limits, poor, now)
    assert (refusal.status, refusal.code) == (429, "insufficient_quota")
    assert refusal.retry_after_s == DAY_S
    assert "has used its $5 in 10 days; try again in 24 hours" in refusal.message
    assert limits.admit(poor, "m", now + DAY_S) is None


def test_a_budget_of_nothing_is_no_matter_of_waiting() -> None:
    refusal = refused(Limits(), key(budget_usd=0), 0)
    assert (refusal.status, refusal.retry_after_s) == (403, None)


def test_the_ledger_is_asked_about_keys_whose_past_is_unknown() -> None:
    limits = Limits()
    plain, short, long = key("a"), key("b", budget_usd=1, budget_days=1), key("c")
    assert limits.update([plain, short, long]) == [short]
    assert limits.update([plain, short, long]) == []
    longer = key("b", budget_usd=1, budget_days=2)
    has_one_now = key("c", budget_usd=1)
    assert limits.update([plain, longer, has_one_now]) == [longer, has_one_now]
    assert limits.update([plain, short, has_one_now]) == []
    limits.seed(short, [(3600, 0.25), (1.5 * DAY_S, 0.5)], 0)
    assert limits.spent(short, 0) == 0.25
    assert limits.update([plain, has_one_now]) == []
    assert limits.update([short]) == [short], "it was forgotten"


def test_a_changed_limit_applies_at_once_and_use_is_kept() -> None:
    limits = Limits()
    for _ in range(5):
        limits.started(key(requests_per_minute=10, concurrency=9), 0)
    assert refused(limits, key(requests_per_minute=5), 1).retry_after_s == 59
    assert limits.admit(key(requests_per_minute=6), "m", 1) is None
    assert "5 requests open, of 5" in refused(limits, key(concurrency=5), 1).message
    assert limits.admit(key(concurrency=6), "m", 1) is None


def test_a_key_that_vanishes_is_forgotten_once_nothing_of_it_is_open() -> None:
    limits, ann = Limits(), key(requests_per_minute=1, concurrency=2)
    limits.started(ann, 0)
    limits.update([])
    assert refused(limits, ann, 0), "it came back while its request was open"
    limits.finished(ann, 5, 0, 1)
    assert limits.admit(ann, "m", 1) is None
    limits.started(ann, 1)
    limits.update([ann])
    limits.finished(ann, 5, 0, 2)
    assert refused(limits, ann, 2).retry_after_s == 59, "it is in the table: kept"
    limits.update([])
    assert limits.admit(ann, "m", 2) is None


def test_keys_do_not_share() -> None:
    limits = Limits()
    limits.started(key("a", requests_per_minute=1), 0)
    assert refused(limits, key("a", requests_per_minute=1), 0)
    assert limits.admit(key("b", requests_per_minute=1), "m", 0) is None


def test_the_longest_wait_is_the_one_that_is_told() -> None:
    limits = Limits()
    both = key(requests_per_minute=1, tokens_per_minute=1)
    limits.started(both, 0)
    limits.finished(both, 2, 0, 30)
    refusal = refused(limits, both, 40)
    assert refusal.retry_after_s == 50 and "1 tokens a minute" in refusal.message


def test_headers() -> None:
    limits, ann = Limits(), key(requests_per_minute=100, tokens_per_minute=1000)
    names = [
        f"x-ratelimit-{what}-{of}"
        for of in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ]
    fresh = dict(limits.headers(ann, 0))
    assert [name.decode() for name in fresh] == names
    assert list(fresh.values()) == [b"100", b"100", b"0ms", b"1000", b"1000", b"0ms"]
    limits.started(ann, 0)
    limits.finished(ann, 4000, 0, 10)
    used = dict(limits.headers(ann, 20))
    assert list(used.values()) == [b"100", b"99", b"40s", b"1000", b"0", b"50s"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, b"0ms"), (-1, b"0ms"), (0.0001, b"1ms"), (0.5, b"500ms"), (1, b"1s"),
     (1.5, b"1.5s"), (59.9999, b"1m0s"), (60, b"1m0s"), (360, b"6m0s"),
     (90.25, b"1m30.25s"), (7200, b"120m0s")],
)  # fmt: skip
def test_durations(seconds: float, written: bytes) -> None:
    assert duration(seconds) == written


# Times without rounding, so that a minute is a minute.
PAUSES = st.integers(0, 70 * 64).map(lambda n: n / 64)
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), PAUSES, st.sampled_from([0.25, 59.75, 60.0, 60.25])),
        st.sampled_from(["ask", "ask", "ask", "finish"]),
        st.integers(0, 200),
    ),
    max_size=100,
)


@given(STEPS, st.integers(1, 5), st.integers(1, 3))
def test_never_more_than_allowed_in_any_minute(
    steps: list[tuple[float, str, int]], most: int, at_once: int
) -> None:
    limits, now, open_now = Limits(), 0.0, 0
    ann = key(requests_per_minute=most, concurrency=at_once, tokens_per_minute=500)
    admitted: list[float] = []
    tokens: list[tuple[float, int]] = []
    for passed, what, used in steps:
        now += passed
        if what == "finish":
            limits.finished(ann, used, 0, now)
            tokens.append((now, used))
            open_now = max(0, open_now - 1)
        elif limits.admit(ann, "m", now) is None:
            limits.started(ann, now)
            admitted.append(now)
            open_now += 1
            assert sum(now - at < 60 for at in admitted) <= most
            assert sum(n for at, n in tokens if now - at < 60) < 500
        elif open_now < at_once:
            # And it is no stricter than that, but for a quarter of a second.
            full = sum(now - at < 60.25 for at in admitted) >= most
            assert full or sum(n for at, n in tokens if now - at < 60.25) >= 500
        assert limits.in_flight(ann) == open_now <= at_once


FLOATS = st.floats(0, 1e7, allow_nan=False, allow_subnormal=False)


@given(
    st.floats(0, 1e9),
    st.lists(st.tuples(st.floats(0, 90), st.integers(0, 90)), min_size=1),
    st.integers(1, 4),
    st.lists(st.tuples(FLOATS, st.floats(0, 3)), max_size=5),
)
def test_who_waits_as_long_as_told_is_admitted(
    start: float,
    steps: list[tuple[float, int]],
    most: int,
    past: list[tuple[float, float]],
) -> None:
    limits, now = Limits(), start
    ann = key(requests_per_minute=most, tokens_per_minute=100, budget_usd=2.0)
    limits.update([ann])
    limits.seed(ann, past, now)
    for passed, used in steps:
        now += passed
        refusal = limits.admit(ann, "m", now)
        if refusal is None:
            limits.started(ann, now)
            limits.finished(ann, used, used / 100, now)
            continue
        wait = refusal.retry_after_s
        assert wait is not None and wait > 0
        assert limits.admit(ann, "m", now + wait * (1 - 1e-6) - 1e-6) is not None
        assert limits.admit(ann, "m", now + wait) is None
        now += wait


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=60),
    st.integers(1, 30),
)
def test_a_window_forgets_nothing_too_early_and_little_too_late(
    steps: list[tuple[int, int]], limit: int
) -> None:
    window, now = Window(10.0, slots=10), 0.0
    added: list[tuple[float, int]] = []
    for passed, amount in steps:
        now += passed / 8
        window.add(amount, now)
        added.append((now, amount))

        def last(span: float, now: float = now) -> int:
            return sum(n for at, n in added if now - at < span)

        assert last(10) <= window.total(now) <= last(11)
        at = window.below_at(limit, now)
        assert (at == now) == (window.total(now) < limit)
        again = Window(10.0, slots=10)
        again.refill([(now - at, n) for at, n in added], now)
        assert again.total(at) < limit
    assert window.total(window.empty_at(now)) == 0


def test_what_is_never_below() -> None:
    window = Window(10.0)
    assert window.below_at(0, 5) == math.inf
    window.add(1, 5)
    assert window.below_at(0, 5) == math.inf
    assert window.below_at(1, 5) == 15


def test_a_window_stays_small_however_much_happens() -> None:
    window = Window(60.0)
    for n in range(100_000):
        window.add(1, n / 1000)
    assert len(window._parts) <= 242
    assert 60_000 <= window.total(99.999) <= 60_250
