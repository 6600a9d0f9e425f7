"""Logs: what is read, what is refused, what a replay says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import cluster_named
from lemnos.planning.options import Variant
from lemnos.planning.queueing import Request
from lemnos.planning.replay import parse_log
from lemnos.planning.search import propose_plans
from lemnos.planning.sites import sites_of
from lemnos.spec.proposal import Ask, Slo
from tests.unit.planning.places import model


def test_csv_and_jsonl_are_the_same_log() -> None:
    csv = "time,input_tokens,output_tokens\n10,100,20\n12.5,200,30\n"
    jsonl = (
        '{"time": 12.5, "input_tokens": 200, "output_tokens": 30}\n'
        '{"time": 10, "input_tokens": 100, "output_tokens": 20}\n'
    )
    wanted = [Request(0.0, 100, 20), Request(2.5, 200, 30)]
    assert parse_log(csv, "log.csv") == wanted
    assert parse_log(jsonl, "log.jsonl") == wanted


def test_iso_times_other_names_and_failed_requests() -> None:
    log = (
        "timestamp,prompt_tokens,completion_tokens\n"
        "2026-11-21T08:00:00,10,5\n2026-11-21T08:00:30,10,0\n2026-11-21T08:01:00,7,5\n"
    )
    assert parse_log(log, "x") == [Request(0.0, 10, 5), Request(60.0, 7, 5)]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("", "log", "no requests"),
        ("time,input_tokens\n1,2\n", "log:2", "has no 'output_tokens'"),
        ("time,input_tokens,output_tokens\nnoon,2,3\n", "log:2", "'noon' is no time"),
        ("time,input_tokens,output_tokens\n1,-2,3\n", "log:2", "number of input"),
        ("time,input_tokens,output_tokens\n1,2,3.5\n", "log:2", "number of output"),
        ('{"time": 1}\n{"time"\n', "log:1", "has no 'input_tokens'"),
        ("{nope\n", "log:1", "is no JSON object"),
    ],
)
def test_bad_logs_name_the_line(text: str, where: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_log(text, "log")
    assert says in str(caught.value)
    assert where in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_log_or_a_sentence(text: str) -> None:
    try:
        assert parse_log(text, "log")
    except LemnosError:
        pass


def test_a_replay_says_what_the_log_would_have_seen() -> None:
    log = [Request(i * 0.05, 2000, 50) for i in range(200)]
    variant = Variant("air", "x", model("glm-4.5-air-fp8"))
    sites = sites_of(cluster_named("2xH200"))
    ask = Ask(slo=Slo(ttft_s=30.0))
    found = propose_plans([variant], sites, ask, log=log)
    first = found.replayed[0]
    assert first.requests == 200 and first.unserved == 0
    assert first.ttft_p50_ms <= first.ttft_p95_ms
    low, high = first.ttft_p95_ms_interval
    assert low < first.ttft_p95_ms < high
    assert first.meets_slo is not None and 0 <= first.meets_slo <= 1
    idle = [Request(i * 60.0, 2000, 50) for i in range(20)]
    calm = propose_plans([variant], sites, ask, log=idle).replayed[0]
    assert calm.ttft_p95_ms < first.ttft_p95_ms


def test_requests_too_long_for_the_cache_are_counted_as_unserved() -> None:
    log = [Request(0.0, 400_000_000, 50), Request(1.0, 1000, 50)]
    variant = Variant("air", "x", model("glm-4.5-air-fp8"))
    found = propose_plans([variant], sites_of(cluster_named("1xH200")), Ask(), log=log)
    assert found.replayed[0].unserved == 1
