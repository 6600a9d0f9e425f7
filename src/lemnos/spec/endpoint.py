"""What a deployment's ``endpoint`` and ``gateway.yaml`` have in common: clouds, prices, URLs."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lemnos.spec.base import Value
from lemnos.spec.targets import Api, Policy, Price

PROTOCOLS: dict[str, tuple[Api, ...]] = {
    "chat": ("chat",),
    "messages": ("messages",),
}
"""What a URL that speaks OpenAI's or Anthropic's protocol is taken to serve."""


def is_loopback(host: str) -> bool:
    """Whether only this machine's processes can reach ``host``."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _base_url(url: str) -> str:
    """``url`` without ``/v1``; ValueError for one that is no plain http(s) URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write a URL such as http://10.0.0.5:8000")
    if parts.username or parts.password:
        raise ValueError("holds a user or a password: use key_file or key_env")
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no '?' or '#'")
    return url.rstrip("/").removesuffix("/v1")


def _day(value: object) -> object:
    """YAML reads 2026-11-21 as a date."""
    return value.isoformat() if isinstance(value, datetime.date) else value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
Day = Annotated[str, BeforeValidator(_day), Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Seconds = Annotated[float, Field(gt=0)]


class WrittenPrice(Value):
    """US dollars per million tokens, as a person or a preset gives them."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float, Field(ge=0)] | None = None
    as_of: Day
    """The day on which it was read."""

    def price(self) -> Price:
        """As the table has it."""
        return Price(**self.model_dump())


class Server(Value):
    """What every target that is written down may say, near or far."""

    name: str | None = None
    """For metrics, ``drain`` and the ledger; made from the URL or the provider by default."""
    model: str | None = None
    """What the target calls the model; as clients do by default."""
    apis: tuple[Api, ...] | None = None
    key_file: str | None = None
    """The file with the key that the target wants."""
    key_env: str | None = None
    """Or the gateway's environment variable with it."""
    key_header: Literal["authorization", "x-api-key"] | None = None
    headers: dict[str, str] = {}
    """Sent with each request; nothing secret."""
    connect_s: Seconds | None = None
    first_byte_s: Seconds | None = None
    idle_s: Seconds | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Server:
        if self.key_file and self.key_env:
            raise ValueError("give key_file or key_env, not both")
        secret = {"authorization", "x-api-key", "cookie"} & {
            name.lower() for name in self.headers
        }
        if secret:
            raise ValueError(
                f"headers may not hold {min(secret)}: use key_file or key_env"
            )
        return self


class CloudSpec(Server):
    """A cloud behind the endpoint: ``{provider: openrouter, model: z-ai/glm-4.6}``, or a URL."""

    provider: str | None = None
    """A preset: novita, openai, anthropic, openrouter, zai."""
    url: BaseUrl | None = None
    protocol: Literal["chat", "messages"] | None = None
    """What ``url`` speaks: OpenAI's chat completions or Anthropic's messages."""
    price: WrittenPrice | None = None
    """The preset's by default."""

    @model_validator(mode="after")
    def _provider_or_url(self) -> CloudSpec:
        if bool(self.provider) == bool(self.url):
            raise ValueError("give a provider, or a url with its protocol")
        if self.url and not (self.protocol or self.apis):
            raise ValueError("a url needs its protocol: chat or messages")
        if self.provider and self.protocol:
            raise ValueError("a provider's protocol is known: drop protocol")
        return self


def check_policy(
    policy: Policy, within_ms: float | None, *, cloud: bool, local: bool = True
) -> None:
    """ValueError where policy, threshold and targets do not go together."""
    if policy == "local-within" and within_ms is None:
        raise ValueError("policy local-within needs within_ms")
    if within_ms is not None and policy != "local-within":
        raise ValueError(f"within_ms is for policy local-within, not {policy}")
    if policy == "local-within" and not (local and cloud):
        raise ValueError("policy local-within needs local targets and cloud")
    if policy == "cloud-first" and not cloud:
        raise ValueError("policy cloud-first needs cloud")
