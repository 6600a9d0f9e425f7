"""What the gateway changes in a request's body, and nothing else: pure functions.

Each gives the changed request, or None where nothing changes, so that the body's bytes can be
sent on as they came. The request that was given is never touched.
"""

from __future__ import annotations

import re
from typing import Any

Request = dict[str, Any]

_BILLING = re.compile(
    r"\A\s*x-anthropic-billing-header:"
    r"(?:[ \t]*[a-z_]+=[^;\s]*(?:;|(?=\s|\Z)))+"  # cc_version=2.1.304.cf9; cch=543cf;
    r"[ \t]*\s*",
    re.IGNORECASE,
)
"""Claude Code's first line, seen in 2.1.29 to 2.1.304. Its ``cch`` is a hash of the request, and so
differs in each one. Only its known fields are matched: a prompt that goes on behind them, even on
the same line, must never be lost, while an unknown form costs cache hits at the worst."""


def without_billing_line(request: Request) -> Request | None:
    """The request without Claude Code's billing line; None where there is none.

    It stands at the head of the system prompt: in ``system`` (a string, or the first text block),
    or in the first message, where that is a system or developer message. A block, message or
    ``system`` that held nothing else is left out.
    """
    if "system" in request and (kept := _without(request["system"])) is not None:
        rest = {key: value for key, value in request.items() if key != "system"}
        return {**request, "system": kept} if kept else rest
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        return None
    first = messages[0]
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return None
    kept = _without(first.get("content"))
    if kept is None:
        return None
    head = [{**first, "content": kept}] if kept else []
    return {**request, "messages": [*head, *messages[1:]]}


def embedding_refusal(
    dimensions: tuple[int, ...] | None, request: Request
) -> str | None:
    """Why a model that gives vectors of these lengths cannot do what is asked; None if it can.

    ``dimensions`` are a Target's: its own length first; None leaves the question to the target.
    """
    asked = request.get("dimensions")
    if asked is None or dimensions is None:
        return None
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        return "'dimensions' is not a whole number above 0"
    if asked in dimensions:
        return None
    own, *shorter = dimensions
    others = (
        f", or {_listed(shorter)} where asked" if shorter else " and no other length"
    )
    return f"this model gives vectors of {own} numbers{others}: {asked} cannot be had"


def without_own_dimensions(
    dimensions: tuple[int, ...] | None, request: Request
) -> Request | None:
    """The request without a ``dimensions`` that asks for the model's own length, which engines
    reject for models that cannot be shortened; None where there is no such key."""
    if not dimensions or "dimensions" not in request:
        return None
    if request["dimensions"] not in (None, dimensions[0]):
        return None
    return {key: value for key, value in request.items() if key != "dimensions"}


def _without(content: Any) -> Any:
    """A system prompt (text, or blocks) without the line, perhaps empty; None if it has none."""
    if isinstance(content, str):
        match = _BILLING.match(content)
        return content[match.end() :] if match else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return None
    text = content[0].get("text")
    if not isinstance(text, str) or not (match := _BILLING.match(text)):
        return None
    rest = text[match.end() :]
    return [*([{**content[0], "text": rest}] if rest else []), *content[1:]]


def _listed(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
