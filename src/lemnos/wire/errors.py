"""Errors in the form of the protocol that the client speaks."""

from __future__ import annotations

from typing import Literal

import orjson

Protocol = Literal["openai", "anthropic"]

# Of Anthropic's documented error types, by status; OpenAI's are named in `_OPENAI`.
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def protocol_of(path: str, anthropic_version: bool = False) -> Protocol:
    """The protocol that a request to ``path`` speaks; ``/v1/models`` is in both."""
    if path.startswith("/v1/messages") or anthropic_version:
        return "anthropic"
    return "openai"


def error_body(
    protocol: Protocol,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """The JSON body of an error. ``code`` and ``param`` exist in OpenAI's form only."""
    if protocol == "anthropic":
        kind = _ANTHROPIC.get(status, "api_error")
        error = {"type": kind, "message": message}
        return orjson.dumps({"type": "error", "error": error})
    kind = "invalid_request_error" if status < 500 else "server_error"
    kind = _OPENAI.get(status, kind)
    openai = {"message": message, "type": kind, "param": param, "code": code}
    return orjson.dumps({"error": openai})


def error_event(protocol: Protocol, status: int, message: str) -> bytes:
    """The event that ends a stream which broke: never a bare end of file."""
    body = error_body(protocol, status, message)
    if protocol == "anthropic":
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + body + b"\n\n"
