"""Prometheus metrics: OpenTelemetry's GenAI names where they exist, ``lemnos_*`` for the rest.

Names, units, labels and buckets are those of OpenTelemetry's semantic conventions for generative
AI (docs/gen-ai/gen-ai-metrics.md there), spelled as Prometheus does: dots become underscores, and
a unit of seconds is at the end. Labels are few and bounded: a route, an operation, a provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from lemnos.gateway.entry import Entry, Outcome
from lemnos.spec.targets import Api

Observe = Callable[[float], None]

_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48,
             40.96, 81.92)  # fmt: skip
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0,
                2.5, 5.0, 7.5, 10.0)  # fmt: skip
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0,
              2.5)  # fmt: skip
_TOKENS = tuple(4.0**power for power in range(14))

_OPERATIONS: dict[Api, str] = {
    "chat": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "messages": "chat",
    "responses": "chat",
    "tokenize": "tokenize",
}
"""``gen_ai.operation.name``; the convention has none for tokenizers and allows one's own."""

UNKNOWN = "unknown"
"""The label of whatever is in no route: clients must not be able to make labels."""
OWN = "lemnos"
"""``gen_ai.provider.name`` of replicas of one's own; their names come and go."""

_LABELS = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")


class _Series(NamedTuple):
    """What one combination of labels is counted by, ready to be called."""

    duration: Observe
    first_token: Observe
    per_token: Observe
    input: Observe
    output: Observe
    cached: Observe
    unreported: Observe
    retries: Observe
    cost: Observe
    compare: Observe


class Metrics:
    """``known_model`` says whether a name is a route's, asked once for each name."""

    def __init__(self, known_model: Callable[[str], bool]) -> None:
        # A line more for each series, which nobody reads. (The package types this by no words.)
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._known_model = known_model
        self._registry = registry = prometheus.CollectorRegistry()
        self._series: dict[tuple[Api, str, str | None, Outcome], _Series] = {}

        def histogram(
            name: str, text: str, label: str, buckets: tuple[float, ...]
        ) -> prometheus.Histogram:
            labels = (*_LABELS, label) if label else _LABELS
            return prometheus.Histogram(
                name, text, labels, buckets=buckets, registry=registry
            )

        def counter(name: str, text: str) -> prometheus.Counter:
            return prometheus.Counter(name, text, _LABELS, registry=registry)

        self._duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to the last byte of its answer; error_type is empty where all went well.",
            "error_type",
            _DURATION,
        )
        self._first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first byte of a streamed answer.",
            "",
            _FIRST_TOKEN,
        )
        self._per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of streamed answers, for each output token after the first.",
            "",
            _PER_TOKEN,
        )
        self._tokens = histogram(
            "gen_ai_client_token_usage",
            "Tokens that targets reported.",
            "gen_ai_token_type",
            _TOKENS,
        )
        self._cached = counter(
            "lemnos_cached_input_tokens", "Input tokens read from a target's cache."
        )
        self._unreported = counter(
            "lemnos_unreported_usage",
            "Answers whose target reported no usage: their tokens are counted nowhere.",
        )
        self._retries = counter(
            "lemnos_retries", "Times that a target was asked after another failed."
        )
        self._cost = counter("lemnos_cost_usd", "What targets asked for the requests.")
        self._compare = counter(
            "lemnos_compare_cost_usd",
            "What the cloud would have asked for the requests, wherever they were answered.",
        )

    def observe(self, entry: Entry) -> None:
        """Count a request that is over."""
        provider = entry.target if entry.target_kind == "cloud" else OWN
        labels = (entry.api, entry.model, provider, entry.outcome)
        series = self._series.get(labels) or self._find(labels)
        series.duration(entry.duration_s)
        if entry.ttft_s is not None:
            series.first_token(entry.ttft_s)
        if entry.tpot_s is not None:
            series.per_token(entry.tpot_s)
        if entry.attempts > 1:
            series.retries(entry.attempts - 1)
        if entry.input_tokens is not None:
            series.input(entry.input_tokens)
            series.output(entry.output_tokens or 0)
        elif entry.outcome == "ok" and entry.api != "tokenize":
            series.unreported(1)
        if entry.cached_tokens:
            series.cached(entry.cached_tokens)
        if entry.cost_usd:
            series.cost(entry.cost_usd)
        if entry.compare_usd:
            series.compare(entry.compare_usd)

    def gauge(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """A gauge that is read at each scrape: a value for each value of ``label``."""
        self._registry.register(_Gauge(name, text, label, read))

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The content type that the ``Accept`` header asks for, and all metrics in it."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return content_type, encode(self._registry)

    def _find(self, labels: tuple[Api, str, str | None, Outcome]) -> _Series:
        api, model, provider, outcome = labels
        known = self._known_model(model)
        named = (_OPERATIONS[api], model if known else UNKNOWN, provider or UNKNOWN)
        error = "" if outcome == "ok" else outcome
        series = _Series(
            duration=self._duration.labels(*named, error).observe,
            first_token=self._first_token.labels(*named).observe,
            per_token=self._per_token.labels(*named).observe,
            input=self._tokens.labels(*named, "input").observe,
            output=self._tokens.labels(*named, "output").observe,
            cached=self._cached.labels(*named).inc,
            unreported=self._unreported.labels(*named).inc,
            retries=self._retries.labels(*named).inc,
            cost=self._cost.labels(*named).inc,
            compare=self._compare.labels(*named).inc,
        )
        if known:
            self._series[labels] = series
        return series


class _Gauge(Collector):
    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def describe(self) -> list[GaugeMetricFamily]:
        """So that registering does not read it."""
        return [GaugeMetricFamily(self._name, self._text)]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The values now."""
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family
