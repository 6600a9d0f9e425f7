"""The scheduler: what continuous batching does to requests."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.planning.queueing import (
    Limits,
    Request,
    closed_loop,
    percentile,
    poisson,
    simulate,
)

WIDE = Limits(max_batched_tokens=8192, max_seqs=1024, kv_tokens=10_000_000)


def _step(prompt: float, past: float, decoding: float, context: float) -> float:
    """10 ms a step, and 10 us a prompt token."""
    return 0.01 + prompt * 1e-5


def test_one_request_alone() -> None:
    (served,) = simulate([Request(0.0, 1000, 11)], _step, WIDE, lag=0.005)
    assert served.ttft == pytest.approx(0.02 + 0.005)
    assert served.tpot == pytest.approx(0.01)
    assert served.finished == pytest.approx(0.02 + 10 * 0.01 + 0.005)


def test_a_long_prompt_is_cut_into_chunks() -> None:
    limits = Limits(max_batched_tokens=1000, max_seqs=8, kv_tokens=100_000)
    (served,) = simulate([Request(0.0, 3500, 2)], _step, limits)
    assert served.ttft == pytest.approx(4 * 0.01 + 3500e-5)


def test_prefills_slow_those_who_decode() -> None:
    alone = simulate([Request(0.0, 1000, 100)], _step, WIDE)[0]
    both = simulate([Request(0.0, 1000, 100), Request(0.1, 8000, 1)], _step, WIDE)
    first = next(each for each in both if each.tpot > 0)
    assert first.tpot > alone.tpot


def test_the_kv_cache_makes_requests_wait() -> None:
    tight = Limits(max_batched_tokens=8192, max_seqs=8, kv_tokens=1200)
    served = simulate(closed_loop(2, 1000, 100, 2), _step, tight)
    assert max(each.ttft for each in served) > 1.0  # after the whole of the first
    wide = simulate(closed_loop(2, 1000, 100, 2), _step, WIDE)
    assert max(each.ttft for each in wide) < 0.1


def test_what_can_never_fit_is_never_served() -> None:
    tight = Limits(max_batched_tokens=8192, max_seqs=8, kv_tokens=500)
    served = simulate(closed_loop(1, 1000, 100, 3), _step, tight)
    assert len(served) == 3
    assert all(math.isinf(each.ttft) for each in served)


def test_seats_are_limited() -> None:
    narrow = Limits(max_batched_tokens=8192, max_seqs=1, kv_tokens=10**6)
    served = simulate(closed_loop(4, 100, 10, 4), _step, narrow)
    ends = sorted(each.finished for each in served)
    assert ends[-1] > 3.5 * ends[0]


@given(
    concurrency=st.integers(1, 40),
    count=st.integers(1, 80),
    prompt=st.integers(1, 20_000),
    output=st.integers(1, 300),
)
def test_everything_that_comes_is_served_once(
    concurrency: int, count: int, prompt: int, output: int
) -> None:
    requests = closed_loop(min(concurrency, count), prompt, output, count)
    served = simulate(requests, _step, WIDE)
    assert len(served) == count
    assert all(each.ttft > 0 and each.finished >= each.ttft for each in served)


@given(rate=st.floats(0.01, 100), count=st.integers(1, 300))
def test_arrivals_have_the_rate_that_was_asked_for(rate: float, count: int) -> None:
    requests = poisson(rate, 10, 10, count)
    times = [request.at for request in requests]
    assert times == sorted(times) and times[0] == 0
    if count > 100:
        assert count / (times[-1] + 1 / rate) == pytest.approx(rate, rel=0.1)


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([math.inf, math.inf], 0.5) == math.inf
