"""Messages streams as chat streams: every kind of event, and every bad end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.wire.translate import ChatStream, MessagesStream, chat_answer
from tests.unit.wire.translate.forms import Json
from tests.unit.wire.translate.streaming import (
    block,
    chat_bytes,
    chunk,
    chunks,
    events,
    finish,
    message_of,
    messages_bytes,
    piece,
    run,
    start,
    usage_chunk,
)


def delta(kind: str, **said: str) -> Json:
    return {"type": kind, **said}


RICH = messages_bytes(
    start(cache_read_input_tokens=20, cache_creation_input_tokens=3),
    *block(
        0,
        "thinking",
        delta("thinking_delta", thinking="Let me "),
        delta("thinking_delta", thinking="think."),
        delta("signature_delta", signature="s1"),
        thinking="",
        signature="",
    ),
    {"type": "ping"},
    *block(1, "redacted_thinking", data="secret"),
    *block(
        2,
        "text",
        delta("text_delta", text="Wëather "),
        delta("text_delta", text="of Rome:"),
        text="",
    ),
    *block(
        3,
        "tool_use",
        delta("input_json_delta", partial_json=""),
        delta("input_json_delta", partial_json='{"city"'),
        delta("input_json_delta", partial_json=':"Rome"}'),
        id="t1",
        name="get_weather",
        input={},
    ),
    *block(4, "tool_use", id="t2", name="get_time", input={}),
    {"type": "something_new"},
    *finish("tool_use"),
)


def translated(data: bytes, **more: Any) -> bytes:
    return run(ChatStream("ours", created=7, **more), [data])


def merged(data: bytes) -> Json:
    """The message that a chat client puts together."""
    message: Json = {}
    for read in chunks(data):
        for choice in read.get("choices", ()):
            for key, value in choice["delta"].items():
                if key == "tool_calls":
                    _merge_calls(message.setdefault(key, []), value)
                elif isinstance(value, (str, list)) and key != "role":
                    message[key] = message.get(key, type(value)()) + value
    return message


def _merge_calls(calls: list[Json], pieces: list[Json]) -> None:
    for part in pieces:
        if part["index"] == len(calls):
            calls.append({"id": part["id"], "arguments": "", **part["function"]})
        else:
            calls[part["index"]]["arguments"] += part["function"]["arguments"]


def test_a_rich_stream() -> None:
    data = translated(RICH)
    assert merged(data) == {
        "content": "Wëather of Rome:",
        "reasoning_content": "Let me think.",
        "reasoning_details": [
            {
                "type": "reasoning.text",
                "text": "Let me think.",
                "signature": "s1",
                "index": 0,
            },
            {"type": "reasoning.encrypted", "data": "secret", "index": 1},
        ],
        "tool_calls": [
            {"id": "t1", "name": "get_weather", "arguments": '{"city":"Rome"}'},
            {"id": "t2", "name": "get_time", "arguments": "{}"},
        ],
    }
    first, *_, last, done = chunks(data)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {key: first[key] for key in ("id", "model", "created")} == {
        "id": "msg_1",
        "model": "ours",
        "created": 7,
    }
    assert last["choices"][0]["finish_reason"] == "tool_calls" and done == {
        "done": True
    }


def test_usage_is_told_if_it_was_asked_for() -> None:
    asked = chunks(translated(RICH, include_usage=True))
    assert asked[-1] == {"done": True} and asked[-2]["choices"] == []
    assert asked[-2]["usage"] == {
        "prompt_tokens": 28,
        "completion_tokens": 7,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 3},
    }
    # OpenAI: all other chunks have the key too, and null.
    assert all(read["usage"] is None for read in asked[:-2])
    assert b'"usage"' not in translated(RICH)


def test_later_usage_replaces_the_first() -> None:
    told = [start(), *finish("end_turn", input_tokens=11, cache_read_input_tokens=None)]
    usage = chunks(translated(messages_bytes(*told), include_usage=True))[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (11, 7)


@given(st.lists(st.integers(0, len(RICH)), max_size=12))
def test_any_cut_gives_the_same_bytes(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(RICH)]
    pieces = [RICH[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert run(ChatStream("ours", created=7), pieces) == translated(RICH)


def test_what_is_known_is_given_out_at_once() -> None:
    stream = ChatStream("ours")
    assert chunks(stream.feed(messages_bytes(start())))
    begin, *said, _ = block(0, "text", delta("text_delta", text="Hi"), text="")
    assert stream.feed(messages_bytes(begin)) == b""
    (told,) = chunks(stream.feed(messages_bytes(*said)))
    assert told["choices"][0]["delta"] == {"content": "Hi"}


def test_what_a_block_begins_with_is_said() -> None:
    told = [
        start(),
        *block(0, "thinking", thinking="Hm", signature="s"),
        *block(1, "text", text="Hi"),
        *block(2, "tool_use", id="t", name="f", input={"x": 1}),
        *finish("tool_use"),
    ]
    found = merged(translated(messages_bytes(*told)))
    assert (found["reasoning_content"], found["content"]) == ("Hm", "Hi")
    assert found["tool_calls"][0]["arguments"] == '{"x":1}'


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
    ],
)
def test_why_it_stopped(reason: str, told: str) -> None:
    sequence = "END" if reason == "stop_sequence" else None
    data = messages_bytes(start(), *finish(reason, sequence))
    *_, last, _ = chunks(translated(data))
    assert last["choices"][0]["finish_reason"] == told
    assert last["choices"][0].get("stop_reason") == sequence


def test_an_end_without_its_last_event_is_good_enough() -> None:
    data = messages_bytes(start(), finish("end_turn")[0])
    assert chunks(translated(data))[-1] == {"done": True}
    assert chunks(translated(data.rstrip(b"\n")))[-1] == {"done": True}


OVERLOADED = {"type": "overloaded_error", "message": "busy"}


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "server_error", "broke the answer off"),
        (messages_bytes(start()), "server_error", "broke the answer off"),
        (messages_bytes(*finish("end_turn")), "server_error", "without its message"),
        (b"data: <html>\n\n", "server_error", "form"),
        (b"data: []\n\n", "server_error", "form"),
        (b"data: {}\n\n", "server_error", "'type'"),
        (
            messages_bytes(start(), *block(0, "text", delta("text_delta"), text="")),
            "server_error",
            "'text'",
        ),
        (
            messages_bytes(start(), {"type": "error", "error": OVERLOADED}),
            "server_error",
            "busy",
        ),
        (messages_bytes({"type": "error"}), "server_error", "broke"),
        (
            messages_bytes(start(input_tokens="x"), *finish("end_turn")),
            "server_error",
            "form",
        ),
    ],
)
def test_a_bad_end_is_one_error(data: bytes, kind: str, message: str) -> None:
    *before, last = chunks(translated(data, include_usage=True))
    assert last["error"]["type"] == kind and message in last["error"]["message"]
    assert not any(read.keys() & {"error", "done"} for read in before)


def test_text_that_is_none_is_not_passed_on() -> None:
    wrong = {"type": "text_delta", "text": 5}
    data = messages_bytes(start(), *block(0, "text", wrong, text=""))
    assert "error" in chunks(translated(data))[-1]


def test_nothing_comes_after_the_end() -> None:
    stream = ChatStream("ours")
    stream.feed(RICH)
    assert stream.ended and stream.feed(RICH) == b"" and stream.end() == b""


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_event(data: bytes) -> None:
    assert chunks(translated(data))[-1].keys() & {"error", "done"}


WORDS = st.text("ab ü😀", min_size=1, max_size=5).filter(str.strip)


@given(
    thought=st.lists(WORDS, max_size=3),
    said=st.lists(WORDS, max_size=4),
    calls=st.lists(st.lists(WORDS, max_size=3), max_size=3),
)
def test_there_and_back(
    thought: list[str], said: list[str], calls: list[list[str]]
) -> None:
    """A chat stream, as Messages, as chat, as Messages: the same answer, as the whole one is."""
    sent = [chunk(reasoning_content=t) for t in thought]
    sent += [chunk(content=t) for t in said]
    for number, words in enumerate(calls):
        arguments = json.dumps({"x": words})
        sent += [chunk(tool_calls=[piece(number, "", id=f"t{number}", name="f")])]
        sent += [chunk(tool_calls=[piece(number, arguments)])]
    sent += [chunk("tool_calls" if calls else "stop"), usage_chunk()]
    first = run(MessagesStream("ours"), [chat_bytes(*sent)])
    chat = translated(first, include_usage=True)
    again = run(MessagesStream("ours"), [chat])
    assert message_of(again) == message_of(first)
    assert events(again) == events(first)
    whole = chat_answer(message_of(first), "ours", created=7)
    told = whole["choices"][0]["message"]
    found = merged(chat)
    assert (told["content"] or "") == found["content"]
    assert told.get("reasoning_content") == found.get("reasoning_content")
    assert len(told.get("tool_calls", [])) == len(found.get("tool_calls", []))
    assert whole["usage"] == chunks(chat)[-2]["usage"]
