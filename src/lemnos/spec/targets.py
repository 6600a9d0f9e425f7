"""The targets table: what deployments and ``gateway.yaml`` become, and the gateway watches.

It lives in one JSON file that is replaced as a whole. It holds no secret: a target names
the file or the variable that holds its key, and clients' keys are kept as SHA-256 digests.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lemnos.spec.base import Value

TARGETS_VERSION = 2

Api = Literal["chat", "completions", "embeddings", "messages", "responses", "tokenize"]
"""A family of endpoints that a target has or lacks: ``messages`` is Anthropic's, with its
count_tokens; ``tokenize`` has detokenize too."""

ENGINE_APIS: tuple[Api, ...] = (
    "chat",
    "completions",
    "embeddings",
    "messages",
    "responses",
    "tokenize",
)
"""What vLLM, SGLang and llama.cpp serve (an engine says 404 to what its version lacks)."""

GROUP_APIS: tuple[Api, ...] = ("chat", "completions")
"""What a prefill/decode group serves: smg 1.13 has no embeddings and no /tokenize in this mode,
and keeps an engine's answers apart from the others'. Messages are translated."""

DYNAMO_APIS: tuple[Api, ...] = ("chat", "completions", "embeddings", "responses")
"""What Dynamo's frontend serves; it refuses Anthropic's messages by default, and has no /tokenize."""

Policy = Literal["local-first", "cloud-first", "cheapest", "local-within"]
"""Which targets are asked first. ``local-within``: local ones, but the cloud where they would
let a request wait for its first token longer than ``within_ms``."""


class Price(Value):
    """What a provider asks, in US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float, Field(ge=0)] | None = None
    """Prompt tokens read from the provider's cache; ``input`` where not given."""
    as_of: str
    """The day on which it was read, ``2026-11-21``."""

    def cost(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> float:
        """US dollars; ``cached_tokens`` are among ``input_tokens``."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = input_tokens - cached_tokens
        micro = (
            fresh * self.input + cached_tokens * cached + output_tokens * self.output
        )
        return micro / 1e6


class Target(Value):
    """One place that a request may be sent to."""

    name: str
    """Unique within a table."""
    kind: Literal["replica", "cloud"] = "replica"
    base_url: str
    """Without the ``/v1``: ``http://127.0.0.1:41827``."""
    root: str = "/v1"
    """What stands between ``base_url`` and ``/chat/completions``; a few providers have no /v1."""
    key_file: str | None = None
    """The file with the key that this target wants."""
    key_env: str | None = None
    """Or the gateway's environment variable with it."""
    key_header: Literal["authorization", "x-api-key"] = "authorization"
    headers: dict[str, str] = {}
    """Sent with each request; nothing secret."""
    model: str | None = None
    """What the target calls the model; as the client does by default."""
    apis: tuple[Api, ...] = ENGINE_APIS
    price: Price | None = None
    """None costs nothing: a replica of one's own."""
    dimensions: tuple[int, ...] | None = None
    """Lengths that an embedding model may be asked for, its own first; None leaves it to the target."""
    connect_s: Annotated[float, Field(gt=0)] = 5.0
    first_byte_s: Annotated[float, Field(gt=0)] = 600.0
    """A long prompt on a CPU takes minutes, and so does a long answer that is not streamed."""
    idle_s: Annotated[float, Field(gt=0)] = 120.0
    """Between two parts of an answer."""


class Route(Value):
    """A model's name, and the targets that serve it."""

    model: str
    aliases: tuple[str, ...] = ()
    """Other names that clients may ask for."""
    targets: tuple[Target, ...] = ()
    """Replicas, equal among themselves. Empty while none is ready: the gateway answers 503
    or asks the cloud."""
    registered: tuple[str, ...] = ()
    """Files of tables, written by deployments, whose replicas serve this route too."""
    cloud: tuple[Target, ...] = ()
    """In order of preference."""
    policy: Policy = "local-first"
    within_ms: Annotated[float, Field(gt=0)] | None = None
    created: int = 0
    """Epoch seconds, shown by ``/v1/models``."""
    context: int | None = None
    drop_billing_line: bool = True
    """Leave out the line with which Claude Code begins its system prompt, and which changes with
    every request, so that prefix caches hit."""
    compare: Price | None = None
    """What the cloud would ask, for the ledger; the first cloud target's price by default."""


class PrefillWorker(Value):
    """An engine that reads prompts and hands their cache on."""

    url: str
    bootstrap_port: int
    """Where decoding engines fetch it."""


class Router(Value):
    """A prefill/decode group's own router, which the gateway runs as its child on loopback.

    Its port is chosen when it starts; until it is ready, its target is asked nothing.
    """

    target: str
    """The name of the target that it stands behind, whose key it demands and sends to the
    group's engines."""
    kind: Literal["smg"] = "smg"
    program: str
    """The Python of the environment that has it."""
    prefill: Annotated[tuple[PrefillWorker, ...], Field(min_length=1)]
    decode: Annotated[tuple[str, ...], Field(min_length=1)]
    """Base URLs."""
    policy: str
    """As ``smg launch --policy`` has it."""


class ClientKey(Value):
    """A key that clients may use, and its limits; None is no limit."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    models: tuple[str, ...] | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    budget_usd: Annotated[float, Field(ge=0)] | None = None
    budget_days: Annotated[float, Field(gt=0)] = 30.0
    """The budget is for so many days back."""
    local_only: bool = False
    """Never spends money: lemnos's own key, with which it asks whether replicas are ready."""


class TargetTable(Value):
    """Everything that the gateway routes by; ``revision`` counts the tables written."""

    version: int = TARGETS_VERSION
    revision: int
    routes: tuple[Route, ...] = ()
    keys: tuple[ClientKey, ...] = ()
    """Empty: the endpoint is keyless, for its owner's processes on this machine alone, and never
    spends money."""
    routers: tuple[Router, ...] = ()
    """Started, watched and ended by the gateway."""
    drained: tuple[str, ...] = ()
    """Targets that get nothing new; what they serve goes on. A deployment's replica is
    ``glm/engine-0``."""
    log_requests: Literal["none", "metadata", "prompts"] = "metadata"
    """What is written of each request to the gateway's log; ``prompts`` has the texts too."""
