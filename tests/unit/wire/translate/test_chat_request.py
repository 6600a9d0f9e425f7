"""Messages requests as chat requests: what OpenAI's own types say of them, and each decision."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from lemnos.errors import UsageError
from lemnos.wire.translate import Untranslatable, chat_request
from tests.unit.wire.translate.forms import (
    CHAT_REQUEST,
    PNG,
    PNG_URL,
    Json,
    assistant,
    check,
    result,
    text,
    use,
    user,
)

WEATHER = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def ask(*messages: Json, **more: Any) -> Json:
    said = list(messages) or [{"role": "user", "content": "Hi"}]
    return {"model": "m", "max_tokens": 100, "messages": said, **more}


def translated(request: Json, strict: bool = False) -> Json:
    """The chat request, which OpenAI's own types take."""
    before = json.dumps(request)
    chat = chat_request(request, strict=strict)
    assert json.dumps(request) == before, "the client's request was changed"
    check(CHAT_REQUEST, chat)
    return chat


def said(*messages: Json, strict: bool = False, **more: Any) -> list[Json]:
    found = translated(ask(*messages, **more), strict)["messages"]
    assert isinstance(found, list)
    return found


def test_the_smallest_request() -> None:
    assert translated(ask()) == {
        "model": "m",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert chat_request(ask(), "theirs")["model"] == "theirs"


def test_sampling_and_limits() -> None:
    more = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "stream": True,
        "service_tier": "auto",
        "context_management": {"edits": []},
    }
    chat = translated(ask(**more))
    assert chat["top_k"] == 40
    assert {key: chat[key] for key in ("temperature", "top_p", "stop", "user")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "user": "u1",
    }
    assert chat["stream"] and chat["stream_options"] == {"include_usage": True}
    strict = translated(ask(**more), strict=True)
    assert "top_k" not in strict and "max_tokens" not in strict
    assert strict["max_completion_tokens"] == 100


def test_strict_requests_have_openais_own_keys_only() -> None:
    known = completion_create_params.CompletionCreateParamsStreaming.__annotations__
    base = completion_create_params.CompletionCreateParamsBase.__annotations__
    chat = translated(
        ask(
            top_k=3,
            stream=True,
            thinking={"type": "enabled", "budget_tokens": 9000},
            output_config={"format": {"type": "json_schema", "schema": {}}},
            tools=[WEATHER],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        ),
        strict=True,
    )
    assert chat.keys() <= known.keys() | base.keys()
    assert chat["reasoning_effort"] == "medium"


def test_system_prompts_are_one_message_at_the_head() -> None:
    blocks = [text("A", cache_control={"type": "ephemeral"}), text("B")]
    assert said(system="A")[0] == {"role": "system", "content": "A"}
    assert said(system=blocks)[0] == {"role": "system", "content": "A\n\nB"}
    assert [m["role"] for m in said(system="")] == ["user"]


def test_later_system_messages_stay_where_they_are_said() -> None:
    note = {"role": "system", "content": "Note"}
    hi, hello = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Oh"},
    )
    assert said(note, hi, system="S") == [
        {"role": "system", "content": "S\n\nNote"},
        {"role": "user", "content": "Hi"},
    ]
    assert said(hi, note)[-1]["content"] == [text("Hi"), text("Note")]
    assert said(hi, hello, note, hi)[-1]["content"] == [text("Hi"), text("Note")]
    assert said(hi, hello, note)[-1] == {"role": "user", "content": "Note"}
    strict = said(hi, note, system="S", strict=True)
    assert [m["role"] for m in strict] == ["system", "user", "system"]


def test_a_system_message_after_tool_results_adds_no_turn() -> None:
    calls = assistant(use("t1"))
    note = {"role": "system", "content": "Note"}
    messages = said(calls, user(result("t1", "sunny")), note)
    assert messages[-1]["role"] == "tool"
    assert messages[-1]["content"] == "sunny\n\nNote"


def test_text_and_images() -> None:
    url = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    data = {"type": "image", "source": PNG}
    (message,) = said(user(text("Look"), data, url))
    assert message["content"] == [
        {"type": "text", "text": "Look"},
        {
            "type": "image_url",
            "image_url": {"url": PNG_URL},
        },
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]
    assert said(user(text("one")))[0]["content"] == "one"


def test_documents_of_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "body"}
    plain = {"type": "document", "source": source, "title": "T"}
    found = {
        "type": "search_result",
        "title": "T",
        "source": "https://x",
        "content": [text("a"), text("b")],
    }
    (message,) = said(user(plain, found))
    assert message["content"] == [text("T\nbody"), text("T\nhttps://x\na\n\nb")]


