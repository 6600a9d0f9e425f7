"""Both protocols' forms, as their own packages define them, and builders of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anthropic.types
import openai.types.chat
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

Json = dict[str, Any]

CHAT_REQUEST: TypeAdapter[Any] = TypeAdapter(
    completion_create_params.CompletionCreateParams
)
MESSAGES_REQUEST: TypeAdapter[Any] = TypeAdapter(
    anthropic.types.message_create_params.MessageCreateParams
)
CHAT_ANSWER: TypeAdapter[Any] = TypeAdapter(openai.types.chat.ChatCompletion)
CHUNK: TypeAdapter[Any] = TypeAdapter(openai.types.chat.ChatCompletionChunk)
MESSAGES_ANSWER: TypeAdapter[Any] = TypeAdapter(anthropic.types.Message)
EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PNG_URL = "data:image/png;base64,iVBORw0KGgo="


def check(form: TypeAdapter[Any], value: Any) -> None:
    """Raise pydantic's ValidationError unless ``value`` has the form, all the way down."""
    _walk(form.validate_python(value))


def _walk(value: Any) -> None:
    """Pydantic checks iterables only as they are read."""
    if isinstance(value, Mapping):
        for inner in value.values():
            _walk(inner)
    elif hasattr(value, "__iter__") and not isinstance(value, (str, bytes)):
        for inner in value:
            _walk(inner)


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def use(name: str, **given: Any) -> Json:
    return {"type": "tool_use", "id": name, "name": "get_weather", "input": given}


def result(name: str, content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": name, "content": content, **more}


def call(name: str, arguments: str = "{}") -> Json:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": name, "type": "function", "function": function}
