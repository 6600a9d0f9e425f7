"""An Anthropic Messages request as an OpenAI chat/completions request."""

from __future__ import annotations

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
from lemnos.wire.translate.thinking import chat_thinking

UNSAYABLE: dict[str, tuple[Any, ...]] = {
    "container": (),
    "inference_geo": (),
    "mcp_servers": ([],),
}
"""Keys that chat/completions has nothing for, with the values that ask for nothing."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@reading("the Messages request", UsageError)
def chat_request(
    request: Json, model: str | None = None, *, strict: bool = False
) -> Json:
    """A chat/completions request that asks for the same as a Messages request.

    ``model`` is what the target calls the model; as the client does by default. ``strict`` uses OpenAI's own keys only, for targets that refuse others (OpenAI's cloud);
    otherwise also what engines and most clouds take: ``top_k``, ``chat_template_kwargs``,
    reasoning of earlier answers, an answer to be continued. A streamed request asks for
    usage, which a Messages stream always tells. Raises Untranslatable, and UsageError for
    what is no Messages request.
    """
    refuse(request, UNSAYABLE, "openai")
    chat: Json = {
        "model": model or request["model"],
        "messages": _messages(request, strict),
        "max_completion_tokens" if strict else "max_tokens": request["max_tokens"],
    }
    chat |= present(request, "temperature", "top_p")
    if not strict:
        chat |= present(request, "top_k")
    if request.get("stop_sequences"):
        chat["stop"] = request["stop_sequences"]
    if user := (request.get("metadata") or {}).get("user_id"):
        chat["user"] = user
    if request.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return (
        chat
        | _tools(request)
        | _answer_format(request)
        | chat_thinking(request, strict)
        | _continued(request, strict)
    )


def _messages(request: Json, strict: bool) -> list[Json]:
    messages: list[Json] = request["messages"]
    system = plain_text(request.get("system"), "system", "openai")
    if not strict:
        # Many chat templates take one system message, and that at the head.
        leading, messages = fold_system(messages)
        system = "\n\n".join(filter(None, (system, leading)))
    chat = [{"role": "system", "content": system}] if system else []
    for number, message in enumerate(messages):
        key = f"messages[{number}].content"
        content = message["content"]
        match message["role"]:
            case "user":
                chat += _user(content, key)
            case "assistant":
                chat.append(_assistant(content, key, strict))
            case "system":
                text = plain_text(content, key, "openai")
                chat.append({"role": "system", "content": text})
            case role:
                raise UsageError(f"messages[{number}] has the role {role!r}")
    return chat


def _user(content: Any, key: str) -> list[Json]:
    """Tool results are messages of their own, which must follow the calls at once."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Json] = []
    parts: list[Json] = []
    for number, block in enumerate(content):
        if block["type"] == "tool_result":
            result, images = _tool_result(block, f"{key}[{number}]")
            results.append(result)
            parts += images
        else:
            parts.append(_part(block, f"{key}[{number}]"))
    if not parts and results:
        return results
    return [*results, {"role": "user", "content": _slim(parts)}]


def _tool_result(block: Json, key: str) -> tuple[Json, list[Json]]:
    """The tool's message, and the parts that the user's message after it gets.

    A tool's message holds text only, so images follow, introduced by a line of text.
    """
    name = block["tool_use_id"]
    content = block.get("content") or ""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    parts = [_part(part, f"{key}.content[{n}]") for n, part in enumerate(content)]
    images = [part for part in parts if part["type"] == "image_url"]
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    if images:
        text = text or "The result is in the images of the next message."
        head = {"type": "text", "text": f"Images of the tool result {name}:"}
        images = [head, *images]
    if block.get("is_error"):
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": name, "content": text}, images


def _part(block: Json, key: str) -> Json:
    kind = block["type"]
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _image_url(block, key)}}
    if kind in ("document", "search_result") and _cited(block):
        raise Untranslatable(f"{key}.citations", "openai")
    if kind == "search_result":
        text = plain_text(block["content"], key, "openai")
        return _titled(text, block["title"], block["source"])
    if kind == "document" and block["source"]["type"] == "text":
        return _titled(
            block["source"]["data"], block.get("title"), block.get("context")
        )
    raise Untranslatable(key, "openai", what=repr(kind))


def _image_url(block: Json, key: str) -> str:
    source = block["source"]
    if source["type"] == "base64":
        return f"data:{source['media_type']};base64,{source['data']}"
    if source["type"] == "url":
        return str(source["url"])
    raise Untranslatable(f"{key}.source", "openai", what=repr(source["type"]))


def _cited(block: Json) -> bool:
    return bool((block.get("citations") or {}).get("enabled"))


def _titled(text: str, *heads: str | None) -> Json:
    return {"type": "text", "text": "\n".join([*filter(None, heads), text])}


def _slim(parts: list[Json]) -> str | list[Json]:
    """A single text as a string, which every server takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _assistant(content: Any, key: str, strict: bool) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for number, block in enumerate(content):
        match block["type"]:
            case "text":
                texts.append(block["text"])
            case "thinking":
                thoughts.append(block["thinking"])
            case "redacted_thinking":
                pass  # encrypted: nobody but its provider can read it
            case "tool_use":
                calls.append(_call(block))
            case kind:
                raise Untranslatable(f"{key}[{number}]", "openai", what=repr(kind))
    message: Json = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message |= {"content": message["content"] or None, "tool_calls": calls}
    if thoughts and not strict:
        # vLLM reads the first since 0.12 (and not the second), all others the second.
        thought = "\n\n".join(thoughts)
        message |= {"reasoning": thought, "reasoning_content": thought}
    return message


def _call(block: Json) -> Json:
    arguments = orjson.dumps(block["input"]).decode()
    function = {"name": block["name"], "arguments": arguments}
    return {"id": block["id"], "type": "function", "function": function}


def _tools(request: Json) -> Json:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``."""
    if not request.get("tools"):
        return {}
    chat: Json = {"tools": [_tool(t, n) for n, t in enumerate(request["tools"])]}
    choice = request.get("tool_choice") or {}
    if choice.get("type") == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice:
        chat["tool_choice"] = _CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Json, number: int) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise Untranslatable(f"tools[{number}]", "openai", what=repr(tool["type"]))
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    return {
        "type": "function",
        "function": function | present(tool, "description", "strict"),
    }


def _answer_format(request: Json) -> Json:
    """``response_format``. The older name of the key stood at the top."""
    told = (request.get("output_config") or {}).get("format")
    told = told or request.get("output_format")
    if not told:
        return {}
    if told["type"] != "json_schema":
        raise Untranslatable("output_config.format", "openai", what=repr(told["type"]))
    schema = {"name": "answer", "schema": told["schema"], "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _continued(request: Json, strict: bool) -> Json:
    """A last message of the assistant is the beginning of the answer."""
    last = request["messages"][-1:]
    if not last or last[0]["role"] != "assistant":
        return {}
    if strict:
        key = f"messages[{len(request['messages']) - 1}]"
        raise Untranslatable(key, "openai", what="the beginning of an answer")
    return {"continue_final_message": True, "add_generation_prompt": False}
