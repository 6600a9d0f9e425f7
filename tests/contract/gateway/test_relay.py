"""What the relay keeps, drops, tries and repairs on its way between client and engine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from lemnos.deployments.targets import write_table
from tests import processes, upstream
from tests.contract.gateway.gateways import (
    BODY,
    CHAT,
    Behind,
    Start,
    sse,
    table_of,
)

MESSAGES: Any = BODY["messages"]


def test_headers_of_one_leg_stay_there_and_the_others_go_on(behind: Behind) -> None:
    extra = "Keep-Alive: timeout=5\r\nX-Two: 1\r\nX-Two: 2\r\nAccess-Control-Allow-Origin: *\r\n"
    gateway, engine = behind(upstream.answer(b"{}", extra=extra))
    sent = [
        ("X-Many", "1"),
        ("X-Many", "2"),
        ("TE", "trailers"),
        ("Origin", gateway.url),
    ]
    got = gateway.post(path=f"{CHAT}?a=%2f&b=c%20d", headers=sent)
    assert got.headers.get_list("x-two") == ["1", "2"]
    assert not {"keep-alive", "access-control-allow-origin"} & set(got.headers)
    (asked,) = engine.asked
    assert asked.path == f"{CHAT}?a=%2f&b=c%20d"
    assert asked.head.lower().count("x-many: ") == 2
    assert not {"te", "origin"} & set(asked.headers)
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["host"] == engine.url.removeprefix("http://")


def test_a_stream_of_announced_length_that_breaks_ends_with_an_error_event(
    behind: Behind,
) -> None:
    async def script(writer: upstream.Writer) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
        writer.write(head.encode() + sse("a")[0])
        await writer.drain()
        writer.close()

    gateway, _ = behind(script)
    first, last, empty = gateway.post().content.split(b"\n\n")
    assert first + b"\n\n" == sse("a")[0] and empty == b""
    assert b"broke off" in last


def test_what_never_ends_an_event_is_no_stream_of_events(behind: Behind) -> None:
    async def script(writer: upstream.Writer) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        writer.write(head.encode())
        try:
            while True:
                writer.write(b"x" * 0x10000)
                await writer.drain()
        except ConnectionError:
            dropped.set()

    dropped = threading.Event()
    gateway, _ = behind(script)
    assert b"an event without an end" in gateway.post().content
    assert dropped.wait(10)


def test_the_least_loaded_engine_is_asked_first(start: Start) -> None:
    waits = upstream.stream(*sse("a"), end="hang")
    with upstream.serving(waits) as one, upstream.serving(waits) as two:
        gateway = start(one.url, two.url)
        with contextlib.ExitStack() as open_streams:
            client = open_streams.enter_context(httpx2.Client(trust_env=False))
            chunks = []
            for _ in range(6):
                stream = client.stream("POST", gateway.url + CHAT, json=BODY)
                chunks.append(open_streams.enter_context(stream).iter_raw())
                assert next(chunks[-1]) == sse("a")[0]
            assert (len(one.asked), len(two.asked)) == (3, 3)


def test_an_engine_whose_key_is_missing_is_passed_over(
    start: Start, tmp_path: Path
) -> None:
    with upstream.serving(upstream.answer(b"{}")) as engine:
        gateway = start(engine.url, key_file=str(tmp_path / "none"))
        assert gateway.post().status_code == 502
        assert not engine.asked
        (tmp_path / "none").write_text("now")
        assert gateway.post().status_code == 200


def test_whole_answers_through_the_sdks(behind: Behind) -> None:
    chat = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": "Hello"}}],
        "type": "message", "role": "assistant", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hello"}],
        "usage": {"input_tokens": 3, "output_tokens": 2, "prompt_tokens": 3,
                  "completion_tokens": 2, "total_tokens": 5},
        "input_tokens": 3, "data": [],
    }  # fmt: skip
    gateway, _ = behind(upstream.answer(json.dumps(chat).encode()))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        got = client.chat.completions.create(model="m", messages=MESSAGES)
        assert got.choices[0].message.content == "Hello"
        assert client.completions.create(model="m", prompt="Hi").id == "1"
        embedded = client.embeddings.create(
            model="m", input="Hi", encoding_format="float"
        )
        assert embedded.model == "m"
        assert client.responses.create(model="m", input="Hi").id == "1"
    with anthropic.Anthropic(base_url=gateway.url, api_key="none") as other:
        message = other.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        assert message.content[0].text == "Hello"  # type: ignore[union-attr]
        count = other.messages.count_tokens(model="m", messages=MESSAGES)
        assert count.input_tokens == 3


def test_a_wrong_key_is_the_sdks_own_error(start: Start) -> None:
    gateway = start(keys=("right",))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="API key is needed"):
            client.models.list()
    with anthropic.Anthropic(base_url=gateway.url, api_key="wrong") as other:
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            other.messages.create(model="m", messages=MESSAGES, max_tokens=9)
    with anthropic.Anthropic(base_url=gateway.url, api_key="right") as other:
        assert [model.id for model in other.models.list()] == ["m"]


def test_ipv6_loopback(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    table = tmp_path / "targets.json"
    write_table(table, table_of())
    words = ("--targets", str(table), "--host", "::1", "--port", "0")
    with processes.running("lemnos.gateway", *words) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        assert url.startswith("http://[::1]:")
        with httpx2.Client(trust_env=False, timeout=30) as client:
            assert client.get(f"{url}/v1/models").status_code == 200
        process.terminate()
        assert process.wait(20) == 0


def test_a_port_that_cannot_be(tmp_path: Path) -> None:
    table = tmp_path / "targets.json"
    write_table(table, table_of())
    words = ("--targets", str(table), "--port", "70000")
    done = processes.run("lemnos.gateway", *words, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot listen on 127.0.0.1:70000 (")
    assert "Traceback" not in done.stderr
