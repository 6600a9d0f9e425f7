"""Requests as bytes to a target, and its answers as the client gets them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from lemnos.errors import LemnosError
from lemnos.gateway.ask import Ask, Sent
from lemnos.gateway.exchange import Headers
from lemnos.spec.targets import Api, Target
from lemnos.wire.translate import (
    ChatStream,
    MessagesStream,
    chat_answer,
    error_answer,
    messages_answer,
)
from lemnos.wire.usage import Usage, usage_of

BIG = 256 * 1024
"""A larger answer (embeddings) is not parsed: its usage is looked for alone."""

# RFC 9110, 7.6.1; and what belongs to one leg of the way only. Encodings do: a compressed
# stream could not be ended with an error event.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    b"trailer transfer-encoding upgrade".split()
)
CREDENTIALS = frozenset(
    b"authorization x-api-key api-key x-goog-api-key cookie openai-organization "
    b"openai-project".split()
)
NOT_UPSTREAM = (
    HOP_BY_HOP
    | CREDENTIALS
    | frozenset(b"host content-length content-type origin referer".split())
    | frozenset(b"expect accept-encoding".split())
)
TO_CLOUDS = frozenset(
    b"accept anthropic-version anthropic-beta openai-beta idempotency-key".split()
)
"""All that a provider is told of a client; a network's own headers are not its business."""
NOT_DOWNSTREAM = HOP_BY_HOP | frozenset(
    b"server date content-length content-encoding set-cookie alt-svc strict-transport-security".split()
)
MODELLED: frozenset[Api] = frozenset(
    ("chat", "completions", "embeddings", "messages", "responses")
)
"""APIs whose successful answers are JSON objects."""


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header may be called (RFC 9110, 5.6.2)."""


class MalformedError(Exception):
    """A target said 200 to what is no answer."""


def request_bytes(
    method: str,
    path: str,
    authority: str,
    headers: Headers,
    target: Target,
    key: str | None,
    sent: Sent,
) -> bytes:
    """The request, whole: the client's headers less its credentials, with the target's key.

    Raises ValueError for a key or a header of the target's own that no header can hold.
    """
    lines = [
        b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n"
        % (method.encode(), path.encode("latin-1", "replace"), authority.encode())
    ]
    own = {_name(name): value for name, value in target.headers.items()}
    cloud = target.kind == "cloud"
    for name, value in headers:
        if name in own or name in NOT_UPSTREAM or (cloud and name not in TO_CLOUDS):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    for name, text in own.items():
        lines.append(b"%b: %b\r\n" % (name, _value(text)))
    if key:
        value = _value(key)
        if target.key_header == "authorization":
            value = b"Bearer " + value
        lines.append(b"%b: %b\r\n" % (target.key_header.encode(), value))
    if sent.body or method not in ("GET", "HEAD", "DELETE"):
        # It was read as JSON, whatever the client (curl -d, say) calls it; engines insist.
        lines.append(b"content-type: application/json\r\n")
        lines.append(b"content-length: %d\r\n" % len(sent.body))
    lines.append(b"\r\n")
    lines.append(sent.body)
    return b"".join(lines)


def _name(name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise ValueError("a header cannot be called so")
    return name.lower().encode()


def _value(text: str) -> bytes:
    if not text.isprintable():  # a line's end would begin a header of its own
        raise ValueError("a header cannot hold this")
    return text.encode("latin-1")


def downstream_headers(headers: Headers, target: str) -> Headers:
    """A target's headers as the client gets them, and which target it was."""
    kept = [
        (name, value)
        for name, value in headers
        if (low := name.lower()) not in NOT_DOWNSTREAM
        and not low.startswith(b"access-control-")
    ]
    kept.append((b"x-lemnos-target", _as_value(target)))
    return kept


@lru_cache(4096)
def _as_value(name: str) -> bytes:
    """A name as a header can hold it."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown.encode("latin-1", "replace")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A whole answer as the client gets it, and what it told."""

    body: bytes
    usage: Usage | None = None
    response_id: str | None = None


def whole_answer(ask: Ask, sent: Sent, status: int, body: bytes) -> Rewritten:
    """A whole answer: the same bytes unless its protocol or its model's name have to change.

    Raises MalformedError for a success that is none: no JSON, or an error's body.
    """
    if status >= 300:
        return Rewritten(error_from(ask, sent, status, body))
    if sent.api not in MODELLED or ask.method != "POST":
        return Rewritten(body)
    if len(body) > BIG and sent.api == ask.api:
        return Rewritten(_renamed(body, sent), _usage_in(sent.api, body))
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedError("answered 200 with what is not JSON") from None
    if not isinstance(answer, dict):
        raise MalformedError("answered 200 with what is no answer")
    if answer.get("error") is not None and sent.api != "responses":
        raise MalformedError("answered 200 with an error in it")
    usage = usage_of(sent.api, answer)
    answer_id = answer.get("id") if sent.api == "responses" else None
    response_id = answer_id if isinstance(answer_id, str) else None
    if sent.api != ask.api:
        return Rewritten(_translated(ask, answer), usage)
    return Rewritten(_renamed(body, sent), usage, response_id)


def _translated(ask: Ask, answer: dict[str, Any]) -> bytes:
    translate = messages_answer if ask.api == "messages" else chat_answer
    try:
        return orjson.dumps(translate(answer, ask.model))
    except LemnosError as error:
        raise MalformedError(error.what) from None


def stream_translator(ask: Ask, sent: Sent) -> MessagesStream | ChatStream | None:
    """What turns a target's stream into the client's protocol, if it is another one."""
    if ask.api == sent.api:
        return None
    if ask.api == "messages":
        return MessagesStream(ask.model)
    return ChatStream(ask.model, include_usage=ask.wants_usage)


def error_from(ask: Ask, sent: Sent, status: int, body: bytes) -> bytes:
    """A target's error in the client's protocol: the same bytes where it is the target's too."""
    if ask.api == sent.api:
        return body
    return error_answer(body, status, ask.protocol)


def _renamed(body: bytes, sent: Sent) -> bytes:
    if not sent.rename:
        return body
    theirs, ours = (
        re.escape(orjson.dumps(sent.rename[0])),
        orjson.dumps(sent.rename[1]),
    )
    return re.sub(
        rb'("model"\s*:\s*)' + theirs,
        lambda found: bytes(found[1]) + ours,
        body,
        count=1,
    )


def _usage_in(api: Api, body: bytes) -> Usage | None:
    """The usage of a large answer, without parsing the rest; it stands near the end or the start."""
    for near in (body[-4096:], body[:4096]):
        found = re.search(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})', near)
        if not found:
            continue
        try:
            usage: Any = orjson.loads(found[1])
        except orjson.JSONDecodeError:
            continue
        return usage_of(api, {"usage": usage})
    return None
