"""How much a model shall think: Anthropic's budgets and efforts, OpenAI's efforts, engines' switches."""

from __future__ import annotations

import re

from lemnos.wire.translate.common import Json, present

BUDGETS = {
    "minimal": 1_024,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 32_000,
    "max": 32_000,
}
"""Tokens of thinking by effort. Google's table for the same translation (Gemini API, OpenAI
compatibility: 1,024, 8,192 and 24,576); above it what Claude Code asks for at most (31,999)."""
LEAST_BUDGET = 1_024
"""What Anthropic takes at least."""

Version = tuple[int, int]
ADAPTIVE: Version = (4, 6)
"""The first Claude models that choose the length of their thinking, by effort (Anthropic's
migration guides); later ones refuse budgets."""
NO_SAMPLING: Version = (4, 7)
"""The first that refuse temperature, top_p and top_k (the same guides)."""
_NEWEST: Version = (99, 0)
_CLAUDE = re.compile(r"claude(?:-[a-z]+)*(?:-(\d+)(?:[-.](\d{1,2}))?(?!\d))?")


def claude(model: str) -> Version | None:
    """A Claude model's version: (4, 5) for ``claude-haiku-4-5-20251001``; None for others.

    A name without a number is one of the newest (``claude-mythos-preview``).
    """
    if not (found := _CLAUDE.search(model)):
        return None
    major, minor = found.groups()
    return (int(major), int(minor or 0)) if major else _NEWEST


def chat_thinking(request: Json, strict: bool) -> Json:
    """What a Messages request says of thinking, as keys of a chat request.

    Not ``strict``: as vLLM and SGLang take it, by the switches of chat templates (GLM and Qwen
    know ``enable_thinking``, DeepSeek ``thinking``; templates ignore what they do not know), and
    with an effort that their every release takes. vLLM's ``thinking_token_budget`` is not used:
    it is refused by servers that were started without a reasoning configuration.
    """
    thinking = request.get("thinking") or {}
    kind = thinking.get("type")
    effort = (request.get("output_config") or {}).get("effort")
    if kind == "enabled" and not effort:
        effort = _effort(int(thinking["budget_tokens"]))
    if kind == "disabled":
        effort = None
    if strict:
        return {"reasoning_effort": effort} if effort else {}
    chat: Json = {}
    if effort:
        chat["reasoning_effort"] = "high" if effort in ("xhigh", "max") else effort
    if kind:
        on = kind != "disabled"
        chat["chat_template_kwargs"] = {"enable_thinking": on, "thinking": on}
    return chat


def messages_thinking(request: Json, model: str, max_tokens: int) -> Json:
    """What a chat request says of thinking, as ``thinking`` and ``output_config`` of a Messages request.

    ``display`` asks for the text: newer models leave it out by default, and chat clients
    expect reasoning to be readable.
    """
    effort = request.get("reasoning_effort")
    switches = present(
        request.get("chat_template_kwargs") or {}, "enable_thinking", "thinking"
    )
    if effort == "none" or (switches and not any(switches.values())):
        return {"thinking": {"type": "disabled"}}
    if not effort and not switches:
        return {}
    version = claude(model)
    if version and version >= ADAPTIVE:
        thinking = {"thinking": {"type": "adaptive", "display": "summarized"}}
        level = "low" if effort == "minimal" else effort
        return thinking | ({"output_config": {"effort": level}} if level else {})
    # Half of the answer at most: the budget is part of max_tokens, and must be less.
    budget = min(BUDGETS.get(effort or "medium", BUDGETS["medium"]), max_tokens // 2)
    if budget < LEAST_BUDGET:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _effort(budget: int) -> str:
    if budget >= BUDGETS["high"]:
        return "high"
    return "medium" if budget >= BUDGETS["medium"] else "low"
