"""An OpenAI chat/completions request as an Anthropic Messages request."""

from __future__ import annotations

import re
from typing import Any

import orjson

from lemnos.errors import UsageError
from lemnos.wire.translate.common import (
    Json,
    Untranslatable,
    fold_system,
    plain_text,
    present,
    reading,
    refuse,
)
from lemnos.wire.translate.thinking import (
    NO_SAMPLING,
    Version,
    claude,
    messages_thinking,
)

DEFAULT_MAX_TOKENS = 32_000
"""Messages must name a limit, where chat has the model's own. Every Claude model since 4.1
writes at least so much (Anthropic's models overview)."""

_OFF: tuple[Any, ...] = (False, 0, [], {}, "")
UNSAYABLE: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "ebnf": _OFF,
    "echo": _OFF,
    "function_call": ("none",),
    "functions": _OFF,
    "grammar": _OFF,
    "guided_choice": _OFF,
    "guided_grammar": _OFF,
    "guided_json": _OFF,
    "guided_regex": _OFF,
    "ignore_eos": _OFF,
    "json_schema": _OFF,
    "logit_bias": _OFF,
    "logprobs": _OFF,
    "min_tokens": _OFF,
    "modalities": (["text"],),
    "moderation": _OFF,
    "n": (1,),
    "prompt_logprobs": _OFF,
    "regex": _OFF,
    "stop_token_ids": _OFF,
    "structured_outputs": _OFF,
    "top_logprobs": _OFF,
    "web_search_options": (),
}
"""Keys that Messages has nothing for and that change what an answer holds, with the values
that ask for nothing; OpenAI's, vLLM's, SGLang's and llama.cpp's."""

_FOREIGN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_DATA_URI = re.compile(r"data:([^;,]+);base64,")


