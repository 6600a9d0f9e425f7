"""Figures from samples, and the prompts that are sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.benchmark.report import Sample, figures, percentile
from lemnos.benchmark.workload import prompt

ONE = Sample(
    sent=10.0, pieces=(10.5, 10.6, 10.9), ended=10.9, output_tokens=3, prompt_tokens=7
)
TWO = Sample(
    sent=10.0, pieces=(11.0, 11.5), ended=11.5, output_tokens=2, prompt_tokens=9
)


def test_definitions() -> None:
    got = figures([ONE, TWO])
    assert (got["requests"], got["failed"]) == (2, 0)
    assert got["ttft_ms_p50"] == pytest.approx(500)
    assert got["ttft_ms_p99"] == pytest.approx(1000)
    assert got["tpot_ms_p50"] == pytest.approx(200)  # (10.9 - 10.5) / (3 - 1)
    assert got["tpot_ms_p95"] == pytest.approx(500)
    assert got["itl_ms_p50"] == pytest.approx(300)
    assert got["e2e_ms_mean"] == pytest.approx(1200)
    assert got["duration_s"] == pytest.approx(1.5)
    assert got["output_tokens_per_s"] == pytest.approx(5 / 1.5, abs=1e-3)
    assert got["requests_per_s"] == pytest.approx(2 / 1.5, abs=1e-3)
    assert got["input_tokens_mean"] == 8


def test_failures_are_counted_and_measured_apart() -> None:
    assert figures([Sample(sent=1, error="503")]) == {"requests": 1, "failed": 1}
    got = figures([ONE, Sample(sent=1, error="503")])
    assert (got["requests"], got["failed"], got["ttft_ms_p50"]) == (2, 1, 500)


def test_an_answer_that_ends_at_once_is_no_failure() -> None:
    got = figures([ONE, Sample(sent=10.0, ended=10.2)])
    assert got["failed"] == 0
    assert got["ttft_ms_p99"] == pytest.approx(500)
    assert got["e2e_ms_p50"] == pytest.approx(200)


def test_one_token_has_no_tpot() -> None:
    got = figures([Sample(sent=0.0, pieces=(1.0,), ended=1.0, output_tokens=1)])
    assert "tpot_ms_p50" not in got and got["ttft_ms_p50"] == 1000


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_percentile_is_nearest_rank(values: list[float], share: float) -> None:
    got = percentile(values, share)
    assert got in values
    assert sum(v <= got for v in values) >= share * len(values)
    assert sum(v < got for v in values) < max(1, share * len(values))


def test_prompts_are_repeatable_and_begin_differently() -> None:
    prompts = [prompt(index, 64) for index in range(50)]
    assert prompts == [prompt(index, 64) for index in range(50)]
    assert len({text[:3] for text in prompts}) == 50
    assert all(60 <= len(text.split()) <= 64 for text in prompts)
    assert prompt(0, 1)
