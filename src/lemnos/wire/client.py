"""A small client, sync and async, for scripts, tests and ``lemnos chat``.

>>> with Client() as client:                        # http://127.0.0.1:5366
...     client.generate("The capital of France is", max_tokens=5)
...     client.chat("Hello").text
...     for piece in client.stream("Tell me a story"): ...

Anything that speaks OpenAI's protocol will do. Errors are LemnosError, with the server's
own message. What is sent and how answers are read is decided by pure functions that both
clients share.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2
import orjson

from lemnos.errors import LemnosError
from lemnos.spec.deployment import DEFAULT_PORT
from lemnos.wire.sse import Event, Parser

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"

Messages = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    output_tokens: int
    raw: dict[str, Any]
    """The server's JSON, whole."""


class _Base:
    """What both clients know."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """``base_url`` with or without ``/v1``; ``model`` is the endpoint's first by default."""
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "timeout": httpx2.Timeout(timeout_s, connect=10.0),
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            # A proxy for the outside world has nothing to do with an endpoint on loopback.
            "trust_env": "//127." not in base_url and "//localhost" not in base_url,
        }


class Client(_Base):
    """The sync client; a context manager."""

    def __init__(self, base_url: str = DEFAULT_URL, **options: Any) -> None:
        """Options: ``model``, ``api_key``, ``timeout_s``."""
        super().__init__(base_url, **options)
        self._http = httpx2.Client(**self._options)

    def models(self) -> list[str]:
        """The names that can be asked for."""
        return _names(self._send("GET", "/v1/models"))

    def generate(self, prompt: str, **options: Any) -> str:
        """The continuation of ``prompt``; options as ``max_tokens``, ``temperature``, ``seed``."""
        body = {"model": self._model(), "prompt": prompt, **options}
        return _text(self._send("POST", "/v1/completions", body))

    def chat(self, messages: Messages, **options: Any) -> Completion:
        """The answer to a message or a conversation."""
        body = _chat_body(self._model(), messages, options)
        return _completion(self._send("POST", "/v1/chat/completions", body))

    def stream(self, messages: Messages, **options: Any) -> Iterator[str]:
        """The answer, piece by piece."""
        body = _chat_body(self._model(), messages, {**options, "stream": True})
        parser = Parser()
        request = self._http.stream("POST", "/v1/chat/completions", json=body)
        try:
            with request as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(response, self.base_url)
                for chunk in response.iter_bytes():
                    for event in parser.feed(chunk):
                        yield _piece(event, self.base_url)
        except httpx2.HTTPError as error:
            raise _unreachable(error, self.base_url) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _model(self) -> str:
        if self.model is None:
            self.model = self.models()[0]
        return self.model

    def _send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise _unreachable(error, self.base_url) from None
        return _parsed(response, self.base_url)


class AsyncClient(_Base):
    """The async client; an async context manager. Methods as Client's."""

    def __init__(self, base_url: str = DEFAULT_URL, **options: Any) -> None:
        """Options: ``model``, ``api_key``, ``timeout_s``."""
        super().__init__(base_url, **options)
        self._http = httpx2.AsyncClient(**self._options)

    async def models(self) -> list[str]:
        """The names that can be asked for."""
        return _names(await self._send("GET", "/v1/models"))

    async def generate(self, prompt: str, **options: Any) -> str:
        """The continuation of ``prompt``; options as ``max_tokens``, ``temperature``, ``seed``."""
        body = {"model": await self._model(), "prompt": prompt, **options}
        return _text(await self._send("POST", "/v1/completions", body))

    async def chat(self, messages: Messages, **options: Any) -> Completion:
        """The answer to a message or a conversation."""
        body = _chat_body(await self._model(), messages, options)
        return _completion(await self._send("POST", "/v1/chat/completions", body))

    async def stream(self, messages: Messages, **options: Any) -> AsyncIterator[str]:
        """The answer, piece by piece."""
        body = _chat_body(await self._model(), messages, {**options, "stream": True})
        parser = Parser()
        request = self._http.stream("POST", "/v1/chat/completions", json=body)
        try:
            async with request as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refused(response, self.base_url)
                async for chunk in response.aiter_bytes():
                    for event in parser.feed(chunk):
                        yield _piece(event, self.base_url)
        except httpx2.HTTPError as error:
            raise _unreachable(error, self.base_url) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _model(self) -> str:
        if self.model is None:
            self.model = (await self.models())[0]
        return self.model

    async def _send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise _unreachable(error, self.base_url) from None
        return _parsed(response, self.base_url)


def _chat_body(
    model: str, messages: Messages, options: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"model": model, "messages": messages, **options}


def _parsed(response: httpx2.Response, url: str) -> dict[str, Any]:
    if response.status_code != 200:
        raise _refused(response, url)
    try:
        data = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        raise _strange(url, response.text)
    return data


def _names(data: dict[str, Any]) -> list[str]:
    names = [str(card.get("id")) for card in data.get("data", [])]
    if not names:
        raise LemnosError("the endpoint has no models", fix="`lemnos ps` says why")
    return names


def _text(data: dict[str, Any]) -> str:
    try:
        return str(data["choices"][0]["text"])
    except (LookupError, TypeError):
        raise _strange("", str(data)) from None


def _completion(data: dict[str, Any]) -> Completion:
    try:
        choice = data["choices"][0]
        usage = data.get("usage") or {}
        return Completion(
            text=choice["message"].get("content") or "",
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens", 0),
            output_tokens=usage.get("completion_tokens", 0),
            raw=data,
        )
    except (LookupError, TypeError, AttributeError):
        raise _strange("", str(data)) from None


def _piece(event: Event, url: str) -> str:
    """The text in one event of a stream; empty for those without."""
    if event.data == "[DONE]":
        return ""
    try:
        data = orjson.loads(event.data)
        if "error" in data:
            raise LemnosError(_message(data), where=url)
        choices = data.get("choices") or [{}]
        return str(choices[0].get("delta", {}).get("content") or "")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise _strange(url, event.data) from None


def _refused(response: httpx2.Response, url: str) -> LemnosError:
    try:
        message = _message(orjson.loads(response.content))
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        message = response.text[:200]
    fix = (
        "give the key: --api-key-file, or api_key="
        if response.status_code == 401
        else ""
    )
    return LemnosError(
        f"answered {response.status_code}: {message}", where=url, fix=fix
    )


def _message(data: dict[str, Any]) -> str:
    error = data["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def _strange(url: str, text: str) -> LemnosError:
    return LemnosError(f"answered what is no completion: {text[:200]}", where=url)


def _unreachable(error: httpx2.HTTPError, url: str) -> LemnosError:
    if isinstance(error, httpx2.ConnectError):
        return LemnosError(
            "nothing answers",
            where=url,
            fix="`lemnos ps` shows what runs, `lemnos up` starts a model",
        )
    return LemnosError(f"broke off: {str(error) or type(error).__name__}", where=url)
