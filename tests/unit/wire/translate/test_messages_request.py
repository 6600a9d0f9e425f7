"""Chat requests as Messages requests: what Anthropic's own types say of them, and each decision."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.wire.translate import Untranslatable, messages_request
from lemnos.wire.translate.thinking import claude
from tests.unit.wire.translate.forms import (
    MESSAGES_REQUEST,
    PNG,
    PNG_URL,
    Json,
    assistant,
    call,
    check,
    result,
    text,
    use,
    user,
)

SONNET, OLD = "claude-sonnet-5", "claude-haiku-4-5-20251001"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def ask(*messages: Json, **more: Any) -> Json:
    said = list(messages) or [{"role": "user", "content": "Hi"}]
    return {"model": "m", "messages": said, **more}


def translated(request: Json, model: str | None = None) -> Json:
    """The Messages request, which Anthropic's own types take."""
    before = json.dumps(request)
    messages = messages_request(request, model)
    assert json.dumps(request) == before, "the client's request was changed"
    check(MESSAGES_REQUEST, messages)
    return messages


def turns(*messages: Json) -> list[Json]:
    found = translated(ask(*messages))["messages"]
    assert isinstance(found, list)
    return found


def test_the_smallest_request() -> None:
    assert translated(ask()) == {
        "model": "m",
        "max_tokens": 32_000,
        "messages": [user(text("Hi"))],
    }
    assert translated(ask(), "theirs")["model"] == "theirs"


def test_sampling_and_limits() -> None:
    request = ask(
        temperature=1.7,
        top_p=0.9,
        top_k=40,
        stop="END",
        user="u1",
        max_tokens=5,
        max_completion_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
        presence_penalty=0.5,
        seed=1,
        n=1,
        logprobs=False,
        store=True,
        metadata={"a": "b"},
    )
    assert translated(request) == {
        "model": "m",
        "max_tokens": 7,
        "messages": [user(text("Hi"))],
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "stream": True,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 40,
    }
    # Of temperature and top_p, Claude models take one; newer ones take none.
    old = translated(request, OLD)
    assert (old["temperature"], old["top_k"]) == (1.0, 40) and "top_p" not in old
    assert not translated(request, SONNET).keys() & {"temperature", "top_p", "top_k"}
    assert "top_k" not in translated(ask(top_k=-1))


def test_system_messages() -> None:
    system = {"role": "system", "content": "A"}
    developer = {"role": "developer", "content": [text("B"), text("C")]}
    hi, oh = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}
    messages = translated(ask(system, developer, hi))
    assert messages["system"] == "A\n\nB\n\nC"
    assert turns(hi, system) == [user(text("Hi"), text("A"))]
    assert turns(hi, oh, system, hi)[-1] == user(text("Hi"), text("A"))
    assert turns(hi, oh, system)[-1] == user(text("A"))


def test_text_and_images() -> None:
    parts = [
        text("Look", cache_control={"type": "ephemeral"}),
        {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        text("  "),
    ]
    assert turns(user(*parts)) == [
        user(
            text("Look", cache_control={"type": "ephemeral"}),
            {"type": "image", "source": PNG},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        )
    ]


def test_turns_alternate_and_are_not_empty() -> None:
    hi, empty = {"role": "user", "content": "Hi"}, {"role": "user", "content": ""}
    nothing = {"role": "assistant", "content": None}
    assert turns(hi, empty, hi, nothing, hi) == [
        user(text("Hi"), text("Hi"), text("Hi"))
    ]


def test_parallel_tool_calls_and_their_results() -> None:
    calls = [call("t.1:0", '{"city":"Rome"}'), call("t2", "")]
    messages = turns(
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "t.1:0", "content": "sunny"},
        {"role": "tool", "tool_call_id": "t2", "content": [text("no")]},
        {"role": "user", "content": "?"},
    )
    assert messages[1:] == [
        # Anthropic takes no dots and colons in ids.
        assistant(text("Let me see."), use("t_1_0", city="Rome"), use("t2")),
        user(result("t_1_0", "sunny"), result("t2", [text("no")]), text("?")),
    ]


def test_tools_and_their_choice() -> None:
    other = {"type": "function", "function": {"name": "other", "strict": True}}
    bare = {"type": "object", "properties": {}}
    messages = translated(ask(tools=[TOOL, other]))
    assert messages["tools"] == [
        {
            "name": "get_weather",
            "description": "The weather",
            "input_schema": TOOL["function"]["parameters"],  # type: ignore[index]
        },
        {"name": "other", "input_schema": bare, "strict": True},
    ]
    assert "tool_choice" not in messages

    def choice(told: Any, **more: Any) -> Json:
        return translated(ask(tools=[TOOL, other], tool_choice=told, **more))

    assert choice("required")["tool_choice"] == {"type": "any"}
    assert choice("none", parallel_tool_calls=False)["tool_choice"] == {"type": "none"}
    assert choice("auto", parallel_tool_calls=False)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    named = choice({"type": "function", "function": {"name": "other"}})["tool_choice"]
    assert named == {"type": "tool", "name": "other"}
    listed = [{"type": "function", "function": {"name": "other"}}]
    allowed = {"mode": "required", "tools": listed}
    few = choice({"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in few["tools"]] == ["other"]
    assert few["tool_choice"] == {"type": "any"}
    assert "tool_choice" not in translated(ask(tool_choice="none"))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-haiku-4-5-20251001", (4, 5)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-3-7-sonnet-20250219", (3, 7)),
        ("anthropic/claude-4.7-opus", (4, 7)),
        ("claude-opus-5-5", (5, 5)),
        ("claude-mythos-preview", (99, 0)),
        ("glm-4.7", None),
    ],
)
def test_versions_of_claude(name: str, version: tuple[int, int] | None) -> None:
    assert claude(name) == version


