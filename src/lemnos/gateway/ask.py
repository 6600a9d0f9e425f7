"""What a client asks for, and what is sent to a target for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from lemnos.gateway.prompts import without_billing_line, without_own_dimensions
from lemnos.spec.targets import Api, Route, Target
from lemnos.wire.errors import Protocol
from lemnos.wire.translate import chat_request, messages_request

API_OF: dict[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages",
    "/v1/responses": "responses",
    "/tokenize": "tokenize",
    "/detokenize": "tokenize",
}
PATH_OF: dict[Api, str] = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
"""Where the APIs are that others are translated to."""
TRANSLATED: dict[Api, Api] = {"messages": "chat", "chat": "messages"}
"""What a request is translated to where a target lacks its API."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that was read and whose model is known."""

    path: str
    query: str
    api: Api
    protocol: Protocol
    route: Route
    model: str
    """As the client names it: the route's model, or an alias."""
    request: dict[str, Any]
    body: bytes
    streamed: bool
    method: str = "POST"

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for a stream's usage."""
        return _asks_usage(self.request)


def read_ask(
    path: str,
    query: str,
    protocol: Protocol,
    route: Route,
    request: dict[str, Any],
    body: bytes,
) -> Ask:
    """A request as it will be sent on: without the line that defeats prefix caches."""
    api = API_OF[path]
    model = request.get("model") or route.model
    if route.drop_billing_line and b"x-anthropic-billing-header" in body:
        if without := without_billing_line(request):
            request, body = without, orjson.dumps(without)
    if _ambiguous(body):
        body = orjson.dumps(request)
    streamed = bool(request.get("stream"))
    return Ask(path, query, api, protocol, route, model, request, body, streamed)


def _ambiguous(body: bytes) -> bool:
    """Whether a target's parser may read another model than ours did: the one that was admitted
    and is paid for. The key may stand there twice, or with its letters (U+0064 to U+006F) escaped."""
    return body.count(b'"model"') > 1 or b"\\u006" in body


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as one target takes it."""

    path: str
    """With the query."""
    body: bytes
    api: Api
    drop_usage: bool
    """The usage was asked for by the gateway: its chunk is not the client's."""
    rename: tuple[str, str] | None
    """In answers, the target's name of the model becomes the client's."""


def speaks(target: Target, ask: Ask) -> bool:
    """Whether a target can be asked this, translated if need be."""
    if ask.api in target.apis:
        return True
    if ask.path.endswith("/count_tokens"):
        return False
    other = TRANSLATED.get(ask.api)
    return other is not None and other in target.apis


def prepare(ask: Ask, target: Target) -> Sent:
    """``ask`` for ``target``: the same bytes wherever nothing has to be changed.

    Raises UsageError (``Untranslatable``) where the target's protocol cannot say what is asked.
    """
    path, api, request, body = ask.path, ask.api, ask.request, ask.body
    name = target.model or ask.route.model
    if api not in target.apis:
        api = TRANSLATED[api]
        path, request, body = PATH_OF[api], _translated(api, request, target, name), b""
    named = request.get("model")
    if named is not None and named != name:
        request, body = {**request, "model": name}, b""
    if api == "embeddings" and (
        other := without_own_dimensions(target.dimensions, request)
    ):
        request, body = other, b""
    drop_usage = False
    if ask.streamed and api in ("chat", "completions") and not _asks_usage(request):
        request, body = _with_usage(request, body)
        drop_usage = api == ask.api
    if not body and ask.method == "POST":
        body = orjson.dumps(request)
    rename = (name, ask.model) if name != ask.model else None
    query = f"?{ask.query}" if ask.query else ""
    return Sent(path + query, body, api, drop_usage, rename)


def _translated(
    api: Api, request: dict[str, Any], target: Target, name: str
) -> dict[str, Any]:
    if api == "messages":
        return messages_request(request, name)
    # Engines take switches for thinking that clouds may refuse as unknown.
    return chat_request(request, name, strict=target.kind == "cloud")


def _asks_usage(request: dict[str, Any]) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _with_usage(request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """The request with ``include_usage``; spliced in where that leaves the rest as it is."""
    options = request.get("stream_options")
    if body and "stream_options" not in request:
        spliced = body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'
        return request, spliced
    known = options if isinstance(options, dict) else {}
    return {**request, "stream_options": {**known, "include_usage": True}}, b""
