"""Streams of both protocols: writing what targets send, reading what clients get."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lemnos.wire.sse import Parser
from lemnos.wire.translate import ChatStream, MessagesStream
from tests.unit.wire.translate.forms import CHUNK, EVENT, Json, check

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def chunk(
    finish: str | None = None, /, *, choice: Json | None = None, **delta: Any
) -> Json:
    one = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    head = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "theirs",
    }
    return head | {"choices": [one]}


def usage_chunk(**usage: Any) -> Json:
    return chunk() | {"choices": [], "usage": USAGE | usage}


def piece(index: int, arguments: str = "", **more: Any) -> Json:
    """A delta of a tool call; ``id`` and ``name`` where it begins."""
    function = {"arguments": arguments}
    if name := more.pop("name", None):
        function["name"] = name
    return {"index": index, "function": function, **more}


def chat_bytes(*chunks: Json, done: bool = True) -> bytes:
    lines = [b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def messages_bytes(*events: Json) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in events
    )


def start(**usage: Any) -> Json:
    message: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "theirs",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1, **usage},
    }
    return {"type": "message_start", "message": message}


def block(index: int, kind: str, *deltas: Json, **begun: Any) -> list[Json]:
    """The events of one content block."""
    first = {"type": "content_block_start", "index": index}
    between = [
        {"type": "content_block_delta", "index": index, "delta": delta}
        for delta in deltas
    ]
    last = {"type": "content_block_stop", "index": index}
    return [first | {"content_block": {"type": kind, **begun}}, *between, last]


def finish(reason: str, sequence: str | None = None, **usage: Any) -> list[Json]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    told = {
        "type": "message_delta",
        "delta": delta,
        "usage": {"output_tokens": 7, **usage},
    }
    return [told, {"type": "message_stop"}]


def run(stream: MessagesStream | ChatStream, pieces: Iterable[bytes]) -> bytes:
    return b"".join(map(stream.feed, pieces)) + stream.end()


def events(data: bytes) -> list[Json]:
    """What a Messages client reads, each held against Anthropic's own types but for errors."""
    parser = Parser()
    found = []
    for event in parser.feed(data):
        body = json.loads(event.data)
        assert body["type"] == event.name
        if event.name != "error":
            check(EVENT, body)
        found.append(body)
    return found


def chunks(data: bytes) -> list[Json]:
    """What a chat client reads, each held against OpenAI's own types but for errors.

    The end is ``{"done": True}``.
    """
    found = []
    for event in Parser().feed(data):
        body = {"done": True} if event.data == "[DONE]" else json.loads(event.data)
        if not body.keys() & {"done", "error"}:
            check(CHUNK, body)
        found.append(body)
    return found


def message_of(data: bytes) -> Json:
    """The answer that a Messages client puts together."""
    message: Json = {}
    for event in events(data):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                _add(message["content"][event["index"]], event["delta"])
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
            case "error":
                return event
    for done in message["content"]:
        if arguments := done.pop("json"):
            done["input"] = json.loads(arguments)
    return message


def _add(content: Json, delta: Json) -> None:
    keys = {"text_delta": "text", "thinking_delta": "thinking"}
    if delta["type"] == "input_json_delta":
        content["json"] += delta["partial_json"]
    else:
        content[keys[delta["type"]]] += delta[keys[delta["type"]]]