def adaptive(effort: str) -> Json:
    thinking = {"type": "adaptive", "display": "summarized"}
    return {"thinking": thinking, "output_config": {"effort": effort}}


@pytest.mark.parametrize(
    ("asked", "model", "told"),
    [
        ({}, SONNET, {}),
        ({"reasoning_effort": "minimal"}, SONNET, adaptive("low")),
        ({"reasoning_effort": "xhigh"}, SONNET, adaptive("xhigh")),
        ({"reasoning_effort": "none"}, SONNET, {"thinking": {"type": "disabled"}}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            OLD,
            {"thinking": {"type": "disabled"}},
        ),
        (
            {"chat_template_kwargs": {"thinking": True}},
            OLD,
            {"thinking": {"type": "enabled", "budget_tokens": 8192}},
        ),
        (
            {"reasoning_effort": "high", "max_tokens": 4000},
            "glm-4.7",
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        ),
        ({"reasoning_effort": "high", "max_tokens": 2000}, OLD, {}),
    ],
)
def test_thinking(asked: Json, model: str, told: Json) -> None:
    messages = translated(ask(**asked), model)
    found = {k: messages[k] for k in ("thinking", "output_config") if k in messages}
    assert found == told


def test_thinking_goes_with_no_sampling_and_no_forced_tool() -> None:
    request = ask(reasoning_effort="low", temperature=0.2)
    assert "temperature" not in translated(request, OLD)
    request = ask(reasoning_effort="low", tools=[TOOL], tool_choice="required")
    assert "thinking" not in translated(request, OLD)


def test_a_budget_is_not_asked_for_after_calls_without_signed_thinking() -> None:
    made = {"role": "assistant", "tool_calls": [call("t1")], "reasoning_content": "Hm."}
    done = {"role": "tool", "tool_call_id": "t1", "content": "sunny"}
    request = ask({"role": "user", "content": "?"}, made, done, reasoning_effort="low")
    messages = translated(request, OLD)
    assert "thinking" not in messages
    assert [block["type"] for block in messages["messages"][1]["content"]] == [
        "tool_use"
    ]
    detail = {"type": "reasoning.text", "text": "Hm.", "signature": "s", "index": 0}
    secret = {"type": "reasoning.encrypted", "data": "x", "index": 1}
    made["reasoning_details"] = [detail, secret]
    messages = translated(request, OLD)
    assert messages["thinking"]["type"] == "enabled"
    assert messages["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
    ]


def test_answers_of_a_form() -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object"}},
    }
    messages = translated(ask(response_format=form, reasoning_effort="low"), SONNET)
    assert messages["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }
    assert "output_config" not in translated(ask(response_format={"type": "text"}))


AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {}}},
            "tool_choice",
        ),
        ({"messages": [user(text("x"), AUDIO)]}, "messages[0].content[1]"),
        (
            {"messages": [user({"type": "file", "file": {"file_id": "x"}})]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [user({"type": "image_url", "image_url": {"url": "x"}})]},
            "messages[0].content[0].image_url",
        ),
        (
            {"messages": [{"role": "function", "name": "x", "content": "x"}]},
            "messages[0].role",
        ),
        (
            {"messages": [{"role": "assistant", "audio": {"id": "x"}}]},
            "messages[0].audio",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("t", "{")]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_cannot_be_said_is_named(more: Json, key: str) -> None:
    with pytest.raises(Untranslatable) as told:
        messages_request(ask() | more)
    assert told.value.key == key
    assert key in told.value.what and "Anthropic" in told.value.what and told.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": "m"},
        {"messages": [{"role": "user", "content": "x"}]},
        ask({"content": "x"}),
        ask({"role": "user", "content": 5}),
        ask({"role": "user", "content": [5]}),
        ask({"role": "tool", "content": "x"}),
        ask(tools=[{"type": "function"}]),
        ask(tools=[TOOL], tool_choice="maybe"),
        ask(temperature="hot"),
        ask(max_tokens="many", reasoning_effort="low"),
        ask(messages=None),
    ],
)
def test_what_is_no_request_is_refused(wrong: Json) -> None:
    with pytest.raises(UsageError):
        messages_request(wrong)
