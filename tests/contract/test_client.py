"""The small client, sync and async, against a server that does what a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lemnos import AsyncClient, Client, LemnosError
from tests import upstream

CHAT = {
    "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def body(data: Any, status: str = "200 OK") -> upstream.Script:
    return upstream.answer(json.dumps(data).encode(), status)


def piece(text: str) -> bytes:
    data = {"choices": [{"delta": {"content": text}}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def ask(url: str, what: str, **options: Any) -> Any:
    """What both clients answer; they must agree."""

    async def by_async() -> Any:
        async with AsyncClient(url, **options) as client:
            if what == "stream":
                return [text async for text in client.stream("Hi")]
            if what == "models":
                return await client.models()
            return await getattr(client, what)("Hi", max_tokens=5)

    with Client(url, **options) as client:
        if what == "stream":
            sync: Any = list(client.stream("Hi"))
        elif what == "models":
            sync = client.models()
        else:
            sync = getattr(client, what)("Hi", max_tokens=5)
    assert asyncio.run(by_async()) == sync
    return sync


def failure(url: str, what: str, **options: Any) -> str:
    """What both clients say is wrong; they must agree."""
    with pytest.raises(LemnosError) as sync:
        with Client(url, **options) as client:
            call = getattr(client, what)("Hi")
            list(call) if what == "stream" else None

    async def by_async() -> None:
        async with AsyncClient(url, **options) as client:
            if what == "stream":
                _ = [text async for text in client.stream("Hi")]
            else:
                await getattr(client, what)("Hi")

    with pytest.raises(LemnosError) as other:
        asyncio.run(by_async())
    assert str(other.value) == str(sync.value)
    return str(sync.value)


def test_chat_generate_and_stream() -> None:
    with upstream.serving(body(CHAT)) as server:
        answer = ask(f"{server.url}/v1", "chat", model="m", api_key="k")
        assert (answer.text, answer.finish_reason) == ("Hello", "stop")
        assert (answer.prompt_tokens, answer.output_tokens) == (3, 2)
        asked = server.asked[0]
        assert asked.path == "/v1/chat/completions"
        assert asked.headers["authorization"] == "Bearer k"
        assert json.loads(asked.body) == {
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
        }
    with upstream.serving(body({"choices": [{"text": " Paris"}]})) as server:
        assert ask(server.url, "generate", model="m") == " Paris"
    done = b"data: [DONE]\n\n"
    with upstream.serving(upstream.stream(piece("Hel"), piece("lo"), done)) as server:
        assert "".join(ask(server.url, "stream", model="m")) == "Hello"


def test_the_first_model_is_the_default() -> None:
    with upstream.serving(
        body({"data": [{"id": "first"}, {"id": "second"}]})
    ) as server:
        assert ask(server.url, "models") == ["first", "second"]
        with Client(server.url) as client, pytest.raises(LemnosError):
            client.generate("Hi")  # this server answers with models to everything
        assert json.loads(server.asked[-1].body)["model"] == "first"
    with upstream.serving(body({"data": []})) as server:
        assert "no models" in failure(server.url, "generate")


@pytest.mark.parametrize("what", ["chat", "generate", "stream"])
def test_errors_carry_the_servers_message(what: str) -> None:
    error = {"error": {"message": "no such model"}}
    with upstream.serving(body(error, "404 Not Found")) as server:
        said = failure(server.url, what, model="m")
        assert "answered 404: no such model" in said
    with upstream.serving(body(error, "401 Unauthorized")) as server:
        assert "give the key" in failure(server.url, what, model="m")
    with upstream.serving(upstream.answer(b"oops", "500 Oh No")) as server:
        assert "answered 500: oops" in failure(server.url, what, model="m")
    with upstream.serving(upstream.reset) as server:
        assert "broke off" in failure(server.url, what, model="m")
    assert "nothing answers" in failure("http://127.0.0.1:9", what, model="m")


@pytest.mark.parametrize("answer", [b"[]", b"<html>", b"{}", b'{"choices": [3]}'])
def test_strange_answers_are_a_sentence(answer: bytes) -> None:
    with upstream.serving(upstream.answer(answer)) as server:
        for what in ("chat", "generate"):
            assert "answered what is no completion" in failure(
                server.url, what, model="m"
            )


def test_errors_within_a_stream() -> None:
    event = b'data: {"error": {"message": "engine-0 broke off"}}\n\n'
    with upstream.serving(upstream.stream(piece("a"), event)) as server:
        assert "engine-0 broke off" in failure(server.url, "stream", model="m")
    with upstream.serving(upstream.stream(b"data: {oops\n\n")) as server:
        assert "no completion" in failure(server.url, "stream", model="m")
    with upstream.serving(upstream.stream(piece("a"), end="cut")) as server:
        assert "broke off" in failure(server.url, "stream", model="m")
