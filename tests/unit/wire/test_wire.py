"""Server-sent events, and errors in the client's protocol."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.wire.errors import error_body, error_event, protocol_of
from lemnos.wire.sse import Event, Parser, whole_events

STREAM = b"event: a\ndata: 1\ndata: 2\n\n: comment\r\n\r\ndata:x\r\ndata: \xc3\xa9\r\n\r\nid: 9\rdata: y\r\r"
EVENTS = [Event("1\n2", "a"), Event("x\n\u00e9"), Event("y")]


def parsed(*pieces: bytes) -> list[Event]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_events() -> None:
    assert parsed(STREAM, b"\n") == EVENTS
    assert parsed(b"data: not ended\n") == []


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert parsed(*pieces, b"\n") == EVENTS


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed(data: bytes) -> None:
    assert parsed(data) == parsed(*(data[i : i + 1] for i in range(len(data))))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"data: x", 0),
        (b"data: x\n\nda", 9),
        (b"a\r\n\r\nb", 5),
        (b"\n\n\n", 3),
    ],
)
def test_whole_events(data: bytes, count: int) -> None:
    assert whole_events(data) == count


@given(st.text("x\r\n", max_size=12), st.integers(0, 12))
def test_what_was_seen_to_hold_no_end_need_not_be_searched_again(
    text: str, cut: int
) -> None:
    data = text.encode()
    if whole_events(data[:cut]) == 0:
        assert whole_events(data, len(data[:cut])) == whole_events(data)


def test_protocols_are_known_by_their_paths() -> None:
    assert protocol_of("/v1/messages/count_tokens") == "anthropic"
    assert protocol_of("/v1/chat/completions") == "openai"
    assert protocol_of("/v1/models", anthropic_version=True) == "anthropic"


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (404, "invalid_request_error", "not_found_error"),
        (503, "server_error", "overloaded_error"),
        (502, "server_error", "api_error"),
    ],
)
def test_error_bodies(status: int, openai: str, anthropic: str) -> None:
    body = json.loads(error_body("openai", status, "no", code="c", param="p"))
    assert body == {
        "error": {"message": "no", "type": openai, "param": "p", "code": "c"}
    }
    body = json.loads(error_body("anthropic", status, "no"))
    assert body == {"type": "error", "error": {"type": anthropic, "message": "no"}}


def test_error_events() -> None:
    (event,) = parsed(error_event("anthropic", 502, "no"))
    assert event.name == "error" and json.loads(event.data)["type"] == "error"
    (event,) = parsed(error_event("openai", 502, "no"))
    assert event.name == "message" and "error" in json.loads(event.data)
