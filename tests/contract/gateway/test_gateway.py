"""The gateway's own process, in front of engines that do what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from lemnos.deployments.targets import write_table
from tests import processes, upstream
from tests.contract.gateway.gateways import BODY, CHAT, Behind, Start, sse, table_of
from tests.waiting import until


def test_bodies_go_through_byte_for_byte(behind: Behind) -> None:
    answer = b'{"odd" :  [1,2 ],\n "choices": []}'
    gateway, engine = behind(
        upstream.answer(answer, extra="X-Engine: yes\r\nServer: s\r\n")
    )
    sent = b'{"model": "m",   "messages": [], "unknown":"\xc3\xa9"}'
    got = gateway.post(sent, headers={"X-Client": "yes"})
    assert got.content == answer
    assert got.headers["x-engine"] == "yes"
    assert "server" not in got.headers
    assert engine.asked[0].body == sent
    assert engine.asked[0].headers["x-client"] == "yes"
    assert engine.asked[0].path == CHAT


def test_every_api_is_relayed(behind: Behind) -> None:
    gateway, engine = behind(upstream.answer(b"{}"))
    paths = ["/v1/completions", "/v1/embeddings", "/v1/messages",
             "/v1/messages/count_tokens", "/v1/responses", "/tokenize", "/detokenize",
             CHAT + "?beta=true"]  # fmt: skip
    for path in paths:
        assert gateway.post(path=path).status_code == 200
    assert [asked.path for asked in engine.asked] == paths


def test_streams_go_through_byte_for_byte(behind: Behind) -> None:
    pieces = [*sse("a", "é\u2028"), b": a comment\r\n\r\n", b"data: [DONE]\n\n"]
    cut_anywhere = b"".join(pieces)
    thirds = [cut_anywhere[at : at + 7] for at in range(0, len(cut_anywhere), 7)]
    gateway, _ = behind(upstream.stream(*thirds))
    assert gateway.post().content == cut_anywhere


def test_errors_of_the_engine_pass_through(behind: Behind) -> None:
    gateway, _ = behind(upstream.answer(b'{"error": "no"}', "422 Unprocessable Entity"))
    got = gateway.post()
    assert (got.status_code, got.content) == (422, b'{"error": "no"}')


def test_credentials_stay_and_the_engines_key_is_used(
    behind: Behind, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("engine-secret\n")
    gateway, engine = behind(upstream.answer(b"{}"), key_file=str(key))
    mine = {"Authorization": "Bearer mine", "x-api-key": "mine", "Cookie": "mine=1"}
    gateway.post(headers=mine)
    assert engine.asked[0].headers["authorization"] == "Bearer engine-secret"
    assert "mine" not in str(engine.asked[0].headers)
    key.write_text("another\n")
    os.utime(key, ns=(1, 1))
    gateway.post()
    assert engine.asked[1].headers["authorization"] == "Bearer another"


def test_openai_sdk(behind: Behind) -> None:
    gateway, _ = behind(upstream.stream(*sse("Hel", "lo"), b"data: [DONE]\n\n"))
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    with client:
        messages: Any = BODY["messages"]
        chunks = client.chat.completions.create(
            model="m", messages=messages, stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello"
        models = client.models.list().data
        assert [(m.id, m.created) for m in models] == [("m", 1_700_000_000)]
        assert client.models.retrieve("m").id == "m"
        with pytest.raises(
            openai.NotFoundError, match="Did you mean 'm'|There are: m"
        ) as error:
            client.chat.completions.create(model="mm", messages=messages)
        assert error.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")


def test_anthropic_sdk(behind: Behind) -> None:
    events = [
        ("message_start", {"type": "message_start", "message": {
            "id": "1", "type": "message", "role": "assistant", "content": [], "model": "m",
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 0}}}),
        ("content_block_start", {"type": "content_block_start", "index": 0,
                                 "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0,
                                 "delta": {"type": "text_delta", "text": "Hello"}}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_stop", {"type": "message_stop"}),
    ]  # fmt: skip
    raw = [
        f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in events
    ]
    gateway, _ = behind(upstream.stream(*raw))
    with anthropic.Anthropic(
        base_url=gateway.url, api_key="none", max_retries=0
    ) as client:
        messages: Any = BODY["messages"]
        with client.messages.stream(
            model="m", messages=messages, max_tokens=9
        ) as stream:
            assert "".join(stream.text_stream) == "Hello"
        assert [m.id for m in client.models.list()] == ["m"]
        assert client.models.retrieve("m").display_name == "m"
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            client.messages.create(model="other", messages=messages, max_tokens=9)


def test_a_broken_stream_ends_with_an_error_event(behind: Behind) -> None:
    whole, half = sse("a")[0], b'data: {"choices": [{"delta": {"cont'
    gateway, engine = behind(upstream.stream(whole, half, end="cut"))
    *events, last, empty = gateway.post().content.split(b"\n\n")
    assert events == [whole.strip()] and empty == b""
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert "broke off" in error["message"] and error["type"] == "server_error"
    got = gateway.post(path="/v1/messages").content.split(b"\n\n")
    assert got[1].startswith(b'event: error\ndata: {"type":"error"')


def test_a_broken_stream_is_an_error_for_the_sdk(behind: Behind) -> None:
    gateway, _ = behind(upstream.stream(*sse("a"), end="cut"))
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    messages: Any = BODY["messages"]
    with client, pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="m", messages=messages, stream=True))


def test_an_engine_that_cannot_be_reached_is_502_and_another_is_tried(
    start: Start,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    gateway = start(dead)
    got = gateway.post()
    assert got.status_code == 502
    assert "engine-0" in got.json()["error"]["message"]
    with (
        upstream.serving(upstream.answer(b"{}")) as alive,
        upstream.serving(upstream.reset) as broken,
    ):
        gateway.write(dead, broken.url, alive.url)
        until(lambda: gateway.post().status_code == 200)
        assert broken.asked and alive.asked


def test_an_idle_connection_that_the_engine_closed_is_no_failure(start: Start) -> None:
    answers = 0

    async def answers_once_a_connection(writer: asyncio.StreamWriter) -> None:
        """Promises to keep the connection, and closes it when it is used again."""
        nonlocal answers
        if getattr(writer, "used", False):
            writer.transport.abort()
            return
        writer.used = True  # type: ignore[attr-defined]
        answers += 1
        await upstream.answer(b"{}")(writer)

    with upstream.serving(answers_once_a_connection) as engine:
        gateway = start(engine.url)
        assert [gateway.post().status_code for _ in range(4)] == [200] * 4
    assert answers == 4
    assert len(engine.asked) > 4, "no connection was used again"


def test_an_answer_that_breaks_off_before_its_end_is_tried_elsewhere(
    start: Start,
) -> None:
    with (
        upstream.serving(
            upstream.stream(b'{"half', end="cut", kind="application/json")
        ) as bad,
        upstream.serving(upstream.answer(b'{"whole": 1}')) as good,
    ):
        assert start(bad.url, good.url).post().content == b'{"whole": 1}'
        assert start(bad.url).post().status_code == 502


def test_no_replica_is_503_with_retry_after(start: Start) -> None:
    gateway = start()
    got = gateway.post()
    assert got.status_code == 503 and got.headers["retry-after"] == "2"
    health = {"status": "ok", "models": 1, "ready": 0, "revision": 1}
    assert gateway.get("/health").json() == health
    got = gateway.post(path="/v1/messages")
    assert got.json()["error"]["type"] == "overloaded_error"


BAD_BODIES = [
    (b"{", 400, "not valid JSON"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (b"[1]", 400, "not a JSON object"),
    (b"{}", 400, "say which 'model'"),
    (b'{"model": 3}', 400, "say which 'model'"),
    (b'{"model": "x"}', 404, "does not exist"),
]


def test_bad_requests_get_the_protocols_error(start: Start) -> None:
    gateway = start()
    for body, status, says in BAD_BODIES:
        for path, kind in ((CHAT, "openai"), ("/v1/messages", "anthropic")):
            got = gateway.post(body, path)
            assert got.status_code == status
            assert says in got.json()["error"]["message"]
            assert (got.json().get("type") == "error") == (kind == "anthropic")


def test_paths_and_methods(start: Start) -> None:
    gateway = start()
    assert gateway.get("/v1/nothing").status_code == 404
    assert gateway.get(CHAT).status_code == 405
    assert gateway.post(path="/v1/models").status_code == 405
    assert gateway.get("/").status_code == 200
    card = gateway.get("/v1/models/m").json()
    assert (card["id"], card["max_model_len"]) == ("m", 4096)


def test_bodies_over_the_limit_are_refused(start: Start) -> None:
    gateway = start()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    port = int(gateway.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"{head}Content-Length: 99999999\r\n\r\n".encode())
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(66):
                client.sendall(chunk)
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "script", [upstream.hang, upstream.stream(*sse("a"), end="hang"),
               upstream.stream(b'{"half', end="hang", kind="application/json")],
    ids=["before the first byte", "mid-stream", "not streamed"],
)  # fmt: skip
def test_a_client_that_hangs_up_ends_the_engines_work(
    behind: Behind, script: upstream.Script
) -> None:
    gateway, engine = behind(script)
    port = int(gateway.url.rpartition(":")[2])
    body = json.dumps(BODY).encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        until(lambda: engine.asked)
    assert engine.hung_up.wait(10)


def test_a_new_table_is_taken_up_and_a_broken_one_is_not(start: Start) -> None:
    gateway = start()
    assert gateway.post().status_code == 503
    with upstream.serving(upstream.answer(b"{}")) as engine:
        gateway.write(engine.url)
        until(lambda: gateway.post().status_code == 200)
        gateway.table.write_text("{ broken")
        until(lambda: gateway.get("/health").status_code == 200)
        assert gateway.post().status_code == 200
        gateway.write()
        until(lambda: gateway.post().status_code == 503)


def test_what_cannot_be_served_is_a_sentence(tmp_path: Path) -> None:
    table = tmp_path / "targets.json"

    def said(*words: str) -> str:
        words = ("--targets", str(table), *words)
        done = processes.run("lemnos.gateway", *words, env=dict(os.environ))
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    assert "cannot be read" in said("--port", "0")
    table.write_text("[]")
    assert "not valid" in said("--port", "0")
    table.write_text(table_of().model_copy(update={"version": 9}).model_dump_json())
    assert "newer lemnos" in said("--port", "0")
    write_table(table, table_of())
    assert "has no key" in said("--port", "0", "--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in said("--port", port)
