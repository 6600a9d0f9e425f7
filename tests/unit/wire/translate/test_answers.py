"""Whole answers and errors, and requests there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError
from lemnos.wire.errors import Protocol
from lemnos.wire.translate import (
    chat_answer,
    chat_request,
    error_answer,
    messages_answer,
    messages_request,
)
from tests.unit.wire.translate.forms import (
    CHAT_ANSWER,
    CHAT_REQUEST,
    MESSAGES_ANSWER,
    MESSAGES_REQUEST,
    PNG,
    Json,
    assistant,
    call,
    check,
    result,
    text,
    use,
    user,
)


def completion(
    finish: str = "stop", /, choice: Json | None = None, **said: Any
) -> Json:
    message = {"role": "assistant", "content": None, **said}
    one = {"index": 0, "finish_reason": finish, "message": message, **(choice or {})}
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    head = {"id": "c1", "object": "chat.completion", "created": 7, "model": "theirs"}
    return head | {"choices": [one], "usage": usage}


def as_messages(answer: Json) -> Json:
    message = messages_answer(answer, "ours")
    check(MESSAGES_ANSWER, message)
    return message


def message(*blocks: Json, **more: Any) -> Json:
    usage = {
        "input_tokens": 6,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 4,
        "output_tokens": 12,
        "output_tokens_details": {"thinking_tokens": 5},
    }
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "theirs"}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    return head | {"content": list(blocks), "usage": usage} | stop | more


def as_chat(answer: Json) -> Json:
    chat = chat_answer(answer, "ours", created=7)
    check(CHAT_ANSWER, chat)
    return chat


def test_a_chat_answer_as_a_message() -> None:
    answer = completion(
        "tool_calls",
        reasoning="Hm.",
        content="Let me see.",
        tool_calls=[call("t1", '{"city":"Rome"}'), call("t2", "")],
    )
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    assert as_messages(answer) == message(
        thought,
        text("Let me see."),
        use("t1", city="Rome"),
        use("t2"),
        id="c1",
        model="ours",
        stop_reason="tool_use",
    )


def test_arguments_that_are_no_object_are_not_made_up() -> None:
    answer = completion(tool_calls=[call("t1", '{"city":'), call("t2", "[1]")])
    first, second = as_messages(answer)["content"]
    assert first["input"] == {"unparsed_arguments": '{"city":'}
    assert second["input"] == {"unparsed_arguments": "[1]"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (completion(content="x"), "end_turn"),
        (completion("length", content="x"), "max_tokens"),
        (completion("content_filter", content="x"), "refusal"),
        (completion(refusal="No."), "refusal"),
        # What engines say where a tool was demanded.
        (completion("stop", tool_calls=[call("t")]), "tool_use"),
        (completion(content="x", choice={"stop_reason": "END"}), "stop_sequence"),
    ],
)
def test_stop_reasons(answer: Json, reason: str) -> None:
    told = as_messages(answer)
    assert told["stop_reason"] == reason
    assert told["content"][0].get("text") in ("x", "No.", None)
    assert told["stop_sequence"] == ("END" if reason == "stop_sequence" else None)


def test_a_message_as_a_chat_answer() -> None:
    chat = as_chat(
        message(
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            text("Let me "),
            text("see."),
            use("t1", city="Rome"),
            stop_reason="tool_use",
        )
    )
    told = {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "tool_calls": [call("t1", '{"city":"Rome"}')],
        "reasoning_content": "Hm.",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "Hm.", "signature": "s", "index": 0},
            {"type": "reasoning.encrypted", "data": "x", "index": 1},
        ],
    }
    logprobs = {"logprobs": None}
    expected = completion("tool_calls", choice={"message": told, **logprobs})
    assert chat == expected | {"id": "msg_1", "model": "ours"}


def test_an_echoed_answer_gives_anthropic_its_thinking_back() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    blocks = [
        thought,
        {"type": "redacted_thinking", "data": "x"},
        use("t1", city="Rome"),
    ]
    echoed = as_chat(message(*blocks))["choices"][0]["message"]
    request = {"model": "claude-sonnet-5", "messages": [echoed]}
    (turn,) = messages_request(request)["messages"]
    assert turn == assistant(*blocks)


def test_usage_without_details() -> None:
    bare = completion(content="x") | {
        "usage": {"prompt_tokens": 3, "completion_tokens": 1}
    }
    assert as_messages(bare)["usage"]["input_tokens"] == 3
    assert as_messages(bare | {"usage": None})["usage"]["output_tokens"] == 0
    chat = as_chat(message(text("x"), usage={"input_tokens": 3, "output_tokens": 1}))
    assert chat["usage"]["prompt_tokens"] == 3 and chat["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"choices": []},
        {"choices": [{"finish_reason": "stop"}]},
        completion(tool_calls=[{"id": "t"}]),
        completion("abort", content="x"),
        completion(content=5),
    ],
)
def test_what_is_no_chat_answer_is_refused(wrong: Json) -> None:
    with pytest.raises(LemnosError) as told:
        messages_answer(wrong, "ours")
    assert not isinstance(told.value, UsageError)  # it is not the client's mistake


@pytest.mark.parametrize(
    "wrong", [{}, {"content": 5}, {"content": [{}]}, {"content": []}]
)
def test_what_is_no_message_is_refused(wrong: Json) -> None:
    with pytest.raises(LemnosError):
        chat_answer(wrong, "ours")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no", "type": "x"}}', "no"),
        (b'{"type": "error", "error": {"type": "x", "message": "no"}}', "no"),
        (b'{"object": "error", "message": "no", "code": 400}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"detail": [{"msg": "a"}, {"msg": "b"}]}', "a; b"),
        (b"<html>no</html>", "<html>no</html>"),
        (b"", "the target answered with status 400"),
        (b"5", "the target answered with status 400"),
        (b'{"error": {}}', "the target answered with status 400"),
        (b"\xff", "\ufffd"),
    ],
)
@pytest.mark.parametrize("to", ["openai", "anthropic"])
def test_errors_say_the_same_in_the_clients_protocol(
    body: bytes, message: str, to: Protocol
) -> None:
    told = json.loads(error_answer(body, 400, to))
    assert told["error"]["message"] == message
    assert told["error"]["type"] == "invalid_request_error"
    assert told.get("type") == ("error" if to == "anthropic" else None)


def test_errors_keep_their_code_and_are_named_by_their_status() -> None:
    body = (
        b'{"error": {"message": "no", "code": "context_length_exceeded", "param": "m"}}'
    )
    told = json.loads(error_answer(body, 400, "openai"))["error"]
    assert (told["code"], told["param"]) == ("context_length_exceeded", "m")
    told = json.loads(error_answer(b"", 529, "anthropic"))["error"]
    assert told["type"] == "overloaded_error"
    assert len(error_answer(b"x" * 10_000, 502, "openai")) < 1_000


WORDS = st.text("ab ü😀\n", min_size=1, max_size=6).filter(str.strip)
IMAGE = {"type": "image", "source": PNG}
NAMES = st.sampled_from(["t1", "t2", "t3"])
USER = st.lists(st.one_of(WORDS.map(text), st.just(IMAGE)), min_size=1, max_size=4)
INPUTS = st.dictionaries(st.sampled_from("xyz"), st.one_of(WORDS, st.integers(0, 9)))


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    """User and assistant take turns; calls get their results first in the user's next turn."""
    messages: list[Json] = [user(*draw(USER))]
    for _ in range(draw(st.integers(0, 3))):
        names = draw(st.lists(NAMES, unique=True, max_size=3))
        said = draw(st.lists(WORDS, min_size=0 if names else 1, max_size=1))
        calls = [use(name, **draw(INPUTS)) for name in names]
        messages.append(assistant(*map(text, said), *calls))
        results = [result(name, [text(draw(WORDS))]) for name in names]
        more = draw(USER) if draw(st.booleans()) or not results else []
        messages.append(user(*results, *more))
    return messages


