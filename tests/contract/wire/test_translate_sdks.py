"""The packages that clients use, over sockets, against answers that were translated for them.

What they ask is translated too, and held against the other protocol's own types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import anthropic
import openai
import pytest

from lemnos.wire.translate import (
    ChatStream,
    MessagesStream,
    chat_answer,
    chat_request,
    error_answer,
    messages_answer,
    messages_request,
)
from tests import upstream
from tests.unit.wire.translate.forms import (
    CHAT_REQUEST,
    MESSAGES_REQUEST,
    Json,
    check,
)
from tests.unit.wire.translate.streaming import (
    block,
    chat_bytes,
    chunk,
    finish,
    messages_bytes,
    piece,
    start,
    usage_chunk,
)

CHAT = chat_bytes(
    chunk(role="assistant", content=""),
    chunk(reasoning="Hm."),
    chunk(content="Let me "),
    chunk(content="see, ü."),
    chunk(tool_calls=[piece(0, "", id="t1", name="get_weather")]),
    chunk(tool_calls=[piece(0, '{"city": ')]),
    chunk(tool_calls=[piece(0, '"Rome"}')]),
    chunk(tool_calls=[piece(1, "{}", id="t2", name="get_time")]),
    chunk("tool_calls"),
    usage_chunk(prompt_tokens_details={"cached_tokens": 6}),
)
MESSAGES = messages_bytes(
    start(cache_read_input_tokens=6),
    *block(
        0,
        "thinking",
        {"type": "thinking_delta", "thinking": "H"},
        {"type": "thinking_delta", "thinking": "m."},
        {"type": "signature_delta", "signature": "s1"},
        thinking="",
        signature="",
    ),
    *block(
        1,
        "text",
        {"type": "text_delta", "text": "Let me "},
        {"type": "text_delta", "text": "see, ü."},
        text="",
    ),
    *block(
        2,
        "tool_use",
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Rome"}'},
        id="t1",
        name="get_weather",
        input={},
    ),
    *block(3, "tool_use", id="t2", name="get_time", input={}),
    *finish("tool_use"),
)
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}


def pieces_of(stream: MessagesStream | ChatStream, data: bytes) -> list[bytes]:
    """The translation of ``data``, which arrives in pieces of 50 bytes."""
    cuts = [data[at : at + 50] for at in range(0, len(data), 50)]
    return [p for p in [*map(stream.feed, cuts), stream.end()] if p]


@contextmanager
def clauding(
    script: upstream.Script,
) -> Iterator[tuple[anthropic.Anthropic, upstream.Upstream]]:
    with upstream.serving(script) as server:
        with anthropic.Anthropic(
            base_url=server.url, api_key="k", max_retries=0
        ) as client:
            yield client, server


@contextmanager
def chatting(
    script: upstream.Script,
) -> Iterator[tuple[openai.OpenAI, upstream.Upstream]]:
    with upstream.serving(script) as server:
        base = server.url + "/v1"
        with openai.OpenAI(base_url=base, api_key="k", max_retries=0) as client:
            yield client, server


def test_anthropics_stream() -> None:
    sent = pieces_of(MessagesStream("ours"), CHAT)
    with clauding(upstream.stream(*sent)) as (client, server):
        with client.messages.stream(
            model="ours",
            max_tokens=100,
            system=[
                {"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}
            ],
            messages=[{"role": "user", "content": "Weather?"}],
            tools=[{"name": "get_weather", "input_schema": SCHEMA}],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 2048},
        ) as stream:
            heard = [event.type for event in stream]
            message = stream.get_final_message()
    assert heard.count("thinking") == 1 and heard.count("text") == 2
    assert heard.count("content_block_stop") == 4
    assert [b.to_dict() for b in message.content] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Let me see, ü."},
        {
            "type": "tool_use",
            "id": "t1",
            "name": "get_weather",
            "input": {"city": "Rome"},
        },
        {"type": "tool_use", "id": "t2", "name": "get_time", "input": {}},
    ]
    assert (message.id, message.model) == ("c1", "ours")
    assert message.stop_reason == "tool_use"
    assert message.usage.input_tokens == 3 and message.usage.output_tokens == 4
    assert message.usage.cache_read_input_tokens == 6
    asked = chat_request(json.loads(server.asked[0].body))
    check(CHAT_REQUEST, asked)
    assert asked["stream"] and asked["parallel_tool_calls"] is False


def test_openais_stream() -> None:
    sent = pieces_of(ChatStream("ours", include_usage=True), MESSAGES)
    with chatting(upstream.stream(*sent)) as (client, server):
        with client.chat.completions.stream(
            model="ours",
            messages=[{"role": "user", "content": "Weather?"}],
            tools=[
                {
                    "type": "function",
                    "function": {"name": "get_weather", "parameters": SCHEMA},
                }
            ],
            reasoning_effort="low",
            stream_options={"include_usage": True},
        ) as stream:
            heard = [event.type for event in stream]
            answer = stream.get_final_completion()
    assert heard.count("content.delta") == 3  # the first is empty
    assert heard.count("tool_calls.function.arguments.done") == 2
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see, ü."
    calls = choice.message.tool_calls or []
    told = [(call.id, call.function.name, call.function.arguments) for call in calls]
    assert told == [
        ("t1", "get_weather", '{"city": "Rome"}'),
        ("t2", "get_time", "{}"),
    ]
    extra = choice.message.model_extra or {}
    assert extra["reasoning_content"] == "Hm."
    assert extra["reasoning_details"][0]["signature"] == "s1"
    assert answer.usage and answer.usage.prompt_tokens == 11
    assert answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 6
    asked = messages_request(json.loads(server.asked[0].body), "claude-sonnet-5")
    check(MESSAGES_REQUEST, asked)
    # What the package gives back of its answer is taken back, thinking and all.
    echo = json.loads(choice.message.model_dump_json())
    again = {"model": "claude-sonnet-5", "messages": [echo]}
    kinds = [b["type"] for b in messages_request(again)["messages"][0]["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]


def test_streams_that_break_off_raise_in_both_packages() -> None:
    sent = pieces_of(MessagesStream("ours"), CHAT[: len(CHAT) // 2])
    with clauding(upstream.stream(*sent)) as (client, _):
        stream = client.messages.stream(
            model="ours", max_tokens=9, messages=[{"role": "user", "content": "?"}]
        )
        with pytest.raises(anthropic.APIStatusError, match="broke the answer off"):
            with stream as events:
                events.until_done()
    sent = pieces_of(ChatStream("ours"), MESSAGES[: len(MESSAGES) // 2])
    with chatting(upstream.stream(*sent)) as (chat, _):
        with pytest.raises(openai.APIError, match="broke the answer off"):
            list(
                chat.chat.completions.create(
                    model="ours",
                    messages=[{"role": "user", "content": "?"}],
                    stream=True,
                )
            )


def test_whole_answers_and_errors() -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    answer = {"id": "c1", "choices": [choice], "usage": usage}
    translated = messages_answer(answer, "ours")
    with clauding(upstream.answer(json.dumps(translated).encode())) as (client, _):
        told = client.messages.create(
            model="ours", max_tokens=9, messages=[{"role": "user", "content": "?"}]
        )
    assert [b.type for b in told.content] == ["thinking", "text"]
    assert told.stop_reason == "end_turn" and told.usage.output_tokens == 1
    back = json.dumps(chat_answer(translated, "ours")).encode()
    with chatting(upstream.answer(back)) as (chat, _):
        again = chat.chat.completions.create(
            model="ours", messages=[{"role": "user", "content": "?"}]
        )
    assert again.choices[0].message.content == "Hi"
    body = error_answer(b'{"error": {"message": "too fast"}}', 429, "anthropic")
    with clauding(upstream.answer(body, "429 Too Many Requests")) as (client, _):
        with pytest.raises(anthropic.RateLimitError, match="too fast"):
            client.messages.create(
                model="ours", max_tokens=9, messages=[{"role": "user", "content": "?"}]
            )
