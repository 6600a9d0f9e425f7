"""Errors of a target, in the protocol that the client speaks."""

from __future__ import annotations

from typing import Any

import orjson

from lemnos.wire.errors import Protocol, error_body
from lemnos.wire.translate.common import Json

MOST_TEXT = 500
"""Characters of an error that is no JSON (a proxy's page) that a client gets to see."""

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 503,
}
"""By the types that both protocols name; in a stream there is no status but this."""


def error_answer(body: bytes, status: int, to: Protocol) -> bytes:
    """The JSON body of an error that a target answered with ``status``, for a client that speaks ``to``.

    OpenAI's ``code`` and ``param`` are kept where both speak OpenAI's protocol. 529, with
    which Anthropic says that it is overloaded, is 503 by type.
    """
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = body.decode("utf-8", "replace").strip()[:MOST_TEXT]
    message = _message(told) or f"the target answered with status {status}"
    error = told.get("error") if isinstance(told, dict) else None
    extra = {}
    if to == "openai" and isinstance(error, dict):
        extra = {k: v for k in ("code", "param") if isinstance(v := error.get(k), str)}
    return error_body(to, 503 if status == 529 else status, message, **extra)


def error_in(data: Json) -> tuple[int, str] | None:
    """The status and the message of an event of a stream that is an error; None if it is none.

    ``{"error": {...}}`` in both protocols, ``{"object": "error", ...}`` of older engines.
    """
    error = data.get("error")
    if not error and data.get("object") != "error" and data.get("type") != "error":
        return None
    error = error if isinstance(error, dict) else data
    status = error.get("code")
    if not isinstance(status, int) or not 400 <= status < 600:
        status = _STATUS.get(str(error.get("type")), 502)
    return status, _message(data) or "the target broke the answer off"


def _message(told: Any) -> str:
    """What an error says, wherever that stands: OpenAI, Anthropic, older engines, FastAPI, plain text."""
    if isinstance(told, str):
        return told
    if isinstance(told, list):
        return "; ".join(filter(None, map(_message, told)))
    if not isinstance(told, dict):
        return ""
    places = (told.get(key) for key in ("error", "message", "detail", "msg"))
    return next(filter(None, map(_message, places)), "")
