"""Metrics as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lemnos.gateway.metrics import Metrics
from tests.entries import entry, refused

CHAT = {
    "gen_ai_operation_name": "chat",
    "gen_ai_request_model": "qwen",
    "gen_ai_provider_name": "lemnos",
}


def metrics() -> Metrics:
    return Metrics(lambda model: model == "qwen")


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that a scrape gives."""
    content_type, text = metrics.render()
    assert content_type.startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset((CHAT | labels).items())))


def test_a_request_is_in_every_histogram() -> None:
    one = metrics()
    one.observe(entry())
    one.observe(entry(ttft_s=0.3, input_tokens=1000))
    first = "gen_ai_server_time_to_first_token_seconds"
    assert value(one, f"{first}_count") == 2
    assert value(one, f"{first}_bucket", le="0.04") == 1
    assert value(one, f"{first}_bucket", le="0.5") == 2
    duration = "gen_ai_server_request_duration_seconds"
    assert value(one, f"{duration}_count", error_type="") == 2
    assert value(one, f"{duration}_sum", error_type="") == 0.8
    assert value(one, "gen_ai_server_time_per_output_token_seconds_count") == 2
    tokens = "gen_ai_client_token_usage"
    assert value(one, f"{tokens}_sum", gen_ai_token_type="input") == 1100
    assert value(one, f"{tokens}_sum", gen_ai_token_type="output") == 40
    assert value(one, "lemnos_cached_input_tokens_total") == 120
    assert value(one, "lemnos_compare_cost_usd_total") == 0.5
    assert value(one, "lemnos_cost_usd_total") == 0
    assert value(one, "lemnos_unreported_usage_total") == 0


def test_clouds_are_providers_with_a_cost() -> None:
    one = metrics()
    one.observe(entry(target="novita", target_kind="cloud", cost_usd=0.5, attempts=3))
    assert value(one, "lemnos_cost_usd_total", gen_ai_provider_name="novita") == 0.5
    assert value(one, "lemnos_retries_total", gen_ai_provider_name="novita") == 2


def test_what_was_not_reported_is_counted_as_that() -> None:
    one = metrics()
    one.observe(entry(input_tokens=None, output_tokens=None, cached_tokens=None))
    one.observe(entry(api="tokenize", input_tokens=None, output_tokens=None))
    assert value(one, "lemnos_unreported_usage_total") == 1
    tokenize = value(
        one, "lemnos_unreported_usage_total", gen_ai_operation_name="tokenize"
    )
    assert tokenize == 0
    usage = "gen_ai_client_token_usage_count"
    assert value(one, usage, gen_ai_token_type="input") == 0


@pytest.mark.parametrize("outcome", ["refused", "failed", "broke-off", "client-gone"])
def test_errors_have_a_type(outcome: str) -> None:
    one = metrics()
    one.observe(refused(outcome=outcome))
    duration = "gen_ai_server_request_duration_seconds_count"
    assert value(one, duration, error_type=outcome) == 1
    assert value(one, "lemnos_unreported_usage_total") == 0


def test_clients_cannot_make_labels() -> None:
    one = metrics()
    one.observe(refused(model="guess-0"))
    size = len(read(one))
    for number in range(100):
        one.observe(refused(model=f"guess-{number}"))
        one.observe(refused(model=f"guess-{number}", request_id=str(number)))
    assert len(read(one)) == size
    duration = "gen_ai_server_request_duration_seconds_count"
    unknown = value(one, duration, gen_ai_request_model="unknown", error_type="refused")
    assert unknown == 201
    assert "guess" not in one.render()[1].decode()
    assert not one._series  # nor memory


def test_replicas_that_come_and_go_make_no_labels() -> None:
    one = metrics()
    one.observe(entry())
    size = len(read(one))
    one.observe(entry(target="another", target_model="x", key="k"))
    assert len(read(one)) == size


def test_gauges_are_read_at_each_scrape() -> None:
    one = metrics()
    now = {"a": 1.0}
    one.gauge("lemnos_in_flight", "Requests under way.", "target", lambda: now)
    now["a"], now["b"] = 2.0, 3.0
    samples = read(one)
    assert samples["lemnos_in_flight", frozenset([("target", "a")])] == 2
    assert samples["lemnos_in_flight", frozenset([("target", "b")])] == 3


def test_openmetrics_where_it_is_accepted() -> None:
    one = metrics()
    one.observe(entry())
    kind, text = one.render("application/openmetrics-text; version=1.0.0,*/*;q=0.1")
    assert kind.startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    names = {family.name for family in families}
    assert "gen_ai_server_request_duration_seconds" in names
    assert "lemnos_cost_usd" in names