def test_parallel_tool_calls_and_their_results() -> None:
    messages = said(
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [text("Let me see."), use("t1", city="Rome"), use("t2")],
        },
        user(
            result("t1", [text("sunny")]), result("t2", "no", is_error=True), text("?")
        ),
        tools=[WEATHER],
    )
    assert [m["role"] for m in messages] == [
        *("user", "assistant", "tool", "tool", "user")
    ]
    assert messages[1]["content"] == "Let me see."
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["t1", "t2"]
    function = messages[1]["tool_calls"][0]["function"]
    assert function == {"name": "get_weather", "arguments": '{"city":"Rome"}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "t1", "content": "sunny"}
    assert messages[3]["content"] == "Error: no"
    assert messages[4]["content"] == "?"


def test_images_of_tool_results_follow_them() -> None:
    image = {"type": "image", "source": PNG}
    tool, after = said(user(result("t1", [image]), text("What is it?")))
    assert tool["role"] == "tool" and "next message" in tool["content"]
    kinds = [part["type"] for part in after["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert "t1" in after["content"][0]["text"]


def test_tools_and_their_choice() -> None:
    chat = translated(ask(tools=[{**WEATHER, "strict": True}]))
    assert chat["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather",
                "parameters": WEATHER["input_schema"],
                "strict": True,
            },
        }
    ]
    assert "tool_choice" not in chat

    def choice(**told: Any) -> Any:
        return translated(ask(tools=[WEATHER], tool_choice=told))

    assert choice(type="any")["tool_choice"] == "required"
    assert choice(type="none")["tool_choice"] == "none"
    named = choice(type="tool", name="get_weather")["tool_choice"]
    assert named == {"type": "function", "function": {"name": "get_weather"}}
    alone = choice(type="auto", disable_parallel_tool_use=True)
    assert alone["tool_choice"] == "auto" and alone["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("thinking", "effort", "engine", "strict"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, None, "low", "low"),
        ({"type": "enabled", "budget_tokens": 10_000}, None, "medium", "medium"),
        ({"type": "enabled", "budget_tokens": 31_999}, None, "high", "high"),
        ({"type": "adaptive"}, "max", "high", "max"),
        ({"type": "adaptive"}, None, None, None),
        ({"type": "disabled"}, None, None, None),
        (None, "low", "low", "low"),
    ],
)
def test_thinking(
    thinking: Json | None, effort: str | None, engine: str | None, strict: str | None
) -> None:
    more = {"thinking": thinking} if thinking else {}
    if effort:
        more["output_config"] = {"effort": effort}
    chat = translated(ask(**more))
    assert chat.get("reasoning_effort") == engine
    on = thinking["type"] != "disabled" if thinking else None
    switches = {"enable_thinking": on, "thinking": on} if thinking else None
    assert chat.get("chat_template_kwargs") == switches
    chat = translated(ask(**more), strict=True)
    assert chat.get("reasoning_effort") == strict
    assert "chat_template_kwargs" not in chat


def test_earlier_thinking() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        text("Yes."),
    ]
    history = (
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": "?"},
    )
    first = said(*history)[0]
    assert first["reasoning"] == first["reasoning_content"] == "Hm."
    assert first["content"] == "Yes."
    assert said(*history, strict=True)[0].keys() == {"role", "content"}


@pytest.mark.parametrize("key", ["output_config", "output_format"])
def test_answers_of_a_form(key: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    told = {"format": form} if key == "output_config" else form
    chat = translated(ask(**{key: told}))
    assert chat["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_the_beginning_of_an_answer_is_continued() -> None:
    request = ask(
        {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "It is"}
    )
    chat = translated(request)
    assert chat["continue_final_message"] and chat["add_generation_prompt"] is False
    with pytest.raises(Untranslatable, match="beginning of an answer"):
        chat_request(request, strict=True)


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
CITED = {"type": "text", "media_type": "text/plain", "data": "x"}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"container": "c1"}, "container"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        (
            {"messages": [user(text("x"), {"type": "document", "source": PDF})]},
            "messages[0].content[1]",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "document",
                            "source": CITED,
                            "citations": {"enabled": True},
                        }
                    )
                ]
            },
            "messages[0].content[0].citations",
        ),
        (
            {
                "messages": [
                    user({"type": "image", "source": {"type": "file", "file_id": "f"}})
                ]
            },
            "messages[0].content[0].source",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "server_tool_use"}]}
                ]
            },
            "messages[0].content[0]",
        ),
        (
            {"messages": [user(result("t", [{"type": "tool_reference"}]))]},
            "messages[0].content[0].content[0]",
        ),
        ({"output_config": {"format": {"type": "regex"}}}, "output_config.format"),
    ],
)
def test_what_cannot_be_said_is_named(more: Json, key: str) -> None:
    with pytest.raises(Untranslatable) as told:
        chat_request(ask() | more)
    assert told.value.key == key
    assert key in told.value.what and "OpenAI" in told.value.what and told.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": "m"},
        ask({"role": "owner", "content": "x"}),
        ask({"role": "user", "content": 5}),
        ask({"role": "user"}),
        ask(user({"text": "x"})),
        ask({"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]}),
        ask(tools=[{"name": "x"}]),
        ask(tools=[WEATHER], tool_choice={"type": "maybe"}),
        ask(thinking={"type": "enabled"}),
        ask(messages={}),
    ],
)
def test_what_is_no_request_is_refused(wrong: Json) -> None:
    with pytest.raises(UsageError):
        chat_request(wrong)
