"""Chat streams as Messages streams: every kind of chunk that engines were seen to send, and every bad end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.wire.translate import MessagesStream, messages_answer
from lemnos.wire.usage import MAX_EVENT
from tests.unit.wire.translate.forms import Json, call
from tests.unit.wire.translate.streaming import (
    USAGE,
    chat_bytes,
    chunk,
    events,
    message_of,
    piece,
    run,
    usage_chunk,
)

RICH = chat_bytes(
    chunk(role="assistant", content=""),
    chunk(reasoning="Let me "),
    chunk(reasoning="think."),
    chunk(content="\n"),
    chunk(content="Wëather "),
    chunk(content="of Rome:"),
    chunk(content="\n\n"),
    chunk(tool_calls=[piece(0, id="t1", type="function", name="get_weather")]),
    chunk(tool_calls=[piece(0, '{"city"')]),
    chunk(tool_calls=[piece(0, ':"Rome"}')]),
    chunk(tool_calls=[piece(1, "{}", id="t2", type="function", name="get_time")]),
    chunk("tool_calls"),
    usage_chunk(prompt_tokens_details={"cached_tokens": 6}),
)


def translated(data: bytes) -> bytes:
    return run(MessagesStream("ours"), [data])


def message(*sent: Json, **more: Any) -> Json:
    return message_of(translated(chat_bytes(*sent, **more)))


def test_a_rich_stream() -> None:
    assert message_of(translated(RICH)) == {
        "id": "c1",
        "type": "message",
        "role": "assistant",
        "model": "ours",
        "content": [
            {"type": "thinking", "thinking": "Let me think.", "signature": ""},
            {"type": "text", "text": "\nWëather of Rome:\n\n"},
            {
                "type": "tool_use",
                "id": "t1",
                "name": "get_weather",
                "input": {"city": "Rome"},
            },
            {"type": "tool_use", "id": "t2", "name": "get_time", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 6,
            "output_tokens": 4,
        },
    }


def test_blocks_follow_each_other_and_are_closed() -> None:
    kinds = [(e["type"], e.get("index")) for e in events(translated(RICH))]
    assert kinds[0] == ("message_start", None)
    assert kinds[-2:] == [("message_delta", None), ("message_stop", None)]
    open_block: int | None = None
    for kind, index in kinds[1:-2]:
        if kind == "content_block_start":
            assert open_block is None
            open_block = index
        else:
            assert index == open_block
            open_block = None if kind == "content_block_stop" else open_block
    assert open_block is None


@given(st.lists(st.integers(0, len(RICH)), max_size=12))
def test_any_cut_gives_the_same_bytes(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(RICH)]
    pieces = [RICH[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert run(MessagesStream("ours"), pieces) == translated(RICH)


def test_what_is_known_is_given_out_at_once() -> None:
    stream = MessagesStream("ours")
    assert b"message_start" in stream.feed(chat_bytes(chunk(content=""), done=False))
    for said in ("Hel", "lo"):
        (event,) = events(stream.feed(chat_bytes(chunk(content=said), done=False)))[-1:]
        assert event["delta"] == {"type": "text_delta", "text": said}
    assert not stream.ended


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        (chunk("stop"), "end_turn", None),
        (chunk("length"), "max_tokens", None),
        (chunk("content_filter"), "refusal", None),
        (chunk("stop", choice={"stop_reason": "END"}), "stop_sequence", "END"),
        (chunk("stop", choice={"matched_stop": "END"}), "stop_sequence", "END"),
        (chunk("stop", choice={"stop_reason": 151643}), "end_turn", None),
        (chunk("stop", refusal="I will not."), "refusal", None),
        (
            chunk("stop", tool_calls=[piece(0, "{}", id="t", name="f")]),
            "tool_use",
            None,
        ),
    ],
)
def test_why_it_stopped(finish: Json, reason: str, sequence: str | None) -> None:
    told = message(chunk(content="x"), finish)
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    "calls",
    [
        # Every call numbered 0.
        [piece(0, "{}", id="a", name="f"), piece(0, '{"x":1}', id="b", name="g")],
        # No numbers at all.
        [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "function": {"name": "g", "arguments": '{"x":1}'}},
        ],
        # The id and the name with each piece.
        [
            piece(0, "{}", id="a", name="f"),
            piece(1, '{"x"', id="b", name="g"),
            piece(1, ":1}", id="b", name="g"),
        ],
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_tool_calls_as_servers_send_them(calls: list[Json], apart: bool) -> None:
    sent = [[c] for c in calls] if apart else [calls]
    told = message(*(chunk(tool_calls=c) for c in sent), chunk("tool_calls"))
    assert told["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"x": 1}},
    ]


def test_a_call_without_an_id_gets_one() -> None:
    told = message(chunk(tool_calls=[piece(0, "{}", name="f")]), chunk("tool_calls"))
    assert told["content"][0]["id"].startswith("toolu_")


def test_a_blank_answer_is_kept_where_it_is_all_there_is() -> None:
    assert message(chunk(content=" \n"), chunk("stop"))["content"] == [
        {"type": "text", "text": " \n"}
    ]
    assert message(chunk("stop"))["content"] == []


@pytest.mark.parametrize(
    "data",
    [
        chat_bytes(chunk(content="x"), chunk("stop"), usage_chunk(), done=False),
        chat_bytes(chunk(content="x"), chunk("stop"), usage_chunk()).rstrip(b"\n"),
        chat_bytes(chunk(content="x"), usage_chunk()),
    ],
)
def test_ends_that_are_good_enough(data: bytes) -> None:
    told = message_of(translated(data))
    assert told["stop_reason"] == "end_turn" and told["usage"]["output_tokens"] == 4


HELD = chat_bytes(chunk(content="x"), done=False)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "api_error", "broke the answer off"),
        (b"data: [DONE]\n\n", "api_error", "no answer"),
        (HELD, "api_error", "broke the answer off"),
        (HELD + b'data: {"choices": [{', "api_error", "broke the answer off"),
        (HELD + b"data: <html>\n\n", "api_error", "form"),
        (HELD + b"data: [1]\n\n", "api_error", "form"),
        (HELD + b'data: {"choices": 5}\n\n', "api_error", "form"),
        (HELD + b'data: {"choices": [{"delta": []}]}\n\n', "api_error", "broke"),
        (HELD + chat_bytes(chunk("abort")), "api_error", "gave its answer up"),
        (HELD + chat_bytes(chunk(content=5)), "api_error", "form"),
        (
            chat_bytes(chunk(content="x") | {"usage": {"prompt_tokens": "many"}}),
            "api_error",
            "form",
        ),
        (
            HELD
            + b'data: {"error": {"message": "no", "type": "rate_limit_error"}}\n\n'
            + b"data: [DONE]\n\n",
            "rate_limit_error",
            "no",
        ),
        (
            b'data: {"error": {"message": "too long", "code": 400}}\n\n',
            "invalid_request_error",
            "too long",
        ),
        (
            b'data: {"object": "error", "message": "bad", "code": 400}\n\n',
            "invalid_request_error",
            "bad",
        ),
        (
            HELD
            + chat_bytes(
                chunk(tool_calls=[piece(0, "{", id="a", name="f")]),
                chunk(tool_calls=[piece(1, "{", id="b", name="g")]),
                chunk(tool_calls=[piece(0, "}")]),
            ),
            "api_error",
            "mixed up",
        ),
    ],
)
def test_a_bad_end_is_one_error_event(data: bytes, kind: str, message: str) -> None:
    *before, last = events(translated(data))
    assert last["type"] == "error" and last["error"]["type"] == kind
    assert message in last["error"]["message"]
    assert not {"error", "message_stop"} & {event["type"] for event in before}


def test_nothing_comes_after_the_end() -> None:
    stream = MessagesStream("ours")
    stream.feed(RICH)
    assert stream.ended and stream.feed(RICH) == b"" and stream.end() == b""


def test_an_event_without_an_end_is_given_up() -> None:
    stream = MessagesStream("ours")
    half = b"data: " + b"x" * (MAX_EVENT // 2)
    assert stream.feed(half) == b""
    assert b"without an end" in stream.feed(half)


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_event(data: bytes) -> None:
    assert events(translated(data))[-1]["type"] in ("error", "message_stop")


WORDS = st.text("ab \nü😀", min_size=1, max_size=5)


@given(
    thought=st.lists(WORDS, max_size=3),
    said=st.lists(WORDS, max_size=4),
    calls=st.lists(st.lists(WORDS, max_size=3), max_size=3),
)
def test_a_stream_says_what_the_whole_answer_says(
    thought: list[str], said: list[str], calls: list[list[str]]
) -> None:
    sent = [chunk(reasoning_content=t) for t in thought]
    sent += [chunk(content=t) for t in said]
    whole_calls = []
    for number, words in enumerate(calls):
        arguments = json.dumps({"x": words})
        name = f"t{number}"
        whole_calls.append(call(name, arguments))
        begin = piece(number, arguments[:4], id=name, name="get_weather")
        sent += [chunk(tool_calls=[begin])]
        sent += [chunk(tool_calls=[piece(number, arguments[4:])])]
    last = "tool_calls" if calls else "stop"
    streamed = message(*sent, chunk(last), usage_chunk())
    choice = {
        "index": 0,
        "finish_reason": last,
        "message": {
            "role": "assistant",
            "content": "".join(said) or None,
            "reasoning_content": "".join(thought),
            "tool_calls": whole_calls,
        },
    }
    whole = messages_answer({"id": "c1", "choices": [choice], "usage": USAGE}, "ours")
    assert streamed == whole
