"""What is sent to a target for what a client asks, and what the client gets back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lemnos.gateway.answers import (
    BIG,
    MalformedError,
    downstream_headers,
    error_from,
    request_bytes,
    stream_translator,
    whole_answer,
)
from lemnos.gateway.ask import Ask, Sent, prepare, read_ask, speaks
from lemnos.spec.targets import Route, Target
from lemnos.wire.translate import ChatStream, MessagesStream, Untranslatable
from lemnos.wire.usage import Usage

LOCAL = Target(name="e", base_url="http://127.0.0.1:1")
CLOUD = Target(
    name="c",
    kind="cloud",
    base_url="https://c.example/api",
    model="org/theirs",
    apis=("chat",),
    key_env="C_KEY",
    headers={"X-Title": "lemnos"},
)
CLAUDE = Target(
    name="a",
    kind="cloud",
    base_url="https://a.example",
    apis=("messages",),
    key_header="x-api-key",
    headers={"anthropic-version": "2023-06-01"},
)
ROUTE = Route(model="ours", aliases=("sonnet",), targets=(LOCAL,), cloud=(CLOUD,))


def ask_of(path: str = "/v1/chat/completions", **request: Any) -> Ask:
    request = {"model": "ours", **request}
    body = json.dumps(request, indent=1).encode() + b"\n"
    protocol: Any = "anthropic" if "messages" in path else "openai"
    return read_ask(path, "", protocol, ROUTE, request, body)


MESSAGES = [{"role": "user", "content": "hi"}]


def test_bytes_stay_as_they_are() -> None:
    ask = ask_of(messages=MESSAGES, unknown=[1.50, "é"])
    sent = prepare(ask, LOCAL)
    assert sent == Sent("/v1/chat/completions", ask.body, "chat", False, None)


def test_an_alias_becomes_the_models_name_and_back() -> None:
    sent = prepare(ask_of(model="sonnet", messages=MESSAGES), LOCAL)
    assert json.loads(sent.body)["model"] == "ours"
    assert sent.rename == ("ours", "sonnet")


def test_a_cloud_has_its_own_name_for_the_model() -> None:
    sent = prepare(ask_of(messages=MESSAGES, seed=7), CLOUD)
    assert json.loads(sent.body) == {
        "model": "org/theirs",
        "messages": MESSAGES,
        "seed": 7,
    }
    assert sent.rename == ("org/theirs", "ours")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_is_asked_for_and_the_rest_of_the_bytes_stay(path: str) -> None:
    ask = ask_of(path, stream=True, prompt="x")
    sent = prepare(ask, LOCAL)
    assert sent.body.startswith(ask.body.rstrip()[:-1])
    wanted = {**ask.request, "stream_options": {"include_usage": True}}
    assert json.loads(sent.body) == wanted
    assert sent.drop_usage


def test_usage_that_the_client_asks_for_is_its_own() -> None:
    ask = ask_of(stream=True, stream_options={"include_usage": True})
    assert prepare(ask, LOCAL).body == ask.body
    assert not prepare(ask, LOCAL).drop_usage
    ask = ask_of(stream=True, stream_options={"include_usage": False, "other": 1})
    sent = prepare(ask, LOCAL)
    assert json.loads(sent.body)["stream_options"] == {
        "include_usage": True,
        "other": 1,
    }
    assert sent.drop_usage
    ask = ask_of(stream=True, stream_options=None)
    assert json.loads(prepare(ask, LOCAL).body)["stream_options"] == {
        "include_usage": True
    }
    for path in ("/v1/messages", "/v1/responses", "/v1/embeddings"):
        ask = ask_of(path, stream=True)
        assert prepare(ask, LOCAL).body == ask.body


def test_a_target_without_the_api_gets_the_other_one() -> None:
    ask = ask_of("/v1/messages", messages=MESSAGES, max_tokens=9, stream=True)
    sent = prepare(ask, CLOUD)
    assert (sent.path, sent.api) == ("/v1/chat/completions", "chat")
    body = json.loads(sent.body)
    assert body["model"] == "org/theirs" and body["stream_options"]["include_usage"]
    assert not sent.drop_usage, "the translation needs it"
    assert isinstance(stream_translator(ask, sent), MessagesStream)
    ask = ask_of(messages=MESSAGES)
    sent = prepare(ask, CLAUDE)
    assert (sent.path, sent.api) == ("/v1/messages", "messages")
    assert isinstance(stream_translator(ask, sent), ChatStream)
    assert stream_translator(ask, prepare(ask, LOCAL)) is None
    with pytest.raises(Untranslatable, match="n"):
        prepare(ask_of(messages=MESSAGES, n=2), CLAUDE)


def test_who_speaks_what() -> None:
    assert speaks(LOCAL, ask_of("/v1/messages/count_tokens"))
    assert speaks(CLOUD, ask_of("/v1/messages"))
    assert speaks(CLAUDE, ask_of("/v1/chat/completions"))
    assert not speaks(CLOUD, ask_of("/v1/messages/count_tokens"))
    assert not speaks(CLOUD, ask_of("/v1/embeddings"))
    assert not speaks(CLAUDE, ask_of("/v1/responses"))


def test_the_changing_line_of_claude_code_goes_unless_the_route_keeps_it() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.304.cf9; cch=543cf;\n"
    request = {"model": "ours", "system": line + "You are", "messages": MESSAGES}
    body = json.dumps(request).encode()
    ask = read_ask("/v1/messages", "", "anthropic", ROUTE, request, body)
    assert ask.request["system"] == "You are" == json.loads(ask.body)["system"]
    kept = ROUTE.model_copy(update={"drop_billing_line": False})
    assert read_ask("/v1/messages", "", "anthropic", kept, request, body).body == body


def test_embeddings_of_the_models_own_length_ask_for_none() -> None:
    target = LOCAL.model_copy(update={"dimensions": (768, 256)})
    ask = ask_of("/v1/embeddings", input="x", dimensions=768)
    assert "dimensions" not in json.loads(prepare(ask, target).body)
    ask = ask_of("/v1/embeddings", input="x", dimensions=256)
    assert prepare(ask, target).body == ask.body


HEADERS = [
    (b"host", b"gateway"), (b"authorization", b"Bearer mine"), (b"x-api-key", b"mine"),
    (b"cookie", b"mine"), (b"connection", b"close"), (b"accept-encoding", b"gzip"),
    (b"content-type", b"application/json"), (b"x-forwarded-for", b"10.0.0.7"),
    (b"x-title", b"mine"), (b"content-length", b"99"),
]  # fmt: skip


def test_a_replica_gets_the_clients_headers_but_no_credentials() -> None:
    sent = Sent("/v1/x?y=1", b"{}", "chat", False, None)
    raw = request_bytes("POST", sent.path, "e:1", HEADERS, LOCAL, "its-key", sent)
    assert raw == (
        b"POST /v1/x?y=1 HTTP/1.1\r\nhost: e:1\r\naccept-encoding: identity\r\n"
        b"x-forwarded-for: 10.0.0.7\r\nx-title: mine\r\nauthorization: Bearer its-key\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


def test_a_cloud_learns_nothing_of_the_network() -> None:
    sent = Sent("/api/v1/x", b"{}", "chat", False, None)
    raw = request_bytes("POST", sent.path, "c.example", HEADERS, CLOUD, None, sent)
    assert raw == (
        b"POST /api/v1/x HTTP/1.1\r\nhost: c.example\r\naccept-encoding: identity\r\n"
        b"x-title: lemnos\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    raw = request_bytes(
        "GET",
        "/v1/responses/1",
        "a",
        [],
        CLAUDE,
        "k",
        dataclasses.replace(sent, body=b""),
    )
    assert raw.endswith(b"anthropic-version: 2023-06-01\r\nx-api-key: k\r\n\r\n")


def test_headers_of_one_leg_stay_there() -> None:
    kept = downstream_headers(
        [
            (b"Server", b"uvicorn"),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"Set-Cookie", b"x"),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"2"),
        ],
        "e1",
    )
    assert kept == [(b"Content-Type", b"application/json"), (b"x-lemnos-target", b"e1")]


CHAT_ANSWER = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "org/theirs",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": 'the "model":"org/theirs"'}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}  # fmt: skip


def test_whole_answers_keep_their_bytes_but_for_the_models_name() -> None:
    ask = ask_of(messages=MESSAGES)
    body = json.dumps(CHAT_ANSWER).encode()
    same = whole_answer(ask, prepare(ask, LOCAL), 200, body)
    assert same.body == body and same.usage == Usage(5, 2, 0)
    renamed = whole_answer(ask, prepare(ask, CLOUD), 200, body)
    assert json.loads(renamed.body) == {**CHAT_ANSWER, "model": "ours"}


def test_whole_answers_in_another_protocol() -> None:
    ask = ask_of("/v1/messages", messages=MESSAGES, max_tokens=9)
    sent = prepare(ask, CLOUD)
    got = json.loads(
        whole_answer(ask, sent, 200, json.dumps(CHAT_ANSWER).encode()).body
    )
    assert got["type"] == "message" and got["model"] == "ours"
    assert got["usage"]["output_tokens"] == 2
    error = b'{"error": {"message": "no", "type": "invalid_request_error"}}'
    assert json.loads(error_from(ask, sent, 422, error))["type"] == "error"
    assert whole_answer(ask, sent, 422, error).body == error_from(ask, sent, 422, error)


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"[]", b'{"error": {"message": "x"}}']
)
def test_a_success_that_is_none(body: bytes) -> None:
    ask = ask_of(messages=MESSAGES)
    with pytest.raises(MalformedError):
        whole_answer(ask, prepare(ask, LOCAL), 200, body)


def test_a_large_answer_is_not_parsed_for_its_usage() -> None:
    ask = ask_of("/v1/embeddings", input="x")
    sent = prepare(ask, LOCAL)
    vector = b",".join([b"0.125"] * (BIG // 4))
    usage = (
        b'"usage": {"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3}}'
    )
    for body in (
        b'{"data": [' + vector + b"], " + usage + b"}",
        b"{" + usage + b', "data": [' + vector + b"]}",
    ):
        got = whole_answer(ask, sent, 200, body)
        assert got.body is body and got.usage == Usage(8, 0, 3)
    assert whole_answer(ask, sent, 200, b'{"data": [' + vector + b"]}").usage is None


def test_the_id_of_a_stored_answer_is_noticed() -> None:
    ask = ask_of("/v1/responses", input="x")
    got = whole_answer(
        ask, prepare(ask, LOCAL), 200, b'{"id": "resp_1", "error": null}'
    )
    assert got.response_id == "resp_1"


# --- headers that a target's own configuration makes

INJECTIONS = [
    {"headers": {"X-Title": "a\r\nX-Evil: 1"}},
    {"headers": {"X-Title": "a\nX-Evil: 1"}},
    {"headers": {"X-Title": "a\0"}},
    {"headers": {"X-Evil: 1\r\nX": "a"}},
    {"headers": {"X Title": "a"}},
    {"headers": {"": "a"}},
    {"headers": {"X-Title": "\u20ac"}},
]


@pytest.mark.parametrize("said", INJECTIONS, ids=repr)
def test_no_header_is_injected_by_a_target(said: dict[str, Any]) -> None:
    sent = Sent("/v1/x", b"{}", "chat", False, None)
    target = LOCAL.model_copy(update=said)
    with pytest.raises(ValueError):
        request_bytes("POST", sent.path, "e:1", [], target, None, sent)


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "\u20ac", "a\0"])
@pytest.mark.parametrize("target", [LOCAL, CLAUDE], ids=["bearer", "x-api-key"])
def test_no_header_is_injected_by_a_key(key: str, target: Target) -> None:
    sent = Sent("/v1/x", b"{}", "chat", False, None)
    with pytest.raises(ValueError) as error:
        request_bytes("POST", sent.path, "e:1", [], target, key, sent)
    assert "Evil" not in str(error.value) or isinstance(error.value, UnicodeError)


def test_a_targets_name_is_no_header_of_its_own() -> None:
    for name in ("a\r\nSet-Cookie: x", "\u20acuro", "engine-0", "\x7f"):
        ((_, value),) = downstream_headers([], name)
        assert value.decode("latin-1").isprintable() and len(value) == len(name)


def test_large_answers_are_not_parsed() -> None:
    ask = ask_of("/v1/embeddings", input="x")
    sent = prepare(ask, LOCAL.model_copy(update={"model": "theirs"}))
    filler = b'"data": "' + b"x" * BIG + b'"'
    usage = b'"usage": {"prompt_tokens": 3, "total_tokens": 3, "d": {"a": 1}}'
    for body in (
        b'{"model": "theirs", ' + usage + b", " + filler + b"}",
        b"{" + filler + b', "model": "theirs", ' + usage + b"}",
    ):
        got = whole_answer(ask, sent, 200, body)
        assert got.usage == Usage(3, 0, 0) and b'"model": "ours"' in got.body
    broken = b'{"usage": {"a" 1}, ' + filler + b"}"
    assert whole_answer(ask, sent, 200, broken).usage is None
    assert whole_answer(ask, sent, 200, b"{" + filler + b"}").usage is None


def test_what_is_about_an_answer_goes_through_as_it_is() -> None:
    ask = dataclasses.replace(ask_of("/v1/responses"), method="DELETE")
    sent = Sent("/v1/responses/1", b"", "responses", False, None)
    assert whole_answer(ask, sent, 200, b"no JSON").body == b"no JSON"


def test_billing_lines_are_left_out_of_what_is_sent() -> None:
    line = "x-anthropic-billing-header: cc_version=1; cch=2;"
    system = [{"type": "text", "text": line}, {"type": "text", "text": "Be short."}]
    ask = ask_of("/v1/messages", messages=MESSAGES, system=system, max_tokens=1)
    assert b"billing" not in ask.body and b"Be short." in ask.body
    said = ask_of("/v1/messages", messages=[{"role": "user", "content": line}])
    assert line.encode() in said.body
