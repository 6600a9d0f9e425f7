"""Usage from answers and from streams, however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lemnos.spec.targets import Api
from lemnos.wire import usage as module
from lemnos.wire.sse import Parser, whole_events
from lemnos.wire.usage import EndlessEventError, StreamMeter, Usage, usage_of


@pytest.mark.parametrize(
    ("api", "usage", "expected"),
    [
        ("chat", {"prompt_tokens": 7, "completion_tokens": 2}, Usage(7, 2, 0)),
        (
            "chat",
            {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 5},
            },
            Usage(7, 2, 5),
        ),
        (
            "completions",
            {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "prompt_tokens_details": None,
            },
            Usage(7, 2, 0),
        ),
        ("chat", {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, Usage(9, 0, 4)),
        ("embeddings", {"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0, 0)),
        (
            "messages",
            {
                "input_tokens": 3,
                "cache_read_input_tokens": 40,
                "cache_creation_input_tokens": 5,
                "output_tokens": 2,
            },
            Usage(48, 2, 40),
        ),
        (
            "responses",
            {
                "input_tokens": 9,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 4},
            },
            Usage(9, 2, 4),
        ),
        ("tokenize", None, None),
        ("chat", {}, None),
        ("messages", {"service_tier": "standard"}, None),
        ("chat", "garbage", None),
        ("chat", {"prompt_tokens": -1, "completion_tokens": True}, None),
        ("chat", {"prompt_tokens": 2**70, "completion_tokens": 1}, Usage(0, 1, 0)),
        (
            "chat",
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(3, 0, 3),
        ),
    ],
)
def test_usage_of_answers(api: Api, usage: Any, expected: Usage | None) -> None:
    assert usage_of(api, {"usage": usage}) == expected
    assert usage_of(api, {}) is None


# Streams, however they are written and cut

CONTENT = st.sampled_from(
    [
        "word",
        "\u00e9\u4e2d",
        '"usage"',
        "usage",
        "[DONE]",
        "data: [DONE]\n\n",
        '{"usage":{"prompt_tokens":99}}',
        '"model":"theirs"',
        '\n\r\n"error": {',
        "",
    ]
)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)}
)


@st.composite
def chunks(draw: st.DrawFn) -> dict[str, Any]:
    """A chunk of a chat, as one engine or another writes it."""
    text = st.builds(lambda text: [{"index": 0, "delta": {"content": text}}], CONTENT)
    chunk: dict[str, Any] = {"model": draw(st.sampled_from(["theirs", "other"]))}
    chunk["choices"] = draw(st.just([]) | text)
    if draw(st.booleans()):
        chunk["usage"] = draw(st.none() | USAGE)
    return chunk


@st.composite
def chats(draw: st.DrawFn) -> list[bytes]:
    """Whole events, in one engine's spelling."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    space = draw(st.sampled_from(["", " "]))
    escaped = draw(st.booleans())
    events = []
    for chunk in draw(st.lists(chunks(), max_size=6)):
        text = json.dumps(chunk, separators=separators, ensure_ascii=escaped)
        events.append(f"data:{space}{text}{end}{end}")
        if draw(st.booleans()):
            events.append(f": keep-alive{end}{end}")
    if draw(st.booleans()):
        events.append(f"data:{space}[DONE]{end}{end}")
    return [event.encode() for event in events]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def reference(events: list[bytes], drop: bool) -> tuple[bytes, Usage | None]:
    """What the client gets and what is reported, each event parsed on its own."""
    sent, usage = b"", None
    for event in events:
        for parsed in Parser().feed(event):
            if parsed.data != "[DONE]":
                chunk = json.loads(parsed.data)
                usage = usage_of("chat", chunk) or usage
                if drop and chunk.get("usage") and chunk["choices"] == []:
                    event = b""
        for space in (b"", b" "):
            event = event.replace(
                b'"model":%b"theirs"' % space, b'"model":%b"ours"' % space, 1
            )
        sent += event
    return sent, usage


