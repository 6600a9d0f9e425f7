"""Whole answers from one protocol to the other, and what streams share with them."""

from __future__ import annotations

import time
import uuid
from typing import Any

import orjson

from lemnos.errors import LemnosError
from lemnos.wire.translate.common import Json, reading

UNPARSED = "unparsed_arguments"
"""The one key of a tool's input whose arguments the model wrote as something else than a JSON
object: no schema has it, so the tool refuses it and the model hears why."""

_STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_BROKEN = ("abort", "error")
"""What engines say of an answer that they gave up."""


@reading("the target's answer", LemnosError)
def messages_answer(answer: Json, model: str) -> Json:
    """A chat completion as a Messages answer; ``model`` is the client's name for the model.

    The id stays the target's. Raises LemnosError for what is no answer.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    content: list[Json] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    calls = message.get("tool_calls") or []
    text = (message.get("content") or "") + (message.get("refusal") or "")
    # Models write a line feed between thoughts and calls.
    if text and (not text.isspace() or not (content or calls)):
        content.append({"type": "text", "text": text})
    content += [_tool_use(call) for call in calls]
    reason, sequence = stop_reason(choice, bool(calls), bool(message.get("refusal")))
    return {
        "id": answer.get("id") or new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": messages_usage(answer.get("usage") or {}),
    }


@reading("the target's answer", LemnosError)
def chat_answer(answer: Json, model: str, *, created: int | None = None) -> Json:
    """A Messages answer as a chat completion; ``created`` in epoch seconds, now by default.

    Thinking is ``reasoning_content``, as most servers have it, and once more in
    ``reasoning_details`` (OpenRouter's form) with the signatures without which Anthropic
    would not take it back. Raises LemnosError for what is no answer.
    """
    blocks = answer["content"]
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
    message["refusal"] = None
    calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
    if calls:
        message["tool_calls"] = calls
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    kinds = ("thinking", "redacted_thinking")
    secrets = [block for block in blocks if block["type"] in kinds]
    details = [
        d for n, block in enumerate(secrets) if (d := reasoning_detail(block, n))
    ]
    if details:
        message["reasoning_details"] = details
    choice = {"index": 0, "message": message, "logprobs": None}
    return {
        "id": answer.get("id") or new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()) if created is None else created,
        "model": model,
        "choices": [choice | finish_reason(answer)],
        "usage": chat_usage(answer["usage"]),
    }


def new_id(prefix: str) -> str:
    """An id for what a target gave none."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def stop_reason(choice: Json, called: bool, refused: bool) -> tuple[str, str | None]:
    """``stop_reason`` and ``stop_sequence`` of a chat choice that has finished.

    ``called``: it has tool calls (engines say ``stop`` where a tool was demanded). Which
    sequence stopped it is known from vLLM (``stop_reason``) and SGLang (``matched_stop``),
    where it is a string: numbers are tokens.
    """
    reason = choice.get("finish_reason")
    if reason in _BROKEN:
        raise LemnosError("the target gave its answer up")
    if refused:
        return "refusal", None
    if reason in _STOP_REASONS:
        return _STOP_REASONS[reason], None
    if called:
        return "tool_use", None
    for matched in (choice.get("stop_reason"), choice.get("matched_stop")):
        if isinstance(matched, str):
            return "stop_sequence", matched
    return "end_turn", None


def finish_reason(delta: Json) -> Json:
    """``finish_reason`` of what has ``stop_reason``, and vLLM's ``stop_reason`` for a stop sequence."""
    finish = {
        "finish_reason": _FINISH_REASONS.get(delta.get("stop_reason") or "", "stop")
    }
    if sequence := delta.get("stop_sequence"):
        finish["stop_reason"] = sequence
    return finish


def messages_usage(usage: Json) -> Json:
    """OpenAI's usage as Anthropic's, whose ``input_tokens`` are those outside the cache."""
    prompt = usage.get("prompt_tokens_details") or {}
    read = prompt.get("cached_tokens") or 0
    written = prompt.get("cache_write_tokens") or 0
    told = {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    details = usage.get("completion_tokens_details") or {}
    if thinking := details.get("reasoning_tokens"):
        told["output_tokens_details"] = {"thinking_tokens": thinking}
    return told


def chat_usage(usage: Json) -> Json:
    """Anthropic's usage as OpenAI's, whose ``prompt_tokens`` are all of them."""
    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    prompt = (usage.get("input_tokens") or 0) + read + written
    output = usage.get("output_tokens") or 0
    told = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    details = usage.get("output_tokens_details") or {}
    if thinking := details.get("thinking_tokens"):
        told["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return told


def reasoning_detail(block: Json, index: int) -> Json | None:
    """What lets Anthropic take a thinking block back; None where nothing is signed."""
    if block["type"] == "redacted_thinking":
        return {"type": "reasoning.encrypted", "data": block["data"], "index": index}
    if not block.get("signature"):
        return None
    text = {"type": "reasoning.text", "text": block["thinking"]}
    return text | {"signature": block["signature"], "index": index}


def _tool_use(call: Json) -> Json:
    function = call["function"]
    use = {"type": "tool_use", "id": call.get("id") or new_id("toolu")}
    return use | {"name": function["name"], "input": _input(function.get("arguments"))}


def _input(arguments: Any) -> Json:
    if isinstance(arguments, dict):
        return arguments
    try:
        parsed = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {UNPARSED: arguments}
    return parsed if isinstance(parsed, dict) else {UNPARSED: arguments}


def _call(block: Json) -> Json:
    arguments = orjson.dumps(block["input"]).decode()
    function = {"name": block["name"], "arguments": arguments}
    return {"id": block["id"], "type": "function", "function": function}