@reading("the chat request", UsageError)
def messages_request(request: Json, model: str | None = None) -> Json:
    """A Messages request that asks for the same as a chat/completions request.

    ``model`` is what the target calls the model; as the client does by default. What a
    Claude model takes of thinking and sampling depends on its version. Raises Untranslatable, and UsageError for what is no chat request.
    """
    refuse(request, UNSAYABLE, "anthropic")
    model = model or str(request["model"])
    max_tokens = request.get("max_completion_tokens") or request.get("max_tokens")
    system, turns = _turns(request["messages"])
    messages: Json = {
        "model": model,
        "max_tokens": max_tokens or DEFAULT_MAX_TOKENS,
        "messages": turns,
    }
    if system:
        messages["system"] = system
    if stop := request.get("stop"):
        messages["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if user := request.get("safety_identifier") or request.get("user"):
        messages["metadata"] = {"user_id": user}
    if request.get("stream"):
        messages["stream"] = True
    messages |= _tools(request)
    messages |= _thinking(request, messages)
    messages |= _sampling(request, claude(model), "thinking" in messages)
    if form := _answer_format(request.get("response_format")):
        messages["output_config"] = messages.get("output_config", {}) | form
    return messages


def _turns(messages: list[Json]) -> tuple[str, list[Json]]:
    """The system prompt, and turns that alternate: tool results begin the user's next one."""
    said = [_message(m, f"messages[{n}]") for n, m in enumerate(messages)]
    system, said = fold_system(said)
    turns: list[Json] = []
    for message in said:
        blocks = _blocks(message["content"])
        if not blocks:
            continue
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": message["role"], "content": blocks})
    return system, turns


def _message(message: Json, key: str) -> Json:
    content = message.get("content")
    match message["role"]:
        case "system" | "developer":
            text = plain_text(content, f"{key}.content", "anthropic")
            return {"role": "system", "content": text}
        case "user":
            return {"role": "user", "content": _parts(content, f"{key}.content")}
        case "assistant":
            return {"role": "assistant", "content": _assistant(message, key)}
        case "tool":
            return {"role": "user", "content": [_tool_result(message, key)]}
        case role:
            raise Untranslatable(f"{key}.role", "anthropic", what=repr(role))


def _blocks(content: Any) -> list[Json]:
    """A list of its own, less blank texts, which Anthropic refuses."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [b for b in content if b["type"] != "text" or b["text"].strip()]


def _parts(content: Any, key: str) -> list[Json]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    return [_part(part, f"{key}[{number}]") for number, part in enumerate(content)]


def _part(part: Json, key: str) -> Json:
    """``cache_control`` is what OpenRouter and LiteLLM let chat clients mark parts with."""
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]} | present(part, "cache_control")
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "image_url":
        image = {"type": "image", "source": _image_source(part["image_url"], key)}
        return image | present(part, "cache_control")
    raise Untranslatable(key, "anthropic", what=repr(kind))


def _image_source(image: Any, key: str) -> Json:
    url = image if isinstance(image, str) else image["url"]
    if found := _DATA_URI.match(url):
        data = url[found.end() :]
        return {"type": "base64", "media_type": found.group(1), "data": data}
    if url.startswith(("http://", "https://")):
        return {"type": "url", "url": url}
    raise Untranslatable(
        f"{key}.image_url", "anthropic", what="what is no URL of an image"
    )


def _assistant(message: Json, key: str) -> list[Json]:
    for name in ("audio", "function_call"):
        if message.get(name):
            raise Untranslatable(f"{key}.{name}", "anthropic")
    blocks = _signed_thoughts(message)
    blocks += _parts(message.get("content"), f"{key}.content")
    for number, call in enumerate(message.get("tool_calls") or ()):
        blocks.append(_tool_use(call, f"{key}.tool_calls[{number}]"))
    return blocks


def _signed_thoughts(message: Json) -> list[Json]:
    """Thinking that Anthropic will take back: what it signed or encrypted, as chat_answer gave it out.

    Reasoning without its signature is refused, and is left out.
    """
    blocks: list[Json] = []
    for detail in message.get("reasoning_details") or ():
        if detail["type"] == "reasoning.encrypted":
            blocks.append({"type": "redacted_thinking", "data": detail["data"]})
        elif detail["type"] == "reasoning.text" and detail.get("signature"):
            signature, text = detail["signature"], detail.get("text") or ""
            thought = {"type": "thinking", "thinking": text, "signature": signature}
            blocks.append(thought)
    return blocks


def _tool_use(call: Json, key: str) -> Json:
    if call.get("type", "function") != "function":
        raise Untranslatable(key, "anthropic", what=repr(call["type"]))
    function = call["function"]
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        what = "what is no JSON object"
        raise Untranslatable(f"{key}.function.arguments", "anthropic", what=what)
    use = {"type": "tool_use", "id": _id(call["id"]), "name": function["name"]}
    return use | {"input": arguments}


def _id(name: str) -> str:
    """Anthropic refuses ids such as ``functions.get_weather:0``, which some models must have."""
    return _FOREIGN_ID.sub("_", name)


def _tool_result(message: Json, key: str) -> Json:
    result: Json = {"type": "tool_result", "tool_use_id": _id(message["tool_call_id"])}
    content = message.get("content")
    if isinstance(content, str):
        return result | ({"content": content} if content else {})
    return result | {"content": _blocks(_parts(content, f"{key}.content"))}


def _tools(request: Json) -> Json:
    """``tools`` and ``tool_choice``. Messages takes no choice without tools."""
    if not request.get("tools"):
        return {}
    tools = [_tool(t, n) for n, t in enumerate(request["tools"])]
    choice = request.get("tool_choice") or "auto"
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = {tool["function"]["name"] for tool in allowed["tools"]}
        tools = [tool for tool in tools if tool["name"] in names]
        choice = allowed["mode"]
    told = _tool_choice(choice)
    if request.get("parallel_tool_calls") is False and told["type"] != "none":
        told["disable_parallel_tool_use"] = True
    return {"tools": tools} | (
        {} if told == {"type": "auto"} else {"tool_choice": told}
    )


def _tool_choice(choice: Any) -> Json:
    if isinstance(choice, str):
        kinds = {"auto": "auto", "required": "any", "none": "none"}
        return {"type": kinds[choice]}
    if choice["type"] == "function":
        return {"type": "tool", "name": choice["function"]["name"]}
    raise Untranslatable("tool_choice", "anthropic", what=repr(choice["type"]))


def _tool(tool: Json, number: int) -> Json:
    if tool["type"] != "function":
        raise Untranslatable(f"tools[{number}]", "anthropic", what=repr(tool["type"]))
    function = tool["function"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    told = {"name": function["name"], "input_schema": schema}
    told |= present(function, "description", "strict")
    return told | present(tool, "cache_control")


def _thinking(request: Json, messages: Json) -> Json:
    """Thinking, unless the tools or the history forbid it (Anthropic answers 400 to both)."""
    thinking = messages_thinking(request, messages["model"], messages["max_tokens"])
    kind = thinking.get("thinking", {}).get("type")
    if kind in (None, "disabled"):
        return thinking
    forced = messages.get("tool_choice", {}).get("type") in ("any", "tool")
    if forced or (kind == "enabled" and _unsigned_calls(messages["messages"])):
        del thinking["thinking"]
    return thinking


def _unsigned_calls(turns: list[Json]) -> bool:
    """Whether tool results answer calls that do not begin with thinking, as budgets demand."""
    if len(turns) < 2 or turns[-1]["content"][0]["type"] != "tool_result":
        return False
    first = turns[-2]["content"][0]["type"]
    return first not in ("thinking", "redacted_thinking")


def _sampling(request: Json, version: Version | None, thinking: bool) -> Json:
    """What the model takes of temperature, top_p and top_k; Claude models refuse the rest.

    Newer ones take none, thinking goes with none, and of temperature and top_p one is taken.
    """
    if version and (version >= NO_SAMPLING or thinking):
        return {}
    told = present(request, "temperature", "top_p")
    if "temperature" in told:
        told["temperature"] = min(told["temperature"], 1.0)
        if version:
            told.pop("top_p", None)
    if (request.get("top_k") or 0) > 0:
        told["top_k"] = request["top_k"]
    return told


def _answer_format(told: Json | None) -> Json:
    if not told or told["type"] == "text":
        return {}
    if told["type"] != "json_schema":
        raise Untranslatable("response_format", "anthropic", what=repr(told["type"]))
    schema = told["json_schema"].get("schema") or {"type": "object"}
    return {"format": {"type": "json_schema", "schema": schema}}