@given(chats(), st.booleans(), st.lists(st.integers(0, 900), max_size=20))
@example([b'data: {"choices":[]}\r\n\r\n', b"data: [DONE]\r\n\r\n"], True, [22, 23, 24])
def test_any_cut_of_any_engines_chat(
    events: list[bytes], drop: bool, cuts: list[int]
) -> None:
    meter = StreamMeter("chat", drop, ("theirs", "ours"))
    plain = StreamMeter("chat")
    data = b"".join(events)
    sent = b""
    for piece in cut(data, cuts):
        given_on = meter.feed(piece)
        assert whole_events(given_on) == len(given_on)
        sent += given_on
        plain.feed(piece)
    expected, usage = reference(events, drop)
    assert sent == expected
    assert meter.finish() == b""
    for one in (meter, plain):
        assert one.usage == usage
        assert one.ended == any(b"[DONE]" in event[:14] for event in events)
        assert one.events == sum(event.startswith(b"data") for event in events)
        assert one.error is None


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=9))
@example(b'data: {"usage":[]}\n\ndata: {"usage" : 3}\n\ndata: "usage"\n\n', [])
@example(b'data: {"error":{"message":[1]}}\n\ndata: {"usage":\n\n', [3])
def test_garbage_passes_as_it_is(data: bytes, cuts: list[int]) -> None:
    for api in ("chat", "messages", "responses"):
        meter = StreamMeter(api, True)
        sent = b"".join(meter.feed(piece) for piece in cut(data, cuts))
        assert sent + meter.finish() == data


def events_of(*events: dict[str, Any], named: bool = True) -> list[bytes]:
    return [
        (b"event: %b\n" % event["type"].encode() if named else b"")
        + b"data: %b\n\n" % json.dumps(event).encode()
        for event in events
    ]


MESSAGE = events_of(
    {
        "type": "message_start",
        "message": {
            "model": "theirs",
            "usage": {
                "input_tokens": 5,
                "cache_read_input_tokens": 20,
                "cache_creation_input_tokens": 0,
                "output_tokens": 1,
            },
        },
    },
    {"type": "content_block_delta", "delta": {"text": "message_stop"}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": 0, "output_tokens": 9},
    },
    {"type": "message_stop"},
)


@given(st.lists(st.integers(0, 700), max_size=12))
def test_messages_tell_usage_at_their_start_and_at_their_end(cuts: list[int]) -> None:
    meter = StreamMeter("messages", rename=("theirs", "ours"))
    data = b"".join(MESSAGE)
    sent = b"".join(meter.feed(piece) for piece in cut(data, cuts))
    assert sent == data.replace(b"theirs", b"ours")
    assert (meter.usage, meter.ended, meter.events) == (Usage(25, 9, 20), True, 4)


def test_a_message_that_stops_early_has_what_was_told() -> None:
    meter = StreamMeter("messages")
    for event in MESSAGE[:2]:
        meter.feed(event)
    assert (meter.usage, meter.ended) == (Usage(25, 1, 20), False)


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_responses_have_an_id_and_an_end(end: str) -> None:
    usage = {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
    failed = {"code": "server_error", "message": "no"} if end == "failed" else None
    first, text, last = events_of(
        {"type": "response.created", "response": {"id": "resp_1", "usage": None}},
        {"type": "response.output_text.delta", "delta": "response.completed"},
        {
            "type": f"response.{end}",
            "response": {"id": "resp_1", "usage": usage, "error": failed},
        },
    )
    meter = StreamMeter("responses")
    meter.feed(first)
    assert (meter.response_id, meter.usage) == ("resp_1", None)
    meter.feed(text)
    assert not meter.ended
    meter.feed(last)
    assert (meter.usage, meter.ended) == (Usage(5, 9, 0), True)
    assert meter.error == ("no" if failed else None)


@pytest.mark.parametrize(
    ("api", "event", "text"),
    [
        ("chat", {"error": {"message": "out of memory", "code": 500}}, "out of memory"),
        ("chat", {"error": "busy"}, "busy"),
        ("completions", {"error": {}}, "an error without a message"),
        (
            "messages",
            {
                "type": "error",
                "error": {"type": "overloaded_error", "message": "later"},
            },
            "later",
        ),
        ("responses", {"type": "error", "message": "no such model"}, "no such model"),
        ("chat", {"error": None, "choices": []}, None),
    ],
)
def test_errors_within_a_stream(api: Api, event: Any, text: str | None) -> None:
    meter = StreamMeter(api, True)
    data = events_of(event, named=False)[0]
    assert meter.feed(data) == data
    assert (meter.error, meter.ended) == (text, False)


def test_a_last_event_without_its_empty_line_is_noted_too() -> None:
    meter = StreamMeter("chat")
    assert meter.feed(b"data: {}\n\ndata: [DONE]\n") == b"data: {}\n\n"
    assert not meter.ended
    assert meter.finish() == b"data: [DONE]\n"
    assert (meter.ended, meter.events) == (True, 2)
    assert meter.finish() == b""


def test_an_event_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENT", 1000)
    meter = StreamMeter("chat")
    for _ in range(10):
        assert meter.feed(b"x" * 100) == b""
    with pytest.raises(EndlessEventError):
        meter.feed(b"x")
