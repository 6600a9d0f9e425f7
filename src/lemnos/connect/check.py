"""A real, small call for each model assignment: does it work, and who answered?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import orjson

from lemnos.connect import claude_code, documents, hephaestus
from lemnos.connect.access import Access, first_key
from lemnos.connect.backup import Entry
from lemnos.connect.documents import value_at

Api = Literal["chat", "messages", "embeddings"]
TARGET = "x-lemnos-target"
"""The gateway's header that names the target which answered."""

_PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
_ASK = [{"role": "user", "content": "Answer with one word: ready?"}]
_TOKENS = 8


@dataclass(frozen=True)
class Ask:
    """A call to make."""

    app: str
    use: str
    """What the client needs the model for: ``task_enrichment``, ``sonnet``."""
    api: Api
    url: str
    """Without ``/v1``."""
    model: str
    key: str | None = field(default=None, repr=False)
    dimensions: int | None = None
    """The length that the client needs its vectors to have."""
    problem: str = ""
    """Why there is no call to make."""


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    app: str
    use: str
    api: Api
    model: str
    target: str | None = None
    """Who answered; None where the endpoint does not say."""
    seconds: float | None = None
    said: str = ""
    """The beginning of the answer, or the length of the vector."""
    error: str = ""


def asks_of(entry: Entry, text: str, environ: Mapping[str, str]) -> list[Ask]:
    """The calls for a connected file, whose ``text`` this is: what its client would do."""
    data = documents.read(entry.kind, text, entry.path)
    key = first_key(Path(entry.key_file)) if entry.key_file else None
    if entry.app == "hephaestus":
        return _of_hephaestus(data, environ, key)
    if entry.app == "claude-code":
        url, models = claude_code.assignments(data)
        token = value_at(data, ("env", "ANTHROPIC_AUTH_TOKEN"))
        key = key or (token if isinstance(token, str) else None)
        return [
            _ask("claude-code", *one, "messages", url, key) for one in models.items()
        ]
    url = str(data.get("OPENAI_BASE_URL", ""))
    key = str(data.get("OPENAI_API_KEY", ""))
    made = [_ask(entry.app, "chat", entry.model, "chat", url, key)]
    if entry.embedding_model:
        made.append(
            _ask(entry.app, "embeddings", entry.embedding_model, "embeddings", url, key)
        )
    return made


def asks_for(access: Access, models: list[str]) -> list[Ask]:
    """The calls for an endpoint alone: each of its models."""
    key = access.key()
    made = [_ask("-", "chat", model, "chat", access.url, key) for model in models]
    if name := access.embedding_model:
        made.append(_ask("-", "embeddings", name, "embeddings", access.url, key))
    return made


def make(ask: Ask, *, timeout_s: float = 120.0) -> Answer:
    """Make the call. Whatever goes wrong is the Answer's ``error``, a sentence."""
    named: dict[str, Any] = {
        "app": ask.app, "use": ask.use, "api": ask.api, "model": ask.model,
    }  # fmt: skip
    if ask.problem:
        return Answer(**named, error=ask.problem)
    headers = {"authorization": f"Bearer {ask.key}"} if ask.key else {}
    if ask.api == "messages":
        headers["anthropic-version"] = "2023-06-01"
    began = time.monotonic()
    try:
        response = httpx2.post(
            ask.url + _PATHS[ask.api],
            json=body_of(ask),
            headers=headers,
            timeout=httpx2.Timeout(timeout_s, connect=10.0),
            # A proxy for the outside world has nothing to do with an endpoint on loopback.
            trust_env="//127." not in ask.url and "//localhost" not in ask.url,
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
        return Answer(**named, error=f"{ask.url} does not answer: {why}")
    named["seconds"] = round(time.monotonic() - began, 3)
    named["target"] = response.headers.get(TARGET)
    said, wrong = read_answer(ask, response.status_code, response.content)
    return Answer(**named, said=said, error=wrong)


def body_of(ask: Ask) -> dict[str, Any]:
    """A request as small as can be."""
    if ask.api == "embeddings":
        return {"model": ask.model, "input": "ready?"}
    return {"model": ask.model, "messages": _ASK, "max_tokens": _TOKENS}


def read_answer(ask: Ask, status: int, content: bytes) -> tuple[str, str]:
    """What was said, and what is wrong: one of them is empty. Pure."""
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        data = None
    if status != 200:
        return "", f"answered {status}: {_reason(data, content)}"
    try:
        if ask.api == "chat":
            return _beginning(data["choices"][0]["message"].get("content")), ""
        if ask.api == "messages":
            texts = [block.get("text", "") for block in data["content"]]
            return _beginning("".join(texts)), ""
        length = len(data["data"][0]["embedding"])
    except (LookupError, TypeError, AttributeError):
        return (
            "",
            f"answered what is none: {_beginning(content.decode(errors='replace'))}",
        )
    if ask.dimensions not in (None, length):
        return "", f"gives {length} numbers, and {ask.app} needs {ask.dimensions}"
    return f"{length} numbers", ""


def _of_hephaestus(
    data: Mapping[str, Any], environ: Mapping[str, str], key: str | None
) -> list[Ask]:
    variable = hephaestus.key_variable(data)
    key = environ.get(variable) or key
    made = []
    for component, (provider, url, model) in hephaestus.assignments(
        data, environ
    ).items():
        problem = ""
        if provider != "openrouter":
            problem = f"it goes to '{provider or 'no provider'}', past the endpoint"
        made.append(_ask("hephaestus", component, model, "chat", url, key, problem))
    return made


def _ask(
    app: str,
    use: str,
    model: str,
    api: Api,
    url: str,
    key: str | None,
    problem: str = "",
) -> Ask:
    if not problem and not url:
        problem = "it has no URL of its own, so it goes past the endpoint"
    if not problem and not model:
        problem = "it has no model"
    url = url.rstrip("/").removesuffix("/v1")
    return Ask(app, use, api, url, model, key, problem=problem)


def _reason(data: Any, content: bytes) -> str:
    error = data.get("error") if isinstance(data, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or content[:200].decode(errors="replace"))


def _beginning(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= 40 else f"{words[:39]}…"