@given(conversations(), st.lists(WORDS, max_size=2))
def test_messages_to_chat_and_back_keep_text_tools_and_images(
    messages: list[Json], system: list[str]
) -> None:
    tool = {"name": "get_weather", "input_schema": {"type": "object"}}
    request: Json = {
        "model": "m",
        "max_tokens": 9,
        "messages": messages,
        "tools": [tool],
    }
    if system:
        request["system"] = "\n\n".join(system)
    chat = chat_request(request)
    check(CHAT_REQUEST, chat)
    back = messages_request(chat)
    check(MESSAGES_REQUEST, back)
    assert back == request | {"messages": [*map(_plain, messages)]}


def _plain(message: Json) -> Json:
    """A tool result's one text may come back as a string."""
    blocks = [
        b | {"content": b["content"][0]["text"]} if b["type"] == "tool_result" else b
        for b in message["content"]
    ]
    return message | {"content": blocks}


@given(conversations())
def test_images_of_tool_results_are_kept_too(messages: list[Json]) -> None:
    for turn in messages:
        for block in turn["content"]:
            if block["type"] == "tool_result":
                block["content"].append(IMAGE)
    request = {"model": "m", "max_tokens": 9, "messages": messages}
    back = messages_request(chat_request(request))
    assert json.dumps(back).count('"image"') == json.dumps(request).count('"image"')


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "source", "id", "name"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
KEYS = ["system", "tools", "tool_choice", "thinking", "metadata", "stop", "n", "stream"]
MORE_KEYS = ["response_format", "output_config", "chat_template_kwargs", "max_tokens"]
ROLES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": JSON},
    optional={"tool_calls": JSON, "tool_call_id": JSON, "reasoning_details": JSON},
)


@given(
    st.dictionaries(st.sampled_from(KEYS + MORE_KEYS), JSON, max_size=4),
    st.one_of(JSON, st.lists(ROLES, max_size=3)),
)
def test_no_json_makes_a_traceback(more: Json, messages: Any) -> None:
    request = {"model": "m", "max_tokens": 9, "messages": messages, **more}
    for translate in (chat_request, messages_request):
        try:
            assert isinstance(translate(request), dict)
        except UsageError as error:
            assert error.what


@given(JSON, JSON)
def test_no_answer_makes_a_traceback(message: Any, usage: Any) -> None:
    chat = {"choices": [{"finish_reason": "stop", "message": message}], "usage": usage}
    for translate, answer in (
        (messages_answer, chat),
        (chat_answer, {"content": message, "usage": usage}),
    ):
        try:
            assert isinstance(translate(answer, "ours"), dict)
        except LemnosError as error:
            assert error.what
